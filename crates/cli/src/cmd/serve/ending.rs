use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use compio::time::{sleep, timeout};
use dmsnap::device::Device;
use dmsnap_serve::{ORIGIN, State, View};
use futures_util::future::join_all;

use super::disk::Disk;
use crate::descriptors;
use crate::report::{Failure, tell};

/// How long devices have to end what was asked of them, once the server is to end.
const LAST_REQUESTS: Duration = Duration::from_secs(15);

/// And then to flush, those that still answer.
const LAST_FLUSHES: Duration = Duration::from_secs(30);

/// Between two messages that a client cannot be let in.
const QUIET: Duration = Duration::from_secs(10);

/// For a server that was told to end and does not, because a device hangs: flushes every device that
/// answers. Returns why the server ends all the same.
pub(super) async fn given_up(volume: &Rc<Disk>, stopping: impl Future<Output = ()>) -> Failure {
    stopping.await;
    sleep(LAST_REQUESTS).await;
    let snapshots = volume.snapshots().into_iter().filter(|it| it.state() != State::Invalid);
    let views: Vec<_> = [(ORIGIN.to_owned(), View::origin(volume))]
        .into_iter()
        .chain(snapshots.map(|it| (it.name().to_owned(), View::snapshot(volume, &it))))
        .collect();
    let left = RefCell::new(views.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let left_of = &left;
    let flushes = views.iter().map(|(name, view)| async move {
        if view.flush().await.is_ok() {
            left_of.borrow_mut().retain(|it| it != name);
        }
    });
    let _ = timeout(LAST_FLUSHES, join_all(flushes)).await;
    let left = left.take();
    let seconds = (LAST_REQUESTS + LAST_FLUSHES).as_secs();
    let found = match left.is_empty() {
        true => {
            format!("a device has not answered a request for {seconds} seconds; all was flushed")
        }
        false => {
            let names = left.join(", ");
            format!("not all durable: no answer from its device for {seconds} seconds: {names}")
        }
    };
    Failure::of("shutdown", found)
}

/// Says that clients cannot be let in, but not ten times a second.
pub(super) fn tell_refusals() -> impl Fn(&io::Error) {
    let told = Cell::new(None::<Instant>);
    move |error| {
        if descriptors::are_spent(error) && told.get().is_none_or(|then| then.elapsed() > QUIET) {
            told.set(Some(Instant::now()));
            let found = format_args!("a client has to wait outside: {error}");
            tell(Failure::of("connections", found).advise("allow more open files (ulimit -n)"));
        }
    }
}
