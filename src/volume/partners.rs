use std::pin::pin;
use std::rc::Rc;

use dmsnap_format::{ChunkSize, Fence, StoreId, Tag, TagState};

use super::error::VolumeError;
use super::gates;
use super::merging::{MergeState, Merging};
use super::options::SnapshotOptions;
use super::snapshot::Snapshot;
use super::standing::State;
use super::volume::Volume;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Store, StoreError, format_tagged, refuse_part_blocks, take_fence};

/// Samples that take more ticks are not waited for.
const SAMPLE_TICKS: u64 = 2;

/// Two snapshots whose stores belong to one undoable merge: one is merged, and the other keeps what that writes over,
/// because it is a snapshot like others (law 6).
impl<O: Device, C: Device> Volume<O, C> {
    /// The snapshot whose store and that of `snapshot` name each other as partners, if the volume has it.
    pub fn partner(&self, snapshot: &Snapshot<C>) -> Option<Rc<Snapshot<C>>> {
        self.members().partner(snapshot)
    }

    /// The same while a merge of one of them is not finished, and both are valid: neither is what it should be without
    /// the other once the origin is written.
    pub fn bound_partner(&self, snapshot: &Snapshot<C>) -> Option<Rc<Snapshot<C>>> {
        let partner = self.partner(snapshot)?;
        let merges = |it: &Snapshot<C>| it.tag().is_some_and(|it| it.state == TagState::Merging);
        let is_valid = |it: &Snapshot<C>| it.state() != State::Invalid;
        let both = [snapshot, &*partner];
        let is_bound = both.into_iter().any(merges) && both.into_iter().all(is_valid);
        is_bound.then_some(partner)
    }

    /// The snapshot whose merge `keeper` lets be taken back, or let until it was dropped.
    pub fn merged_partner(&self, keeper: &Snapshot<C>) -> Option<Rc<Snapshot<C>>> {
        self.partner(keeper).filter(|_| keeper.is_way_back())
    }

    /// Makes an empty store on `cow` that is to keep what a merge of `snapshot` writes over, and adds it: a snapshot
    /// of this moment. Then the merge can be started. What clients write to the origin between the two is kept like
    /// what they write later: the way back leads to the moment of this call. `ids` are new names, for the
    /// new store and for one that has none yet.
    ///
    /// # Ordering
    ///
    /// 1. if the store of `snapshot` has no tag: its tag, flush                   - it can be named
    /// 2. the new store, its header with a tag that names that one, flush         - it shows the origin
    /// 3. the tag of `snapshot` says that it is merged and needs the new one, flush
    /// 4. nobody writes to the origin, it is flushed, and the new snapshot added  - origin writes are kept in it
    /// 5. the tag of the new store remembers samples of the origin of 4, flush    - unless that takes long
    ///
    /// A crash in 1 or 2 leaves an origin and a snapshot that need nothing else. One between 2 and 3 leaves
    /// besides an empty store that shows whatever the origin is. From 3 on both stores are asked for:
    /// nothing writes to the origin without the other one.
    ///
    /// # Errors
    ///
    /// Before anything is written: [`VolumeError::Merging`] while a merge is not finished; [`VolumeError::Transient`];
    /// [`VolumeError::IsWayBack`] and [`VolumeError::HasWayBack`] of a snapshot that already belongs to an undoable
    /// merge; [`VolumeError::Invalid`]. Or as [`add`](Self::add), and an error of a COW device; then the
    /// snapshot needs no partner.
    pub async fn add_way_back(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        (name, cow): (&str, C),
        ids: [StoreId; 2],
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        self.merges().refuse_unfinished()?;
        snapshot.writable()?;
        self.refuse_longer(snapshot)?;
        self.origin().claim().await?;
        if !snapshot.is_persistent() {
            return Err(VolumeError::Transient);
        }
        self.refuse_second(snapshot)?;
        if self.snapshot(name).is_some() {
            return Err(VolumeError::NameTaken { name: name.into() });
        }
        let chunk_size = snapshot.chunk_size();
        refuse_part_blocks(chunk_size, &cow).map_err(VolumeError::Store)?;
        let [undo_id, own_id] = ids;
        let before = snapshot.tag().unwrap_or(Tag::new(own_id));
        let added = async {
            let own_id = snapshot.named(own_id).await?;
            self.make_way_back(&cow, chunk_size, (undo_id, own_id)).await?;
            if !planted(Planted::NeedsNoPartner) {
                snapshot.merge_with(undo_id).await?;
            }
            let (added, nobody_writes) = self.open_closed(name, cow, options).await?;
            let fence = self.sampled(&added, undo_id).await;
            drop(nobody_writes);
            if let Some(fence) = fence {
                // A device that does not take it is noticed by whatever is kept next.
                let _ = added.remember(fence).await;
            }
            Ok(added)
        };
        match added.await {
            Ok(added) => Ok(added),
            Err(error) => {
                // If that fails too, the store names a partner that does not exist: the next opening reports it.
                let _ = snapshot.write_tag(before).await;
                Err(error)
            }
        }
    }

