use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use compio::time::{sleep, timeout};
use dmsnap::device::Device;
use dmsnap::sync::join_all;
use dmsnap::volume::{State, View, Volume};

use super::error::ServiceError;
use crate::export::ORIGIN;

/// How long devices have to end what was asked of them, once the server is to end.
const LAST_REQUESTS: Duration = Duration::from_secs(15);

/// And then to flush, those that still answer.
const LAST_FLUSHES: Duration = Duration::from_secs(30);

/// For a server that was told to end and does not, because a device hangs: flushes every device that
/// answers. Returns why the server ends all the same.
pub(super) async fn give_up<O: Device, C: Device>(
    volume: &Rc<Volume<O, C>>,
    stopping: impl Future<Output = ()>,
) -> ServiceError {
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
    let seconds = (LAST_REQUESTS + LAST_FLUSHES).as_secs();
    match left.take() {
        left if left.is_empty() => ServiceError::Unanswered { seconds },
        exports => ServiceError::Unflushed { seconds, exports },
    }
}
