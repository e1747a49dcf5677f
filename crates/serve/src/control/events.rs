use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use compio::time::timeout;
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::stream::{LocalBoxStream, unfold};
use hyper::body::{Bytes, Frame};

use super::api::Status;
use super::refusal::{Code, Refusal};

/// Clients that watch at a time; there are more connections, so that others are always served.
pub(super) const WATCHERS: usize = 16;

/// After this long without a change a watcher is sent a comment: one that has gone is noticed then.
const QUIET: Duration = Duration::from_secs(10);

/// What a watcher is told: statuses that differ from the one before.
pub(super) type Changes = mpsc::Receiver<Arc<Status>>;

/// Clients that are told when the status changes.
///
/// Nothing is queued for one that does not listen: when it does again, it is told the newest status.
#[derive(Debug, Default)]
pub(super) struct Watchers(RefCell<Vec<Watcher>>);

#[derive(Debug)]
struct Watcher {
    /// Has room for one status.
    to: mpsc::Sender<Arc<Status>>,
    /// What it was told last, see [`lasting`].
    told: Status,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// One more, which is told the status of now at once.
    pub(super) fn add(&self, now: Status) -> Result<Changes, Refusal> {
        let mut watchers = self.0.borrow_mut();
        watchers.retain(|watcher| !watcher.to.is_closed());
        if watchers.len() >= WATCHERS {
            let found = format_args!("{WATCHERS} clients watch already");
            return Err(Refusal::new(Code::Busy, found));
        }
        let (mut to, changes) = mpsc::channel(0);
        let told = lasting(&now);
        // There is room for it.
        let _ = to.try_send(Arc::new(now));
        watchers.push(Watcher { to, told });
        Ok(changes)
    }

    /// Tells everyone for whom the status has changed, and who listens.
    pub(super) fn tell(&self, now: Status) {
        let (lasting, now) = (lasting(&now), Arc::new(now));
        self.0.borrow_mut().retain_mut(|watcher| {
            if watcher.told != lasting && watcher.to.try_send(now.clone()).is_ok() {
                watcher.told = lasting.clone();
            }
            !watcher.to.is_closed()
        });
    }

    /// Nobody is told anything any more.
    pub(super) fn end(&self) {
        self.0.borrow_mut().clear();
    }
}

/// A status without what time alone changes.
fn lasting(status: &Status) -> Status {
    let mut status = status.clone();
    status.seconds = 0.0;
    for snapshot in &mut status.snapshots {
        snapshot.fill_bytes_per_second = None;
        snapshot.seconds_to_full = None;
    }
    if let Some(merge) = &mut status.merge {
        merge.seconds = 0.0;
        merge.bytes_per_second = None;
        merge.seconds_left = None;
    }
    status
}

/// Where a stream stands: the next part is awaited, or was given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Waiting,
    Sending,
}

/// What is sent to a watcher: server-sent events with a status each. `turn` is told what the
/// stream waits for: the server, or its client.
pub(super) fn stream(
    changes: Changes,
    turn: impl Fn(Turn) + 'static,
) -> LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>> {
    let parts = unfold((changes, turn), |(mut changes, turn)| async move {
        turn(Turn::Waiting);
        let next = timeout(QUIET, changes.next()).await;
        turn(Turn::Sending);
        let text = match next {
            Err(_) => Bytes::from_static(b":\n\n"),
            Ok(status) => event(&*status?)?,
        };
        Some((Ok(Frame::data(text)), (changes, turn)))
    });
    parts.boxed_local()
}

/// JSON has no line breaks: it is one line of data.
fn event(status: &Status) -> Option<Bytes> {
    let json = serde_json::to_string(status).ok()?;
    Some(format!("event: status\ndata: {json}\n\n").into())
}

/// The statuses in a stream of events, as it comes in.
#[derive(Debug, Default)]
pub(super) struct Parser(Vec<u8>);

impl Parser {
    /// Takes in a part of the stream; returns how much waits for the rest of its event.
    pub(super) fn take(&mut self, part: &[u8]) -> usize {
        self.0.extend_from_slice(part);
        self.0.len()
    }

    /// The next event that is complete; `None` if there is none yet.
    pub(super) fn next(&mut self) -> Option<serde_json::Result<Status>> {
        loop {
            let end = self.0.windows(2).position(|it| it == b"\n\n")?;
            let event: Vec<u8> = self.0.drain(..end + 2).collect();
            let mut lines = event.split(|byte| *byte == b'\n');
            // A comment has no data.
            if let Some(data) = lines.find_map(|line| line.strip_prefix(b"data: ")) {
                return Some(serde_json::from_slice(data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::OriginStatus;
    use super::*;

    fn status(seconds: f64, len_bytes: u64) -> Status {
        Status {
            version: "1".into(),
            seconds,
            read_only: false,
            origin: OriginStatus { path: "a\nb".into(), len_bytes },
            snapshots: Vec::new(),
            merge: None,
            exports: Vec::new(),
        }
    }

    fn told(changes: &mut Changes) -> Option<u64> {
        changes.try_recv().ok().map(|status| status.origin.len_bytes)
    }

    #[test]
    fn a_watcher_is_told_of_changes_and_one_that_does_not_listen_only_of_the_last() {
        let watchers = Watchers::default();
        let mut changes = watchers.add(status(0.0, 1)).expect("there is room");
        assert_eq!(told(&mut changes), Some(1));
        watchers.tell(status(1.0, 1));
        assert_eq!(told(&mut changes), None, "only time has passed");
        watchers.tell(status(2.0, 2));
        // It does not listen.
        (3..9).for_each(|len_bytes| watchers.tell(status(3.0, len_bytes)));
        assert_eq!(told(&mut changes), Some(2));
        watchers.tell(status(9.0, 8));
        assert_eq!(told(&mut changes), Some(8));
        watchers.tell(status(10.0, 8));
        assert_eq!(told(&mut changes), None);
        drop(changes);
        watchers.tell(status(11.0, 8));
        assert!(watchers.is_empty(), "it has gone");
    }

    #[test]
    fn there_are_only_so_many_watchers_and_the_place_of_one_that_has_gone_is_free() {
        let watchers = Watchers::default();
        let all: Vec<_> = (0..WATCHERS).map(|_| watchers.add(status(0.0, 1))).collect();
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(watchers.add(status(0.0, 1)).expect_err("full").code, Code::Busy);
        drop(all);
        watchers.add(status(0.0, 1)).expect("there is room");
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let sent = [status(1.5, 1), status(2.5, 2)];
        let events = sent.iter().map(|it| event(it).expect("JSON")).collect::<Vec<_>>();
        let stream = [&events[0][..], b":\n\n", &events[1]].concat();
        for piece in [1, 2, 7, stream.len()] {
            let (mut parser, mut found) = (Parser::default(), Vec::new());
            for part in stream.chunks(piece) {
                parser.take(part);
                found.extend(std::iter::from_fn(|| parser.next()).map(|it| it.expect("JSON")));
            }
            assert_eq!(found, sent, "pieces of {piece}");
            assert_eq!(parser.take(b""), 0);
        }
    }
}
