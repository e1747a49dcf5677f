use std::cell::{Cell, RefCell};
use std::ops::Range;

use bytes::Bytes;
use futures_util::lock::{Mutex, MutexGuard};

use super::stretches::{OVERHEAD_BYTES, Stretches};
use crate::sync::Event;

/// A longer write is not held back: it is a group by itself. In bytes.
const LONGEST_BYTES: u64 = 256 << 10;

/// Origin writes that were acknowledged and are held back, in memory, for others to share a publish with.
///
/// It is a volatile cache, as a disk has one: a power cut may take what is in it until a flush has
/// been acknowledged, and every flush empties it first. Reads of the origin see it; reads of
/// snapshots do not, because for them the origin has not changed yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The most memory it takes, in bytes; with 0 nothing is held back.
    most_bytes: Cell<u64>,
    waiting: RefCell<Stretches>,
    /// On their way to the origin. What waits is newer.
    leaving: RefCell<Stretches>,
    /// Held by the call that writes back.
    turn: Mutex<()>,
    /// The tick at which the oldest stretch that waits came, or could not be written.
    since: Cell<u64>,
    /// What waits could not be written the last time.
    held_up: Cell<bool>,
    changed: Event,
}

impl Backlog {
    pub(super) fn allow(&self, most_bytes: u64) {
        self.most_bytes.set(most_bytes);
    }

    /// Lets the task that writes back look again.
    pub(super) fn notify(&self) {
        self.changed.notify();
    }

    /// Returns when `holds` does. It is asked at once, and again after each [`notify`](Self::notify).
    pub(super) async fn wait_until(&self, holds: impl FnMut() -> bool) {
        self.changed.wait_until(holds).await;
    }

    /// Keeps others from writing back.
    pub(super) fn turn(&self) -> impl Future<Output = MutexGuard<'_, ()>> + Unpin {
        self.turn.lock()
    }

    fn bytes(&self) -> u64 {
        self.waiting.borrow().memory_bytes() + self.leaving.borrow().memory_bytes()
    }

    /// False if nothing is held back.
    pub(super) fn holds_any(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.leaving.borrow().is_empty()
    }

    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        self.waiting.borrow().touches(range) || self.leaving.borrow().touches(range)
    }

    /// True if a write of this many bytes may ever be held back. Nor may one while others cannot be written,
    /// so that its client is told.
    pub(super) fn takes(&self, len: u64) -> bool {
        let fits = len <= LONGEST_BYTES && len + OVERHEAD_BYTES <= self.most_bytes.get();
        len > 0 && fits && !self.held_up.get()
    }

    pub(super) fn has_room(&self, len: u64) -> bool {
        self.bytes() + len + OVERHEAD_BYTES <= self.most_bytes.get()
    }

    /// Holds a write back that came at tick `now`.
    pub(super) fn put(&self, at: u64, data: Bytes, now: u64) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            self.since.set(now);
        }
        waiting.put(at, data);
        drop(waiting);
        if self.fills_group() {
            self.notify();
        }
    }

    /// Enough waits for a group of its own.
    fn fills_group(&self) -> bool {
        self.waiting.borrow().memory_bytes() >= self.most_bytes.get() / 4
    }

    /// True if what waits should be written back, at tick `now`.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let is_waiting = !self.waiting.borrow().is_empty();
        let fills_group = self.fills_group() && !self.held_up.get();
        is_waiting && (fills_group || self.since.get() < now)
    }

    /// What reads of this range have to see instead of the origin's data, oldest first.
    pub(super) fn over(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let mut over = self.leaving.borrow().within(range);
        over.extend(self.waiting.borrow().within(range));
        over
    }

    /// All that was acknowledged and is not with the origin yet.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let (leaving, waiting) = (self.leaving.borrow(), self.waiting.borrow());
        let stretches = leaving.iter().chain(waiting.iter());
        stretches.map(|(at, data)| at..at + data.len() as u64).collect()
    }

    /// The first stretch that ends after `at`.
    pub(super) fn next(&self, at: u64) -> Option<Range<u64>> {
        let (leaving, waiting) = (self.leaving.borrow(), self.waiting.borrow());
        [leaving.next(at), waiting.next(at)].into_iter().flatten().min_by_key(|it| it.start)
    }

    /// Everything that waits leaves from now on.
    pub(super) fn leave(&self) -> Vec<(u64, Bytes)> {
        let mut leaving = self.leaving.borrow_mut();
        // Usually nothing is left of the round before.
        leaving.put_all(self.waiting.take());
        leaving.iter().map(|(at, data)| (at, data.clone())).collect()
    }

    /// It has left, at tick `now`, but for what is `kept`: that waits again, under what is newer.
    pub(super) fn left(&self, mut kept: Stretches, now: u64) {
        self.held_up.set(!kept.is_empty());
        if self.held_up.get() {
            self.since.set(now);
        }
        self.leaving.take();
        if !kept.is_empty() {
            kept.put_all(self.waiting.take());
            self.waiting.replace(kept);
        }
        self.changed.notify();
    }

    /// True if what is held back may need more than `most` chunks of this size. It is counted only where a
    /// quick guess says so.
    pub(super) fn needs_more(&self, most: u64, chunk_bytes: u64) -> bool {
        let (waiting, leaving) = (self.waiting.borrow(), self.leaving.borrow());
        waiting.most_chunks(chunk_bytes) + leaving.most_chunks(chunk_bytes) > most
            && waiting.chunks(chunk_bytes) + leaving.chunks(chunk_bytes) > most
    }
}
