use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;
use futures_util::future::{Either, select};
use futures_util::lock::Mutex;

use super::event::Event;
use super::payload::Payload;
use super::snapshot::State;
use super::window::{REQUEST_BYTES, all, index, joined};
use super::{OnFull, Volume};
use crate::device::{ALIGNMENT, Buffer, Device};
use crate::planted::{Planted, planted};

/// A longer write does not wait: it is a group by itself. In bytes.
const LONGEST: u64 = 256 << 10;

/// Writes to the origin in flight.
const WRITES: usize = 64;

/// Memory that a stretch takes besides its data: what aligns it, and its place in the tree.
const OVERHEAD_BYTES: u64 = ALIGNMENT as u64 + 128;

/// Origin writes that were acknowledged and wait, in memory, for others to share a publish with.
///
/// It is a volatile cache, as a disk has one: a power cut may take what is in it until a flush has
/// been acknowledged, and every flush empties it first. Reads of the origin see it; reads of
/// snapshots do not, because for them the origin has not changed yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The most memory it takes, in bytes; with 0 nothing waits.
    most_bytes: Cell<u64>,
    waiting: RefCell<Stretches>,
    /// On their way to the origin. What waits is newer.
    leaving: RefCell<Stretches>,
    /// Held by whoever writes it back.
    turn: Mutex<()>,
    /// The tick at which the oldest stretch that waits came.
    since: Cell<u64>,
    changed: Event,
}

impl Backlog {
    pub(super) fn allow(&self, most_bytes: u64) {
        self.most_bytes.set(most_bytes);
    }

    /// Lets whoever writes back look again.
    pub(super) fn notify(&self) {
        self.changed.notify();
    }

    fn bytes(&self) -> u64 {
        self.waiting.borrow().bytes + self.leaving.borrow().bytes
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.waiting.borrow().touches(range) || self.leaving.borrow().touches(range)
    }

    fn has_room(&self, len: u64) -> bool {
        self.bytes() + len + OVERHEAD_BYTES <= self.most_bytes.get()
    }

    /// Enough for a group of its own.
    fn is_a_lot(&self) -> bool {
        self.waiting.borrow().bytes >= self.most_bytes.get() / 4
    }

    /// What reads of this range have to see instead of the origin's data, oldest first.
    fn over(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let mut over = self.leaving.borrow().within(range);
        over.extend(self.waiting.borrow().within(range));
        over
    }

    /// The first stretch that ends behind `at`.
    fn next(&self, at: u64) -> Option<Range<u64>> {
        let (leaving, waiting) = (self.leaving.borrow(), self.waiting.borrow());
        [leaving.next(at), waiting.next(at)].into_iter().flatten().min_by_key(|it| it.start)
    }

    /// Everything that waits leaves from now on.
    fn leave(&self) -> Vec<(u64, Bytes)> {
        let mut leaving = self.leaving.borrow_mut();
        // Usually nothing is left of the round before.
        for (at, data) in std::mem::take(&mut *self.waiting.borrow_mut()).by_start {
            leaving.put(at, data);
        }
        leaving.by_start.iter().map(|(at, data)| (*at, data.clone())).collect()
    }

    fn left(&self) {
        self.leaving.take();
        self.changed.notify();
    }
}

impl<O: Device, C: Device> Volume<O, C> {
    /// Writes to the origin: at once, or later and together with others if some snapshot has to
    /// keep old data first.
    ///
    /// # Ordering
    ///
    /// A write that waits is in memory only. See [`write_back`](Self::write_back) for what happens
    /// to it, always before a flush of the origin is acknowledged. One that does not wait, and
    /// touches what does, is written after it.
    pub(super) async fn accept(&self, at: u64, payload: Payload) -> io::Result<()> {
        let range = at..at + payload.len();
        match payload {
            Payload::Data(data) if self.may_wait(&range) => {
                self.make_room(range.end - range.start).await;
                let mut waiting = self.backlog.waiting.borrow_mut();
                if waiting.by_start.is_empty() {
                    self.backlog.since.set(self.ticks.get());
                }
                waiting.put(at, data);
                drop(waiting);
                if self.backlog.is_a_lot() {
                    self.backlog.notify();
                }
                Ok(())
            }
            payload => {
                if !planted(Planted::BacklogOvertaken) {
                    self.write_back_touching(&range).await;
                }
                self.write_origin(at, payload, None).await
            }
        }
    }

