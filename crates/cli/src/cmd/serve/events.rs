use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use dmsnap::device::AnyDevice;
use dmsnap_serve::control::{Controller, OriginStatus};
use dmsnap_serve::{MergeEnd, ServiceError, ServiceEvent};
use sd_notify::NotifyState;

use super::listening::notify;
use super::opener::FileOpener;
use crate::cmd::status;
use crate::descriptors;
use crate::report::{Failure, tell};
use crate::signals::Asked;
use crate::size::Bytes;

/// Between two messages that a client cannot be let in.
const QUIET: Duration = Duration::from_secs(10);

/// Says what a server has to tell while it runs.
pub(super) fn tell_events() -> impl Fn(ServiceEvent<'_>) {
    let refusals = tell_refusals();
    move |event| match event {
        ServiceEvent::ClientRefused(error) => refusals(error),
        ServiceEvent::Stopping => notify(NotifyState::Stopping),
        ServiceEvent::Dropped { snapshot } => {
            tell(format_args!("{snapshot}: dropped: its store is full or its COW device failed"));
        }
        ServiceEvent::WayBackLost { snapshot, way_back } => tell(format_args!(
            "{snapshot}: its merge can no longer be taken back: {way_back} was dropped"
        )),
        ServiceEvent::Unmarked { snapshot } => tell(format_args!(
            "{snapshot}: its COW device does not take the mark that it was dropped; tried again every \
             second. Origin writes that need it fail until then, or until it is taken out by \
             `dmsnap ctl snapshot remove`: its store says that it is valid"
        )),
        ServiceEvent::Marked { snapshot } => {
            tell(format_args!("{snapshot}: its store is marked as dropped now"));
        }
        ServiceEvent::OriginChanged { change } => {
            let found = format_args!("warning: {change}, while it is served");
            tell(Failure::of("origin", found).advise("what overlays show of it may be a mixture"));
        }
        ServiceEvent::OriginNotWritten { found } => {
            tell(Failure::of("origin", format_args!("a write to it was refused: {found}")));
        }
        ServiceEvent::MergeEnded { snapshot, end: MergeEnd::Finished } => {
            tell(format_args!("{snapshot}: merged"));
        }
        // What goes wrong with a merge is told; clients are served all the same.
        ServiceEvent::MergeEnded { snapshot, end: MergeEnd::Failed(error) } => {
            tell(format_args!("{snapshot}: the merge has stopped: {error}"));
        }
        ServiceEvent::MergeLeft { snapshot, exceptions } => tell(format_args!(
            "{snapshot}: {exceptions} exceptions left; dmsnap merge goes on with them"
        )),
        _ => {}
    }
}

/// Says that clients cannot be let in, but not ten times a second.
fn tell_refusals() -> impl Fn(&io::Error) {
    let told = Cell::new(None::<Instant>);
    move |error| {
        if descriptors::are_spent(error) && told.get().is_none_or(|then| then.elapsed() > QUIET) {
            told.set(Some(Instant::now()));
            let found = format_args!("a client has to wait outside: {error}");
            tell(Failure::of("connections", found).advise("allow more open files (ulimit -n)"));
        }
    }
}

/// Why a server has not run, or not ended well.
pub(super) fn failure(error: &ServiceError) -> Failure {
    match error {
        ServiceError::Timer(error) => {
            Failure::of("timer", format_args!("cannot be created: {error}"))
        }
        _ => Failure::of("shutdown", error),
    }
}

/// Says how everything is, as often as somebody asks.
pub(super) async fn tell_when_asked(
    asked: &Asked,
    controller: &Controller<AnyDevice, AnyDevice, FileOpener>,
) -> Infallible {
    loop {
        asked.next().await;
        let all = controller.status();
        let OriginStatus { path, len_bytes, .. } = &all.origin;
        tell(Failure::of(&format!("origin {path}"), Bytes(*len_bytes)));
        for snapshot in &all.snapshots {
            tell(status::snapshot_line(snapshot));
        }
        if let Some(merge) = &all.merge {
            tell(status::merge_line(merge));
        }
    }
}
