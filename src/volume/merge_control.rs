use std::rc::Rc;

use dmsnap_format::TagState;

use super::error::VolumeError;
use super::gates;
use super::merge_run::MergeRun;
use super::merging::{MergeState, Merging};
use super::snapshot::Snapshot;
use super::volume::Volume;
use crate::copy::Observer;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Store, StoreError};

impl<O: Device, C: Device> Volume<O, C> {
    /// Makes origin and snapshot one device with the snapshot's content, from which
    /// [`run_merge`](Self::run_merge) then brings everything to the origin. Writes to both wait a moment; if
    /// a device hangs, only this call waits for it. With a snapshot that was opened for reading only, that
    /// device is for looking at, and stays so.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while another merge is not finished; [`VolumeError::Transient`];
    /// [`VolumeError::IsWayBack`]; [`VolumeError::SizeTooLarge`] of a snapshot that is longer than the origin;
    /// [`VolumeError::Invalid`]; [`VolumeError::TakenOut`]; an error of a device.
    pub async fn start_merge(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        let store = snapshot.store().persistent().ok_or(VolumeError::Transient)?;
        if snapshot.tag().is_some_and(|it| it.state == TagState::Undo && it.partner.is_some()) {
            return Err(VolumeError::IsWayBack);
        }
        self.refuse_longer(snapshot)?;
        let prepare = async || -> Result<(), VolumeError> {
            self.merges().refuse_unfinished()?;
            snapshot.standing().usable()?;
            self.write_back().await?;
            snapshot.pending().wait_for_all().await;
            snapshot.flush().await?;
            match store.is_read_only() {
                true => Ok(()),
                false => {
                    self.origin().claim().await?;
                    Ok(store.forget_origin().await?)
                }
            }
        };
        let both = [self.gate(), snapshot.gate()];
        let _nobody_writes = gates::close(self.clock(), &both, prepare).await?;
        // It may have been dropped or taken out meanwhile, or another merge begun.
        self.merges().refuse_unfinished()?;
        snapshot.standing().usable()?;
        if !self.members().contains(snapshot) {
            return Err(VolumeError::TakenOut);
        }
        snapshot.set_overflowed(false);
        snapshot.set_was_merged();
        self.merges().begin(Merging::new(snapshot.clone()));
        Ok(())
    }

    /// Origin and snapshot cannot be one device if the origin lacks what lies past its end.
    pub(super) fn refuse_longer(&self, snapshot: &Snapshot<C>) -> Result<(), VolumeError> {
        let (found, origin) = (snapshot.len_bytes(), self.len_bytes());
        match found > origin {
            true => Err(VolumeError::SizeTooLarge { found, origin }),
            false => Ok(()),
        }
    }

    /// How the merge is, if one was started, and how many exceptions are left.
    pub fn merge_state(&self) -> Option<(MergeState, u64)> {
        let merging = self.merges().current()?;
        Some((merging.state(), merging.snapshot().store().published()))
    }

    /// Merges window by window until nothing is left, [`pause_merge`](Self::pause_merge) is called
    /// or a device fails. The observer may ask it to pause between two windows. Of the progress the total is
    /// in whole chunks.
    ///
    /// # Ordering
    ///
    /// For each window:
    ///
    /// 1. every other snapshot gets published exceptions for its chunks
    /// 2. its data goes to the origin; what clients write to its chunks meanwhile goes to the COW
    ///    device and is copied again, the last few with their writers held
    /// 3. flush the origin            - the merged data is durable
    /// 4. zero the window's slots, flush the COW device
    /// 5. reads and writes of its chunks go to the origin
    ///
    /// A crash before 4 leaves the window's exceptions in place, with the newest data in the COW
    /// device; after it, the window is done. After the last one the tags of two partners say that the merge is done.
    ///
    /// # Errors
    ///
    /// An error of a device, or [`VolumeError::NoRoom`] of another snapshot: the merge is failed then, and
    /// calling again goes on. [`VolumeError::MergeRunning`] while another call has not returned;
    /// [`VolumeError::NotMerging`].
    pub async fn run_merge(
        &self,
        window_bytes: u64,
        observer: &impl Observer,
    ) -> Result<MergeState, VolumeError> {
        let merging = self.merges().current().ok_or(VolumeError::NotMerging)?;
        let store = merging.snapshot().store().persistent().ok_or(VolumeError::Transient)?;
        merging.snapshot().writable()?;
        let _at_work = merging.begin_work().ok_or(VolumeError::MergeRunning)?;
        let merge = (&*merging, self.merges());
        let run = MergeRun::new(merge, store, self.origin_writes(), window_bytes, observer);
        // Boxed, once for a run: what callers wrap around it is deep enough without it.
        Box::pin(run.run()).await
    }

    /// Asks [`run_merge`](Self::run_merge) to return after the window under way, or, if that waits for
    /// another snapshot's room, without it.
    pub fn pause_merge(&self) {
        let running = self.merges().current().filter(|it| it.state() == MergeState::Running);
        if let Some(merging) = running {
            self.merges().set_state(&merging, MergeState::Paused);
            self.clock().look_again();
        }
    }

    /// Gives a paused or failed merge up: the snapshot is a plain one again, with the same content.
    /// The origin alone is then neither its old self nor the snapshot.
    ///
    /// # Errors
    ///
    /// [`VolumeError::MergeRunning`], also for a window that a pause lets end; an error of the origin, and
    /// then it is not given up; a store whose clear failed: which exceptions it still has is known when it
    /// is opened anew, and until then the origin must not be written as if it had them all.
    pub async fn cancel_merge(&self) -> Result<(), VolumeError> {
        let Some(merging) = self.merges().current() else { return Ok(()) };
        let snapshot = merging.snapshot();
        let reads_end = async || snapshot.cow_reads().wait_clear(0..self.len_bytes()).await;
        let prepare = async || -> Result<(), VolumeError> {
            merging.refuse_at_work()?;
            if snapshot.store().is_broken() && !planted(Planted::CancelBroken) {
                return Err(StoreError::Broken.into());
            }
            // A read that hangs is waited for while others may write.
            reads_end().await;
            // The origin holds what was written to chunks without an exception, and a flush of the
            // plain snapshot will not ask it.
            match planted(Planted::CancelWithoutFlush) {
                true => Ok(()),
                false => Ok(self.origin_writes().flush().await?),
            }
        };
        let both = [self.gate(), snapshot.gate()];
        let nobody_writes = gates::close(self.clock(), &both, prepare).await?;
        merging.refuse_at_work()?;
        if let Some(ended) = self.merges().end() {
            // Chunks that were cleared may now be given out again. That is a matter of the snapshot's own
            // writes, and of what origin writes keep for it.
            ended.snapshot().cow_reads().wait_clear(0..self.len_bytes()).await;
        }
        drop(nobody_writes);
        Ok(())
    }
}