    /// A write waits if there is something to wait for, and if nothing can be refused later that
    /// was acknowledged now: a snapshot without room must not be one that makes the write fail.
    fn may_wait(&self, range: &Range<u64>) -> bool {
        let len = range.end - range.start;
        if len == 0 || len > LONGEST || len + OVERHEAD_BYTES > self.backlog.most_bytes.get() {
            return false;
        }
        // A sector must not be cut in two: the halves would reach the medium one without the other.
        if !range.start.is_multiple_of(SECTOR_BYTES) || !range.end.is_multiple_of(SECTOR_BYTES) {
            return false;
        }
        let snapshots = self.snapshots.borrow();
        let mut valid = snapshots.iter().filter(|it| it.state() != State::Invalid);
        valid.clone().all(|it| it.options.on_full == OnFull::Invalidate && !it.is_read_only())
            && (self.backlog.touches(range) || !valid.all(|it| it.is_published(range)))
    }

    async fn make_room(&self, len: u64) {
        while !self.backlog.has_room(len) {
            let _turn = self.backlog.turn.lock().await;
            if !self.backlog.has_room(len) {
                self.write_back_round().await;
            }
        }
    }

    /// Writes back if something waits that touches `range`.
    pub(super) async fn write_back_touching(&self, range: &Range<u64>) {
        if self.backlog.touches(range) {
            self.write_back().await;
        }
    }

    /// Brings every origin write that was acknowledged before the call to the origin.
    ///
    /// # Ordering
    ///
    /// 1. old data of all that waits to every snapshot that needs it   - in large requests
    /// 2. publish those exceptions: flush, slots, flush                - once for all
    /// 3. write the origin
    ///
    /// A crash before 3 leaves the origin as it was, and exceptions that hold the same; a crash in 3
    /// any part of the new data, while every snapshot has the old. Until 3 has ended reads of the origin
    /// see the new data in memory.
    ///
    /// What cannot be written is lost, as with any disk's cache, and no later flush of the origin
    /// succeeds.
    pub async fn write_back(&self) {
        let _turn = self.backlog.turn.lock().await;
        self.write_back_round().await;
    }

    async fn write_back_round(&self) {
        let lot = self.backlog.leave();
        if !lot.is_empty() && self.write_lot(&lot).await.is_err() {
            // Only what cannot be written shall be lost, not its whole group.
            for (at, data) in lot {
                if self.write_origin(at, Payload::Data(data), None).await.is_err() {
                    self.origin_barrier.fail();
                }
            }
        }
        self.backlog.left();
    }

    async fn write_lot(&self, lot: &[(u64, Bytes)]) -> io::Result<()> {
        let ranges: Vec<_> = lot.iter().map(|(at, data)| *at..at + data.len() as u64).collect();
        if !planted(Planted::BacklogUnprotected) {
            self.protect(&ranges, None).await?;
        }
        let writes =
            joined(lot.to_vec(), REQUEST_BYTES).into_iter().map(|(at, pieces, len)| async move {
                self.origin_reads.wait_clear(at..at + len).await;
                self.origin.write_vectored(at, pieces).await
            });
        all(WRITES, writes).await
    }

    /// Writes back what waits, when it has become much or a tick old, and publishes what was written to
    /// a snapshot when that has become much, until `stop` is ready. For whoever serves a volume, beside
    /// the clients: without it a client does that work for all, when there is no room or at a flush. What
    /// fails here is told to the next flush.
    pub async fn run_write_back(&self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let much = || self.snapshots.borrow().iter().find(|it| it.is_much_unpublished()).cloned();
        let due = || {
            let since = self.backlog.since.get();
            let is_waiting = !self.backlog.waiting.borrow().by_start.is_empty();
            is_waiting && (self.backlog.is_a_lot() || since < self.ticks.get()) || much().is_some()
        };
        loop {
            let waits = pin!(self.backlog.changed.wait_until(due));
            if let Either::Right(_) = select(waits, stop.as_mut()).await {
                return;
            }
            if let Some(snapshot) = much() {
                let _told_to_the_next_flush = self.flush_snapshot(&snapshot).await;
                snapshot.tried_to_publish();
            }
            self.write_back().await;
        }
    }

