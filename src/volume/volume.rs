use std::rc::Rc;

use futures_util::future::join;

use super::changes::{ChangeSet, Changes};
use super::clock::Clock;
use super::error::VolumeError;
use super::merging::Merges;
use super::origin::Origin;
use super::origin_writes::OriginWrites;
use super::protect::Protect;
use super::read::SnapshotReads;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use super::snapshots::Snapshots;
use super::standing::State;
use super::write::SnapshotWrites;
use super::write_back;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::sync::{Gate, join_all};

/// An origin with its snapshots.
#[derive(Debug)]
pub struct Volume<O, C> {
    origin: Origin<O>,
    snapshots: Snapshots<C>,
    merges: Merges<C>,
    /// Every request that changes the origin is inside; closed while a snapshot is added, and while a merge
    /// begins or is given up. Writes to a snapshot are inside its own, but for one that merges or has merged.
    gate: Gate,
    scratch: Scratch,
    clock: Clock,
    changes: Rc<Changes>,
}

impl<O: Device, C: Device> Volume<O, C> {
    /// A volume without snapshots: its origin is `origin`, and whole sectors. Where the last one is cut short
    /// its rest reads as zeroes.
    ///
    /// # Errors
    ///
    /// An error of the device when asked for its size.
    pub fn new(origin: O) -> Result<Self, VolumeError> {
        let changes = Rc::default();
        Ok(Self {
            origin: Origin::new(origin)?,
            snapshots: Snapshots::new(&changes),
            merges: Merges::new(&changes),
            gate: Gate::default(),
            scratch: Scratch::default(),
            clock: Clock::default(),
            changes,
        })
    }

    /// Lets writes to the origin that some snapshot has to keep old data for wait in memory, up to
    /// `most_bytes` of it, so that many share a publish. Reads of the origin see them, and a flush writes
    /// them back first. See [`run_write_back`](Self::run_write_back).
    ///
    /// A write does not wait while a snapshot is there that could make it fail
    /// ([`OnFull::Fail`](super::OnFull::Fail), [`OnFull::Wait`](super::OnFull::Wait)), nor while one merges.
    pub fn allow_backlog(&self, most_bytes: u64) {
        self.origin.backlog().allow(most_bytes);
    }

    /// The most memory, in bytes, that the volume's own copying takes: old data for snapshots, the rest of
    /// chunks that are written in part, reads that are put together. 64 MiB without this call. What needs
    /// more waits for others to end.
    pub fn limit_copying(&self, most_bytes: u64) {
        self.scratch.limit(most_bytes);
    }

    /// The size of the origin, in bytes. A snapshot may have another: [`Snapshot::len_bytes`].
    pub fn len_bytes(&self) -> u64 {
        self.origin.len_bytes()
    }

    /// The device below.
    pub fn origin_device(&self) -> &O {
        self.origin.device()
    }