    /// What the store of a new snapshot may remember of the origin, which nobody writes. Writers do not wait for
    /// a device that hangs.
    async fn sampled(&self, added: &Snapshot<C>, id: StoreId) -> Option<Fence> {
        let size = (added.chunk_size(), added.len_bytes());
        let taking = take_fence(self.origin_device(), size, id.bytes(), |_| false);
        self.clock().at_most(SAMPLE_TICKS, pin!(taking)).await.ok()?.ok()
    }

    /// Drops a way back whose merge has not begun, and takes it out: the snapshot needs it no longer.
    ///
    /// # Ordering
    ///
    /// 1. its store is marked as dropped, flush       - nobody goes by it
    /// 2. the tag of `snapshot` names it no longer, flush
    /// 3. it is taken out
    ///
    /// A crash between 1 and 2 leaves a snapshot that names a store that was dropped.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] if the merge has begun; an error of a COW device.
    pub async fn drop_way_back(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        way_back: &Rc<Snapshot<C>>,
    ) -> Result<(), VolumeError> {
        self.merges().refuse_unfinished_of(snapshot)?;
        self.invalidate(way_back).await?;
        let forgotten = snapshot.forget_partner().await;
        forgotten.and(self.remove(way_back).await)
    }

    async fn make_way_back(
        &self,
        cow: &C,
        chunk_size: ChunkSize,
        (id, partner): (StoreId, StoreId),
    ) -> Result<(), VolumeError> {
        let tag = Tag {
            state: TagState::Undo,
            partner: Some(partner),
            origin_bytes: self.len_bytes(),
            ..Tag::new(id)
        };
        format_tagged(cow, chunk_size, tag).await.map_err(VolumeError::Store)
    }

    /// Refuses a snapshot that belongs to an undoable merge which is not settled.
    fn refuse_second(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        match snapshot.tag() {
            Some(Tag { state: TagState::Undo, partner: Some(_), .. }) => {
                Err(VolumeError::IsWayBack)
            }
            Some(Tag { state: TagState::Merging, partner: Some(partner), .. })
                if self.bound_partner(snapshot).is_some() =>
            {
                Err(VolumeError::HasWayBack { partner })
            }
            _ => Ok(()),
        }
    }

    /// Checks whether [`exchange_merge`](Self::exchange_merge) may be called: returns the partner of `shown`.
    ///
    /// # Errors
    ///
    /// As that, except for errors of devices.
    pub fn may_exchange(&self, shown: &Rc<Snapshot<C>>) -> Result<Rc<Snapshot<C>>, VolumeError> {
        if self.merges().of(shown).is_none() {
            self.merges().refuse_unfinished()?;
        }
        shown.writable()?;
        let partner = self.partner(shown).ok_or(VolumeError::NoWayBack)?;
        if partner.state() == State::Invalid {
            return Err(VolumeError::NoWayBack);
        }
        partner.writable()?;
        let chunks = shown.missing_of(&partner);
        match shown.room_to_keep() {
            room if chunks > room => Err(VolumeError::NoRoomToKeep { chunks, room }),
            _ => Ok(partner),
        }
    }

