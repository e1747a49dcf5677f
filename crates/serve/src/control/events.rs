use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use compio::time::{sleep, timeout};
use dmsnap::sync::{Event, Signal};
use dmsnap::volume::Changes;
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::select;
use futures_util::stream::{LocalBoxStream, unfold};
use hyper::body::{Bytes, Frame};

use super::api::Status;
use super::refusal::{Code, Refusal};

/// Clients that watch at a time; there are more connections, so that others are always served.
pub(super) const WATCHERS: usize = 16;

/// After this long without a change a watcher is sent a comment: one that has gone is noticed then.
const QUIET: Duration = Duration::from_secs(10);

/// Between two statuses for a watcher, at least. The thread that speaks HTTP waits, not the volume's.
const PAUSE: Duration = Duration::from_millis(100);

/// What a watcher is sent: statuses that differ from the one before.
pub(super) type Statuses = mpsc::Receiver<Box<Status>>;

/// Clients that are sent the status when it changes. Each has a task on the volume's thread.
///
/// Nothing is queued for one that does not read, and no status is made for it: when it reads again, it is
/// sent the newest.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    count: Cell<usize>,
    looks: Cell<u64>,
    looked: Event,
    over: Signal,
}

/// The sender of one watcher's statuses; its place among the watchers is free when it is dropped.
pub(super) struct Watcher {
    watchers: Rc<Watchers>,
    /// Has room for one status.
    to: mpsc::Sender<Box<Status>>,
}

impl Watchers {
    /// One more, and what it will be sent.
    pub(super) fn add(self: &Rc<Self>) -> Result<(Watcher, Statuses), Refusal> {
        if self.count.get() >= WATCHERS {
            let found = format_args!("{WATCHERS} clients watch already");
            return Err(Refusal::new(Code::Busy, found));
        }
        self.count.set(self.count.get() + 1);
        let (to, statuses) = mpsc::channel(0);
        Ok((Watcher { watchers: self.clone(), to }, statuses))
    }

    /// The status may have changed in something that the volume does not count.
    pub(super) fn look(&self) {
        self.looks.set(self.looks.get() + 1);
        self.looked.notify();
    }

    /// Nobody is sent anything any more.
    pub(super) fn end(&self) {
        self.over.raise();
    }
}

impl Watcher {
    /// Sends the status of now, and then one after each change, until the client has gone or all is over.
    pub(super) async fn run(mut self, changes: &Changes, status: impl Fn() -> Status) {
        let watchers = self.watchers.clone();
        select(pin!(watchers.over.wait()), pin!(self.send(changes, status))).await;
    }

    async fn send(&mut self, changes: &Changes, status: impl Fn() -> Status) {
        let mut sent = None;
        // Without this there would be no status after the first for a client that does not read.
        while poll_fn(|context| self.to.poll_ready(context)).await.is_ok() {
            let (generation, looks) = (changes.generation(), self.watchers.looks.get());
            let now = status();
            let lasting = lasting(&now);
            if sent.as_ref() != Some(&lasting) {
                sent = Some(lasting);
                // It has gone: noticed at the next turn.
                let _ = self.to.try_send(Box::new(now));
                continue;
            }
            let look = self.watchers.looked.wait_until(|| self.watchers.looks.get() > looks);
            select(pin!(changes.wait_after(generation)), pin!(look)).await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.count.set(self.watchers.count.get() - 1);
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
    statuses: Statuses,
    turn: impl Fn(Turn) + 'static,
) -> LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>> {
    let parts = unfold((statuses, turn, false), |(mut statuses, turn, again)| async move {
        turn(Turn::Waiting);
        if again {
            sleep(PAUSE).await;
        }
        let next = timeout(QUIET, statuses.next()).await;
        turn(Turn::Sending);
        let text = match next {
            Err(_) => Bytes::from_static(b":\n\n"),
            Ok(status) => event(&*status?)?,
        };
        Some((Ok(Frame::data(text)), (statuses, turn, true)))
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
    use dmsnap::device::Memory;
    use dmsnap::volume::Volume;
    use futures_util::FutureExt;

    use super::super::api::OriginStatus;
    use super::*;

    fn status(seconds: f64, len_bytes: u64) -> Status {
        Status {
            version: "1".into(),
            seconds,
            read_only: false,
            origin: OriginStatus {
                path: "a\nb".into(),
                len_bytes,
                read_only: false,
                changed: None,
            },
            snapshots: Vec::new(),
            merge: None,
            exports: Vec::new(),
        }
    }

    fn told(statuses: &mut Statuses) -> Option<u64> {
        statuses.try_recv().ok().map(|status| status.origin.len_bytes)
    }

    #[test]
    fn a_watcher_is_told_of_changes_and_one_that_does_not_read_only_of_the_last() {
        let volume: Volume<Memory, Memory> = Volume::new(Memory::zeroed(512)).expect("a size");
        let (watchers, now, made) =
            (Rc::new(Watchers::default()), Cell::new((0.0, 1)), Cell::new(0));
        let (watcher, mut statuses) = watchers.add().expect("there is room");
        let mut run = pin!(watcher.run(volume.changes(), || {
            made.set(made.get() + 1);
            status(now.get().0, now.get().1)
        }));
        // Whether it goes on.
        let mut change = |seconds, len_bytes| {
            now.set((seconds, len_bytes));
            watchers.look();
            run.as_mut().now_or_never().is_none()
        };
        assert!(change(0.0, 1));
        assert_eq!(told(&mut statuses), Some(1));
        assert!(change(1.0, 1));
        assert_eq!(told(&mut statuses), None, "only time has passed");
        assert!(change(2.0, 2));
        let before = made.get();
        assert!((3..9).all(|len_bytes| change(3.0, len_bytes)));
        assert_eq!(made.get(), before, "no status is made for a client that does not read");
        assert_eq!(told(&mut statuses), Some(2));
        assert!(change(9.0, 8));
        assert_eq!(told(&mut statuses), Some(8));
        assert!(change(10.0, 8));
        assert_eq!(told(&mut statuses), None);
        drop(statuses);
        assert!(!change(11.0, 8), "it has gone");
    }

    #[test]
    fn nobody_is_told_anything_after_the_end() {
        let volume: Volume<Memory, Memory> = Volume::new(Memory::zeroed(512)).expect("a size");
        let watchers = Rc::new(Watchers::default());
        let (watcher, mut statuses) = watchers.add().expect("there is room");
        watchers.end();
        let ended = watcher.run(volume.changes(), || status(0.0, 1)).now_or_never();
        assert!(ended.is_some() && statuses.try_recv().is_err());
        assert_eq!(watchers.count.get(), 0);
    }

    #[test]
    fn there_are_only_so_many_watchers_and_the_place_of_one_that_has_gone_is_free() {
        let watchers = Rc::new(Watchers::default());
        let all: Vec<_> = (0..WATCHERS).map(|_| watchers.add()).collect();
        assert!(all.iter().all(Result::is_ok));
        let Err(refusal) = watchers.add() else { panic!("one too many") };
        assert_eq!(refusal.code, Code::Busy);
        drop(all);
        assert!(watchers.add().is_ok(), "there is room");
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
