use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;
use futures_util::future::{join3, select};
use futures_util::lock::Mutex;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::payload::Payload;
use super::snapshot::{Snapshot, State};
use super::{OnFull, Volume, VolumeError};
use crate::copy::{REQUEST_BYTES, all, index, joined};
use crate::device::{ALIGNMENT, Buffer, Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::{Prepared, Store, StoreError};
use crate::sync::Event;

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
    pub(super) turn: Mutex<()>,
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

    /// Lets whoever writes back look again.
    pub(super) fn notify(&self) {
        self.changed.notify();
    }

    fn bytes(&self) -> u64 {
        self.waiting.borrow().bytes + self.leaving.borrow().bytes
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.borrow().by_start.is_empty() || !self.leaving.borrow().by_start.is_empty()
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

    /// All that was acknowledged and is not with the origin yet.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let (leaving, waiting) = (self.leaving.borrow(), self.waiting.borrow());
        let stretches = leaving.by_start.iter().chain(&waiting.by_start);
        stretches.map(|stretch| *stretch.0..end_of(stretch)).collect()
    }

    /// The first stretch that ends behind `at`.
    pub(super) fn next(&self, at: u64) -> Option<Range<u64>> {
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

    /// It has left, but for what is `kept`: that waits again, under what is newer.
    fn left(&self, mut kept: Stretches) {
        self.leaving.take();
        let mut waiting = self.waiting.borrow_mut();
        if !kept.by_start.is_empty() {
            for (at, data) in std::mem::take(&mut *waiting).by_start {
                kept.put(at, data);
            }
            *waiting = kept;
        }
        drop(waiting);
        self.changed.notify();
    }

    /// True if what waits may need more than `most` chunks of this size. It is counted only where a quick
    /// guess says so.
    fn needs_more(&self, most: u64, chunk_bytes: u64) -> bool {
        let guess = |it: &Stretches| {
            let stretches = it.by_start.len() as u64;
            // One that does not begin with a chunk touches one more.
            (it.bytes - stretches * OVERHEAD_BYTES) / chunk_bytes + 2 * stretches
        };
        let touched = |it: (&u64, &Bytes)| end_of(it).div_ceil(chunk_bytes) - it.0 / chunk_bytes;
        let count = |it: &Stretches| it.by_start.iter().map(touched).sum::<u64>();
        let (waiting, leaving) = (self.waiting.borrow(), self.leaving.borrow());
        guess(&waiting) + guess(&leaving) > most && count(&waiting) + count(&leaving) > most
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
                let len = range.end - range.start;
                let made_room = || async { self.make_room(len).await && self.may_wait(&range) };
                if !self.backlog.has_room(len) && !made_room().await {
                    return self.write_now(at, Payload::Data(data)).await;
                }
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
            payload => self.write_now(at, payload).await,
        }
    }

    async fn write_now(&self, at: u64, payload: Payload) -> io::Result<()> {
        if !planted(Planted::BacklogOvertaken) {
            self.write_back_touching(&(at..at + payload.len())).await?;
        }
        self.write_origin(at, payload, None).await
    }

    /// A write waits if there is something to wait for, and if nothing can be refused later that
    /// was acknowledged now: a snapshot without room must not be one that makes the write fail. Nor does
    /// one wait while others cannot be written, so that its client is told; nor where a snapshot may be
    /// dropped for it that has room now: see [`leaves_room`](Self::leaves_room).
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
        !self.backlog.held_up.get()
            && !snapshots.iter().any(|it| it.is_unmarked())
            && valid.clone().all(|it| it.options.on_full == OnFull::Invalidate)
            && valid.clone().all(|it| !it.is_read_only() && self.leaves_room(it, range))
            && (self.backlog.touches(range) || !valid.all(|it| it.is_published(range)))
    }

    /// True if the store has room for the old data of everything that waits, and of this range. Snapshot
    /// writes leave it that room: see [`begin_own`](Self::begin_own).
    fn leaves_room(&self, snapshot: &Snapshot<C>, range: &Range<u64>) -> bool {
        let chunks = snapshot.chunks(range);
        let left = snapshot.store.room_left().checked_sub(chunks.end - chunks.start);
        let chunk_bytes = snapshot.chunk_size.bytes();
        left.is_some_and(|left| !self.backlog.needs_more(left, chunk_bytes))
            || planted(Planted::BacklogRoomTaken)
    }

    /// Gives out a chunk for a write to the snapshot itself, as [`begin`](Snapshot::begin) does, but none
    /// that old data of origin writes may need which came before. If there is no other, those are written
    /// first, unless the caller `holds` chunks: they may wait for them.
    pub(super) async fn begin_own(
        &self,
        snapshot: &Snapshot<C>,
        old: u64,
        holds: bool,
    ) -> Result<Option<Prepared>, StoreError> {
        let chunk = old * snapshot.chunk_size.bytes();
        while self.backlog.is_waiting() && !self.leaves_room(snapshot, &(chunk..chunk + 1)) {
            if holds || self.write_back().await.is_err() {
                return Err(StoreError::Full);
            }
        }
        snapshot.begin(old).await
    }

    /// False if what waits cannot be written, and leaves no room.
    async fn make_room(&self, len: u64) -> bool {
        while !self.backlog.has_room(len) {
            let _turn = self.backlog.turn.lock().await;
            if !self.backlog.has_room(len) && self.write_back_round().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Writes back if something waits that touches `range`.
    pub(super) async fn write_back_touching(&self, range: &Range<u64>) -> io::Result<()> {
        match self.backlog.touches(range) {
            true => Ok(self.write_back().await?),
            false => Ok(()),
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
    /// What finds no room on the origin, or whose old data cannot be read, goes on waiting, and every
    /// flush of the origin fails until it is written. What the origin refuses is lost, as with any disk's
    /// cache, and no later flush of the origin succeeds.
    ///
    /// # Errors
    ///
    /// Why something waits on, or was lost.
    pub async fn write_back(&self) -> Result<(), VolumeError> {
        let _turn = self.backlog.turn.lock().await;
        Ok(self.write_back_round().await?)
    }

    async fn write_back_round(&self) -> io::Result<()> {
        let lot = self.backlog.leave();
        let (mut ended, mut kept) = (Ok(()), Stretches::default());
        if !lot.is_empty() && self.write_lot(&lot).await.is_err() {
            // Only what cannot be written shall be kept or lost, not its whole group.
            for (at, data) in lot {
                let range = at..at + data.len() as u64;
                let protected = self.protect(std::slice::from_ref(&range), None).await;
                let is_read = protected.is_ok();
                let written = match protected {
                    Ok(()) => self.write_protected(at, vec![data.clone()]).await,
                    unread => unread,
                };
                match &written {
                    Ok(()) => {}
                    Err(_) if planted(Planted::BacklogForgets) => {}
                    Err(error) if is_read && !is_no_room(error) => self.origin_barrier.fail(),
                    Err(_) => kept.put(at, data),
                }
                ended = ended.and(written);
            }
        }
        self.backlog.held_up.set(!kept.by_start.is_empty());
        if self.backlog.held_up.get() {
            self.backlog.since.set(self.ticks.get());
        }
        self.backlog.left(kept);
        ended
    }

    /// Writes to the origin what every snapshot has an exception for.
    async fn write_protected(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        self.origin_reads.wait_clear(at..at + len as u64).await;
        self.origin.write_vectored(at, pieces).await
    }

    async fn write_lot(&self, lot: &[(u64, Bytes)]) -> io::Result<()> {
        let ranges: Vec<_> = lot.iter().map(|(at, data)| *at..at + data.len() as u64).collect();
        if !planted(Planted::BacklogUnprotected) {
            self.protect(&ranges, None).await?;
        }
        let writes = joined(lot.to_vec(), REQUEST_BYTES).into_iter();
        let writes = writes.map(|(at, pieces, _)| self.write_protected(at, pieces));
        all(WRITES, writes).await
    }

    /// Writes back what waits, when it has become much or a tick old, and publishes what was written to
    /// a snapshot when that has become much, until `stop` is ready. For whoever serves a volume, beside
    /// the clients: without it a client does that work for all, when there is no room or at a flush. What
    /// fails here is told to the next flush. A COW device that hangs holds up its own publish only.
    pub async fn run_write_back(&self, stop: impl Future<Output = ()>) {
        let stopped = Cell::new(false);
        let stopping = async {
            stop.await;
            stopped.set(true);
            self.backlog.notify();
        };
        join3(stopping, self.write_back_until(&stopped), self.publish_until(&stopped)).await;
    }

    async fn write_back_until(&self, stopped: &Cell<bool>) {
        let due = || {
            let since = self.backlog.since.get();
            let is_waiting = !self.backlog.waiting.borrow().by_start.is_empty();
            let is_a_lot = self.backlog.is_a_lot() && !self.backlog.held_up.get();
            is_waiting && (is_a_lot || since < self.ticks.get())
        };
        loop {
            self.backlog.changed.wait_until(|| stopped.get() || due()).await;
            if stopped.get() {
                return;
            }
            let _told_to_the_next_flush = self.write_back().await;
        }
    }

    async fn publish_until(&self, stopped: &Cell<bool>) {
        let much = || self.snapshots.borrow().iter().find(|it| it.is_much_unpublished()).cloned();
        let mut under_way = FuturesUnordered::new();
        while !stopped.get() {
            if let Some(snapshot) = much() {
                // Not found again before as much has come again.
                snapshot.tried_to_publish();
                under_way.push(async move {
                    let _told_to_the_next_flush = self.flush_snapshot(&snapshot).await;
                    snapshot.tried_to_publish();
                });
                continue;
            }
            let waits = pin!(self.backlog.changed.wait_until(|| stopped.get() || much().is_some()));
            if under_way.is_empty() {
                waits.await;
            } else {
                let _whichever = select(waits, under_way.next()).await;
            }
        }
        // Every publish is driven to its end.
        under_way.collect::<()>().await;
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