    /// Takes a merge back, finished or not, or an undo: `shown`, the snapshot that merges or has merged, becomes a
    /// plain one, and its partner the one that merges. From one moment to the next the origin's device shows what the
    /// partner did, while `shown` goes on showing what the device showed. Then [`run_merge`](Self::run_merge)
    /// brings the old data back, and `shown` keeps what that writes over. Returns the partner.
    ///
    /// # Ordering
    ///
    /// 1. the tag of `shown`, flush; the tag of its partner, flush         - the roles are exchanged
    /// 2. all that was written to the origin and to the partner is durable, and nobody writes
    /// 3. what the partner remembers of the origin is forgotten, flush
    /// 4. the devices are exchanged in memory
    ///
    /// A crash leaves both stores valid, and each shows what it showed: only the tags say which of them is
    /// merged. `ops::undo` goes on, or `ops::merge_undoable` with the merge.
    ///
    /// # Errors
    ///
    /// [`VolumeError::MergeRunning`], also for a window that a pause lets end; [`VolumeError::Merging`] while another
    /// snapshot merges; [`VolumeError::NoWayBack`]; [`VolumeError::NoRoomToKeep`]; [`VolumeError::Invalid`]; a store whose
    /// clear failed; an error of a device. The merge is as it was then.
    pub async fn exchange_merge(
        &self,
        shown: &Rc<Snapshot<C>>,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let merged = self.may_exchange(shown)?;
        self.refuse_unexchangeable(shown)?;
        let tags = [merged.tag(), shown.tag()];
        let exchanged = async {
            shown.keep_for_undo().await?;
            merged.merge_for_undo().await?;
            self.exchange(shown, &merged).await
        };
        if let Err(error) = exchanged.await {
            // Either way both stores are right; a device that fails here fails what comes next as well.
            for (snapshot, tag) in [&merged, shown].into_iter().zip(tags) {
                if let Some(tag) = tag {
                    let _ = snapshot.write_tag(tag).await;
                }
            }
            return Err(error);
        }
        Ok(merged)
    }

    async fn exchange(
        &self,
        shown: &Rc<Snapshot<C>>,
        merged: &Rc<Snapshot<C>>,
    ) -> Result<(), VolumeError> {
        let store = merged.store().persistent().ok_or(VolumeError::Transient)?;
        let reads_end = async || shown.cow_reads().wait_clear(0..self.len_bytes()).await;
        let prepare = async || -> Result<(), VolumeError> {
            self.refuse_unexchangeable(shown)?;
            merged.standing().usable()?;
            // A read that hangs is waited for while others may write.
            reads_end().await;
            // As when a merge is given up, and when one begins.
            self.origin().claim().await?;
            if !planted(Planted::ExchangeUnflushed) {
                self.origin_writes().flush().await?;
                merged.pending().wait_for_all().await;
                merged.flush().await?;
            }
            Ok(store.forget_origin().await?)
        };
        let all = [self.gate(), shown.gate(), merged.gate()];
        let nobody_writes = gates::close(self.clock(), &all, prepare).await?;
        self.refuse_unexchangeable(shown)?;
        merged.standing().usable()?;
        shown.standing().usable()?;
        if !self.members().contains(merged) || !self.members().contains(shown) {
            return Err(VolumeError::TakenOut);
        }
        [shown, merged].into_iter().for_each(|it| it.set_overflowed(false));
        merged.set_was_merged();
        self.merges().begin(Merging::new(merged.clone()));
        // Chunks that were cleared may now be given out again, in place of those that are still read.
        reads_end().await;
        drop(nobody_writes);
        Ok(())
    }

    /// Refuses while a window is under way, or something else merges.
    fn refuse_unexchangeable(&self, shown: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        let Some(merging) = self.merges().of(shown) else {
            return match self.merges().current().filter(|it| it.is_finished()) {
                Some(it) => Err(VolumeError::Merged { snapshot: it.snapshot().name().into() }),
                None => self.merges().refuse_unfinished(),
            };
        };
        merging.refuse_at_work()?;
        match shown.store().is_broken() && merging.state() != MergeState::Finished {
            true => Err(StoreError::Broken.into()),
            false => Ok(()),
        }
    }
}
