use super::Persistent;
use crate::device::{Allocation, Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::StoreError;
use crate::store::header::write_invalid;

/// What file systems give back at least, in bytes.
const BLOCK_BYTES: u64 = 4096;

impl<D: Device> Persistent<D> {
    /// Tries what can be tried to mark the store as dropped. See [`Store::invalidate`](super::Store::invalidate).
    pub(super) async fn mark(&self) -> Result<(), StoreError> {
        let mut marked = self.mark_invalid().await;
        for all in [false, true] {
            let Err(error) = &marked else { break };
            let no_room = matches!(error, StoreError::Io { source, .. } if is_no_room(source));
            if all && !no_room {
                break;
            }
            if no_room {
                let _ends_in_the_same = self.give_back(all).await;
            }
            marked = self.mark_invalid().await;
        }
        marked
    }

    /// Gives back what nobody needs any more, so that there is room for the mark: some file systems write
    /// everything to a new place. See [`Store::invalidate`].
    async fn give_back(&self, all: bool) -> Result<(), StoreError> {
        let failed = || StoreError::io("cannot give back the chunks of a dropped snapshot");
        let chunk = self.slots.layout.chunk_size().bytes();
        let end = self.slots.cow.len_bytes().map_err(failed())?;
        let mut begin = self.room.borrow().next_free.get().saturating_mul(chunk);
        if all {
            // Without a header nobody takes what is left for a snapshot. Part of a file system's block is
            // not given back but written.
            begin = chunk.next_multiple_of(BLOCK_BYTES).min(end);
            self.slots.cow.write_zeroes(0, begin, Allocation::MayPunch).await.map_err(failed())?;
            self.slots.barrier.flush_after_failure(&self.slots.cow).await.map_err(failed())?;
        }
        match end.checked_sub(begin) {
            None | Some(0) => Ok(()),
            Some(len) => self.slots.cow.discard(begin, len).await.map_err(failed()),
        }
    }

    /// See [`Store::invalidate`].
    async fn mark_invalid(&self) -> Result<(), StoreError> {
        write_invalid(&self.slots.cow, self.slots.layout.chunk_size()).await?;
        if planted(Planted::InvalidWithoutFlush) {
            return Ok(());
        }
        self.slots.flushes.set(self.slots.flushes.get() + 1);
        // Also on a device whose flush failed before: that is often why the snapshot is dropped.
        let flushed = self.slots.barrier.flush_after_failure(&self.slots.cow).await;
        flushed.map_err(StoreError::io("cannot mark the store as invalid"))
    }
}
