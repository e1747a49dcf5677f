use std::io;
use std::ops::Range;

use dmsnap_format::{Exception, Layout, OriginChunk};

use super::Snapshot;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Prepared, Store, StoreError};
use crate::volume::error::{VolumeError, to_io};
use crate::volume::grow::grow;
use crate::volume::standing::State;

/// Exceptions: made, seen, published, lost.
impl<C: Device> Snapshot<C> {
    /// Gives out a chunk for `old`, which is pending from now on; `None` if somebody else came
    /// first, maybe while the COW device grew, for this chunk or for one before.
    pub(in crate::volume) async fn begin(&self, old: u64) -> Result<Option<Prepared>, StoreError> {
        loop {
            match self.begin_at_once(old) {
                // Others may take what was grown before this one looks again.
                Err(StoreError::Full) => grow(self.cow_device(), self.options.max_bytes).await?,
                begun => return begun,
            }
        }
    }

    /// The same, as long as that needs no request of the COW device.
    pub(in crate::volume) fn begin_at_once(
        &self,
        old: u64,
    ) -> Result<Option<Prepared>, StoreError> {
        if self.map.has(old) || self.pending.contains(old) {
            return Ok(None);
        }
        let prepared = self.store.prepare()?;
        self.pending.begin(old);
        Ok(Some(prepared))
    }

    /// The chunk holds the data of `old`: from now on reads see it.
    pub(in crate::volume) fn complete(&self, prepared: Prepared, old: u64) {
        let exception = Exception { old: OriginChunk::new(old), new: prepared.chunk() };
        let ticket = prepared.ticket();
        self.store.commit(prepared, exception.old);
        self.map.insert(exception);
        self.unpublished.borrow_mut().insert(old, ticket);
        self.exceptions_changed.now();
        self.pending.settle(old);
    }

    /// The chunk is not needed, or its copy failed.
    pub(in crate::volume) fn give_up(&self, prepared: Prepared, old: u64) {
        self.store.abandon(prepared);
        self.pending.settle(old);
    }

    /// Publishes everything up to and including `ticket`. Older chunks that still wait for their
    /// data are waited for. Returns true if the COW device was flushed for it after the call.
    pub(in crate::volume) async fn publish_through(&self, ticket: u64) -> Result<bool, StoreError> {
        let mut flushed = false;
        loop {
            let before = self.pending.settled();
            let published = {
                let _under_way = self.store_writes.enter(0..1);
                self.store.publish().await?
            };
            flushed |= published.flushed;
            if self.unpublished.borrow_mut().remove_below(published.next_ticket) {
                self.exceptions_changed.now();
            }
            if published.next_ticket > ticket {
                return Ok(flushed);
            }
            if !self.standing.is_kept() {
                return Err(StoreError::Invalid);
            }
            // An older chunk has no data yet. What was settled while the publish was under way
            // counts as well.
            let waiting = || self.pending.settled() == before && self.standing.is_kept();
            self.pending.wait_until(|| !waiting()).await;
        }
    }

    /// Everything acknowledged on the snapshot is durable afterwards.
    pub(in crate::volume) async fn flush(&self) -> io::Result<()> {
        let newest = self.unpublished.borrow().newest();
        let flushed = match newest.filter(|_| !planted(Planted::FlushWithoutPublish)) {
            Some(ticket) => self.publish_through(ticket).await.map_err(to_io)?,
            None => false,
        };
        match flushed {
            true => Ok(()),
            // Writes in place, or another publish had begun before this call.
            false => self.store.flush().await.map_err(to_io),
        }
    }

    /// What was written to it is published, or that it was dropped is marked.
    pub(in crate::volume) async fn last_flush(&self) -> io::Result<()> {
        match self.state() {
            State::Invalid if !self.is_unmarked() => {
                self.wait_marked().await;
                Ok(())
            }
            State::Invalid => self.mark_again().await.map_err(to_io),
            State::Active | State::Overflowed => self.flush().await,
        }
    }

    /// An error if a failed flush may have lost something of this range: what nobody has published,
    /// and whatever a transient store holds. The rest of such a chunk is not old data but whatever
    /// lay on the COW device before.
    pub(in crate::volume) fn trusted(&self, range: &Range<u64>) -> io::Result<()> {
        if !self.store.is_broken() || planted(Planted::LostChunksShown) {
            return Ok(());
        }
        let lost = match self.store.persistent() {
            Some(_) => self.newest_ticket_in(range).is_some(),
            None => {
                let chunks = self.map.chunks(range);
                let next = self.map.next_run(chunks.start);
                next.is_some_and(|run| run.old.get() < chunks.end)
            }
        };
        match lost {
            true => Err(VolumeError::LostInFlush.into()),
            false => Ok(()),
        }
    }

    /// Do origin writes to this range need nothing of the snapshot any more?
    pub(in crate::volume) fn is_published(&self, range: &Range<u64>) -> bool {
        let unpublished = self.unpublished.borrow();
        self.map.chunks(range).all(|old| self.map.has(old) && !unpublished.contains(old))
    }

    /// The newest ticket of any chunk that a range touches, which has to be published before an origin write
    /// to it; `None` if all is that has an exception.
    pub(in crate::volume) fn newest_ticket_in(&self, range: &Range<u64>) -> Option<u64> {
        self.unpublished.borrow().newest_of(self.map.chunks(range))
    }

    /// How many chunks it would have to keep if all that has an exception in `other` were written to the origin.
    pub(in crate::volume) fn missing_of(&self, other: &Self) -> u64 {
        let (mut at, mut missing) = (0, 0);
        let mut next = 0;
        while let Some(range) = other.map.next_saved(at) {
            at = range.end;
            let chunks = self.map.chunks(&range);
            // Neighbours may touch the same chunk, if the other one has smaller ones.
            let chunks = chunks.start.max(next)..chunks.end.max(next);
            next = chunks.end;
            missing += chunks.filter(|old| !self.map.has(*old)).count() as u64;
        }
        missing
    }

    /// For how many chunks there is room, or may be once the COW device has grown as far as it may.
    pub(in crate::volume) fn room_to_keep(&self) -> u64 {
        let room = self.store.room_left();
        let layout = Layout::new(self.chunk_size());
        let capacity = |bytes| layout.capacity(self.chunk_size().whole_chunks(bytes));
        match (self.options.max_bytes, self.cow_device().len_bytes()) {
            (Some(most), Ok(now)) if most > now => room + capacity(most) - capacity(now),
            _ => room,
        }
    }

    /// Should what was written be published, although nobody has asked for it?
    pub(in crate::volume) fn is_publish_due(&self) -> bool {
        let is_due = self.unpublished.borrow().is_due();
        is_due && self.state() != State::Invalid && !self.store.is_broken()
    }

    /// That was tried. If it failed, it is tried again when as much has come again.
    pub(in crate::volume) fn publish_attempted(&self) {
        self.unpublished.borrow_mut().attempted();
    }
}