    /// Why the origin could not be written when it was to be last, for lack of the
    /// [claim](Device::claim) to it; `None` if it could, or nobody tried.
    pub fn write_refusal(&self) -> Option<String> {
        self.origin.refusal()
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Rc<Snapshot<C>>> {
        self.snapshots.all()
    }

    /// The snapshot with this name.
    pub fn snapshot(&self, name: &str) -> Option<Rc<Snapshot<C>>> {
        self.snapshots.find(|snapshot| snapshot.name() == name)
    }

    /// Drops what the system's cache holds of the origin, once: after a flush that failed it may keep what was
    /// lost as if all were well, and the next to open the file would believe it. The first snapshot
    /// that is added does so too; an origin that is served before it has one needs this first.
    ///
    /// # Errors
    ///
    /// As [`Device::forget_cached`].
    pub async fn forget_cached(&self) -> Result<(), VolumeError> {
        Ok(self.origin.forget_cached().await?)
    }

    /// Leaves in the system's cache what it holds of the origin, which is open for reading alone: others read it as
    /// well, and what one has read the next one finds there. Instead of [`forget_cached`](Self::forget_cached).
    pub fn keep_cached(&self) {
        self.origin.keep_cached();
    }

    /// Publishes what was written to a snapshot, as a flush of its device does.
    ///
    /// # Errors
    ///
    /// An error of the COW device.
    pub async fn publish(&self, snapshot: &Snapshot<C>) -> Result<(), VolumeError> {
        snapshot.standing().present()?;
        Ok(snapshot.flush().await?)
    }

    /// To be called about once a second: writes that wait for room in a store try again, and how long
    /// they wait is counted in these calls.
    pub fn tick(&self) {
        self.clock.tick();
        self.origin.backlog().notify();
    }

    /// From now on nobody waits for room in a store: such writes fail with "no space", also those
    /// that wait already. For the end of a server, whose clients wait for answers.
    pub fn stop_waiting_for_room(&self) {
        self.clock.stop_waiting_for_room();
        self.origin.backlog().notify();
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
        Ok(self.origin_writes().write_back().await?)
    }

    /// Writes back what waits, when it has grown large or is a tick old, and publishes what was written to
    /// a snapshot when that has grown large, until `stop` is ready. To be run while a volume is served: without
    /// it a client does that work for all, when there is no room or at a flush. What fails here is reported by
    /// the next flush. A COW device that hangs holds up its own publish only.
    pub async fn run_write_back(&self, stop: impl Future<Output = ()>) {
        write_back::run(&self.origin_writes(), stop).await;
    }

    /// Tries again to mark the stores of dropped snapshots whose COW devices have not taken the mark. To
    /// be called now and then as long as one [is unmarked](Snapshot::is_unmarked). One that hangs keeps no
    /// other from being marked.
    ///
    /// # Errors
    ///
    /// The first [`VolumeError::MarkFailed`]: that store is valid on disk and wrong.
    pub async fn mark_dropped(&self) -> Result<(), VolumeError> {
        let unmarked = self.snapshots().into_iter().filter(|it| it.is_unmarked());
        let unmarked = unmarked.filter(|_| !planted(Planted::MarkedOnce));
        let marks = unmarked.map(|snapshot| async move {
            let marked = snapshot.mark_again().await;
            let name = || snapshot.name().to_owned();
            marked.map_err(|source| VolumeError::MarkFailed { snapshot: name(), source })
        });
        join_all(marks).await.into_iter().collect()
    }

    /// Publishes and flushes everything: what was acknowledged before is durable afterwards, and so are
    /// the marks of dropped snapshots. A device that hangs keeps no other from being flushed.
    ///
    /// # Errors
    ///
    /// The first error; the others are flushed all the same.
    pub async fn flush_all(&self) -> Result<(), VolumeError> {
        let valid = self.snapshots().into_iter().filter(|it| it.state() != State::Invalid);
        let snapshots = valid.map(|it| async move {
            let flushed = it.flush().await;
            match it.state() {
                // What waited in memory has dropped it meanwhile: the mark is what counts then.
                State::Invalid => it.last_flush().await,
                State::Active | State::Overflowed => flushed,
            }
        });
        let origin = async {
            // What is dropped by what waited in memory is marked as well.
            let flushed = self.origin_writes().flush().await.map_err(VolumeError::from);
            flushed.and(self.mark_dropped().await)
        };
        let (origin, snapshots) = join(origin, join_all(snapshots)).await;
        snapshots.into_iter().fold(origin, |ended, one| ended.and(one.map_err(VolumeError::from)))
    }

    /// The text of a status line after the target's name, as the kernel prints it.
    pub fn status(&self, snapshot: &Rc<Snapshot<C>>) -> String {
        let failed = self.merges.of(snapshot).is_some_and(|merging| merging.has_failed());
        match (snapshot.state(), snapshot.usage()) {
            (State::Invalid, _) | (_, None) => "Invalid".into(),
            _ if failed => "Merge failed".into(),
            (State::Overflowed, _) => "Overflow".into(),
            (State::Active, Some(usage)) => usage.to_string(),
        }
    }

    /// Counts what changes: which snapshots there are, their states and exceptions, how a merge is.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What has changed since a generation of [`changes`](Self::changes). Of generation 0 everything has.
    pub fn changes_after(&self, generation: u64) -> ChangeSet {
        let snapshots = self.snapshots.borrow();
        ChangeSet {
            generation: self.changes.generation(),
            snapshots_changed: self.snapshots.changed_after(generation),
            merge_changed: self.merges.changed_after(generation),
            snapshots: snapshots.iter().filter_map(|it| it.change_after(generation)).collect(),
        }
    }

    pub(super) fn origin(&self) -> &Origin<O> {
        &self.origin
    }

    pub(super) fn changes_rc(&self) -> &Rc<Changes> {
        &self.changes
    }

    pub(super) fn members(&self) -> &Snapshots<C> {
        &self.snapshots
    }

    pub(super) fn merges(&self) -> &Merges<C> {
        &self.merges
    }

    /// Where requests that change the origin are inside.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn protect(&self) -> Protect<'_, O, C> {
        Protect { origin: &self.origin, snapshots: &self.snapshots, scratch: &self.scratch }
    }

    pub(super) fn origin_writes(&self) -> OriginWrites<'_, O, C> {
        OriginWrites { protect: self.protect(), clock: &self.clock }
    }

    pub(super) fn snapshot_writes<'a>(
        &'a self,
        snapshot: &'a Snapshot<C>,
    ) -> SnapshotWrites<'a, O, C> {
        SnapshotWrites { snapshot, origin_writes: self.origin_writes() }
    }

    pub(super) fn snapshot_reads<'a>(
        &'a self,
        snapshot: &'a Snapshot<C>,
    ) -> SnapshotReads<'a, O, C> {
        SnapshotReads { snapshot, origin: &self.origin, scratch: &self.scratch }
    }
}
