use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;

use super::backlog::Backlog;
use super::clock::Clock;
use super::options::OnFull;
use super::payload::Payload;
use super::protect::Protect;
use super::snapshot::Snapshot;
use super::standing::State;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Prepared, Store, StoreError};

/// Everything that changes the origin, which no snapshot notices.
pub(super) struct OriginWrites<'a, O, C> {
    pub(super) protect: Protect<'a, O, C>,
    pub(super) clock: &'a Clock,
}

impl<O: Device, C: Device> OriginWrites<'_, O, C> {
    fn backlog(&self) -> &Backlog {
        self.protect.origin.backlog()
    }

    /// Writes to the origin, which no snapshot notices. `merging` is the snapshot that merges, if
    /// one does: what has no exception in it belongs to the origin.
    ///
    /// # Ordering
    ///
    /// 1. for every snapshot without an exception: old data to a new chunk of its COW device
    /// 2. publish those exceptions: flush, slots, flush   - shared with other writes of the moment
    /// 3. write the origin
    ///
    /// A crash before 3 leaves the origin as it was, and exceptions that hold the same.
    pub(super) async fn write(
        &self,
        at: u64,
        payload: Payload,
        merging: Option<&Rc<Snapshot<C>>>,
    ) -> io::Result<()> {
        let range = at..at + payload.len();
        self.protect.all_but(merging, std::slice::from_ref(&range)).await?;
        self.protect.origin.write_kept(at, payload).await
    }

    /// Discards a stretch of the origin, in the same order as a [write](Self::write).
    pub(super) async fn discard(
        &self,
        at: u64,
        len: u64,
        merging: Option<&Rc<Snapshot<C>>>,
    ) -> io::Result<()> {
        self.protect.origin.claim().await?;
        let range = at..at + len;
        self.write_back_touching(&range).await?;
        self.protect.all_but(merging, std::slice::from_ref(&range)).await?;
        self.protect.origin.discard_kept(at, len).await
    }

    /// Writes to the origin: at once, or later and together with others if some snapshot has to
    /// keep old data first.
    ///
    /// # Ordering
    ///
    /// A write that waits is in memory only. See [`Volume::write_back`](super::Volume::write_back) for what
    /// happens to it, always before a flush of the origin is acknowledged. One that does not wait, and
    /// touches what does, is written after it.
    ///
    /// An origin that others have open is [claimed](crate::device::Device::claim) first: nothing is acknowledged, and
    /// no old data kept, for a write that is refused.
    pub(super) async fn accept(&self, at: u64, payload: Payload) -> io::Result<()> {
        self.protect.origin.claim().await?;
        let range = at..at + payload.len();
        match payload {
            Payload::Data(data) if self.may_wait(&range) => self.hold_back(range, data).await,
            payload => self.write_now(at, payload).await,
        }
    }

    async fn hold_back(&self, range: Range<u64>, data: Bytes) -> io::Result<()> {
        let (at, len) = (range.start, range.end - range.start);
        let origin = self.protect.origin;
        let made_room = || async {
            origin.make_room(len, self.clock, self.keep()).await && self.may_wait(&range)
        };
        if !self.backlog().has_room(len) && !made_room().await {
            return self.write_now(at, Payload::Data(data)).await;
        }
        self.backlog().put(at, data, self.clock.now());
        Ok(())
    }

    async fn write_now(&self, at: u64, payload: Payload) -> io::Result<()> {
        if !planted(Planted::BacklogOvertaken) {
            self.write_back_touching(&(at..at + payload.len())).await?;
        }
        self.write(at, payload, None).await
    }

    /// A write waits if there is something to wait for, and if nothing can be refused later that
    /// was acknowledged now: a snapshot without room must not be one that makes the write fail. Nor does
    /// one wait where a snapshot may be dropped for it that has room now: see
    /// [`leaves_room`](Self::leaves_room).
    fn may_wait(&self, range: &Range<u64>) -> bool {
        if !self.backlog().takes(range.end - range.start) {
            return false;
        }
        // A sector must not be cut in two: the halves would reach the medium one without the other.
        if !range.start.is_multiple_of(SECTOR_BYTES) || !range.end.is_multiple_of(SECTOR_BYTES) {
            return false;
        }
        let snapshots = self.protect.snapshots.borrow();
        let mut valid = snapshots.iter().filter(|it| it.state() != State::Invalid);
        !snapshots.iter().any(|it| it.is_unmarked())
            && valid.clone().all(|it| it.options().on_full == OnFull::Invalidate)
            && valid.clone().all(|it| !it.is_read_only() && self.leaves_room(it, range))
            && (self.backlog().touches(range) || !valid.all(|it| it.is_published(range)))
    }

    /// True if the store has room for the old data of everything that waits, and of this range. Snapshot
    /// writes leave it that room: see [`begin_own`](Self::begin_own).
    fn leaves_room(&self, snapshot: &Snapshot<C>, range: &Range<u64>) -> bool {
        let chunks = snapshot.map().chunks(range);
        let left = snapshot.store().room_left().checked_sub(chunks.end - chunks.start);
        let chunk_bytes = snapshot.map().chunk_bytes();
        left.is_some_and(|left| !self.backlog().needs_more(left, chunk_bytes))
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
        let chunk = old * snapshot.map().chunk_bytes();
        while self.backlog().holds_any() && !self.leaves_room(snapshot, &(chunk..chunk + 1)) {
            if holds || self.write_back().await.is_err() {
                return Err(StoreError::Full);
            }
        }
        snapshot.begin(old).await
    }

    /// Writes back if something waits that touches `range`.
    async fn write_back_touching(&self, range: &Range<u64>) -> io::Result<()> {
        match self.backlog().touches(range) {
            true => self.write_back().await,
            false => Ok(()),
        }
    }

    /// Brings every origin write that was acknowledged before the call to the origin. Its old data is kept by
    /// every snapshot, for all in one go.
    pub(super) async fn write_back(&self) -> io::Result<()> {
        self.protect.origin.write_back(self.clock, self.keep()).await
    }

    /// Everything written to the origin is durable afterwards, what was held back as well.
    pub(super) async fn flush(&self) -> io::Result<()> {
        self.protect.origin.flush(self.clock, self.keep()).await
    }

    /// Makes that no snapshot needs the old data of some ranges any more.
    fn keep(&self) -> impl AsyncFn(&[Range<u64>]) -> io::Result<()> {
        async |ranges: &[Range<u64>]| self.protect.all_but(None, ranges).await
    }
}