    /// Reads the origin as its clients see it.
    pub(super) async fn read_origin(&self, at: u64, len: usize) -> io::Result<Buffer> {
        // What waits now is taken before the read begins: it may leave meanwhile.
        let over = self.backlog.over(&(at..at + len as u64));
        let mut read = self.origin.read(at, len).await?;
        for (start, data) in over.into_iter().filter(|_| !planted(Planted::BacklogUnseen)) {
            let offset = index(start - at);
            read[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(read)
    }

    /// The next stretch at or after `at` that may hold something else than zeroes.
    pub(super) async fn next_origin_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let waiting = self.backlog.next(at).map(|it| it.start.max(at)..it.end);
        let below = self.origin.next_data(at).await?;
        Ok([waiting, below].into_iter().flatten().min_by_key(|it| it.start))
    }
}

/// Data at places, none over another.
#[derive(Debug, Default)]
struct Stretches {
    by_start: BTreeMap<u64, Bytes>,
    /// The memory they take.
    bytes: u64,
}

fn end_of((start, data): (&u64, &Bytes)) -> u64 {
    start + data.len() as u64
}

impl Stretches {
    /// Puts data over whatever is there.
    fn put(&mut self, at: u64, data: Bytes) {
        let end = at + data.len() as u64;
        let before = self.by_start.range(..at).next_back().filter(|it| end_of(*it) > at);
        let covered: Vec<u64> = before
            .map(|(start, _)| *start)
            .into_iter()
            .chain(self.by_start.range(at..end).map(|(start, _)| *start))
            .collect();
        for start in covered {
            let Some(old) = self.by_start.remove(&start) else { continue };
            self.bytes -= old.len() as u64 + OVERHEAD_BYTES;
            let old_end = start + old.len() as u64;
            // What stays is copied: it must not keep the memory of the whole.
            if start < at {
                self.insert(start, Buffer::copy_of(&old[..index(at - start)]).freeze());
            }
            if old_end > end {
                self.insert(end, Buffer::copy_of(&old[index(end - start)..]).freeze());
            }
        }
        self.insert(at, data);
    }

    fn insert(&mut self, at: u64, data: Bytes) {
        self.bytes += data.len() as u64 + OVERHEAD_BYTES;
        self.by_start.insert(at, data);
    }

    /// The first that ends behind `at`.
    fn next(&self, at: u64) -> Option<Range<u64>> {
        let before = self.by_start.range(..=at).next_back().filter(|it| end_of(*it) > at);
        let next = before.or_else(|| self.by_start.range(at..).next());
        next.map(|it| *it.0..end_of(it))
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.next(range.start).is_some_and(|next| next.start < range.end)
    }

    /// The parts inside a range.
    fn within(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let Some(first) = self.next(range.start) else { return Vec::new() };
        let parts = self.by_start.range(first.start..range.end.max(first.start));
        parts
            .map(|(start, data)| {
                let (from, to) =
                    (range.start.max(*start), range.end.min(start + data.len() as u64));
                (from, data.slice(index(from - start)..index(to - start)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random writes over each other against a plain array.
    #[test]
    fn stretches_hold_what_was_put_last() {
        const LEN: usize = 200;
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut below = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % end
        };
        for _ in 0..200 {
            let (mut stretches, mut plain) = (Stretches::default(), [None; LEN]);
            for n in 0..30_u8 {
                let at = below(LEN as u64 - 1);
                let len = 1 + below((LEN as u64 - at).min(40));
                stretches.put(at, Bytes::from(vec![n; index(len)]));
                plain[index(at)..index(at + len)].fill(Some(n));
                let from = below(LEN as u64 - 1);
                let range = from..from + 1 + below(LEN as u64 - from);
                let mut seen = [None; LEN];
                for (start, data) in stretches.within(&range) {
                    for (n, byte) in data.iter().enumerate() {
                        assert_eq!(seen[index(start) + n].replace(*byte), None, "twice");
                    }
                }
                let inside = index(range.start)..index(range.end);
                assert_eq!(seen[inside.clone()], plain[inside.clone()]);
                let any = plain[inside].iter().any(Option::is_some);
                assert_eq!(stretches.touches(&range), any, "{range:?}");
            }
            let memory = stretches.by_start.values().map(|it| it.len() as u64 + OVERHEAD_BYTES);
            assert_eq!(stretches.bytes, memory.sum::<u64>());
        }
    }
}
