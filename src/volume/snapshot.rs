mod exceptions; // made, seen, published, lost
mod labels; // whom its store belongs to

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::{ChunkSize, Exception, Usage};

use super::changes::{Changed, Changes, SnapshotChange};
use super::chunk_map::ChunkMap;
use super::error::VolumeError;
use super::options::SnapshotOptions;
use super::pending::Pending;
use super::scratch::Share;
use super::standing::{Standing, State};
use super::unpublished::Unpublished;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, Persistent, Store, StoreError};
use crate::sync::{Gate, Tracked};
use crate::table::Table;

/// One snapshot of a volume.
#[derive(Debug)]
pub struct Snapshot<C> {
    name: String,
    /// No other snapshot of the volume has, or ever had it.
    id: u64,
    options: SnapshotOptions,
    store: AnyStore<C>,
    map: ChunkMap,
    unpublished: RefCell<Unpublished>,
    pending: Pending,
    standing: Standing,
    added: Changed,
    state_changed: Changed,
    exceptions_changed: Changed,
    /// A merge of it was begun.
    was_merged: Cell<bool>,
    /// Every write to this snapshot is inside; closed while it is taken out, and while its merge begins or
    /// is given up.
    gate: Gate,
    /// Publishes and marks under way, each of all bytes.
    store_writes: Tracked,
    /// Reads of the COW device under way, by bytes of the snapshot.
    cow_reads: Tracked,
    /// Writes in place under way, by bytes of the snapshot.
    cow_writes: Tracked,
    /// Of the memory for copying.
    share: Rc<Share>,
}

impl<C: Device> Snapshot<C> {
    pub(super) fn new(
        name: String,
        id: u64,
        len_bytes: u64,
        store: AnyStore<C>,
        table: Table,
        options: SnapshotOptions,
        changes: &Rc<Changes>,
    ) -> Self {
        let chunk_size = store.chunk_size();
        Self {
            name,
            id,
            options,
            store,
            map: ChunkMap::new(len_bytes, chunk_size, table),
            unpublished: Unpublished::new(chunk_size.bytes()).into(),
            pending: Pending::default(),
            standing: Standing::default(),
            added: Changed::never(changes),
            state_changed: Changed::never(changes),
            exceptions_changed: Changed::never(changes),
            was_merged: Cell::default(),
            gate: Gate::default(),
            store_writes: Tracked::default(),
            cow_reads: Tracked::default(),
            cow_writes: Tracked::default(),
            share: Rc::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it from every other snapshot that its volume has or had, also from one of its name.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its size, in bytes. Where the origin is longer, what lies past that is not a part of the snapshot, and
    /// nothing of it is kept. Where it is shorter, zeroes follow it.
    pub fn len_bytes(&self) -> u64 {
        self.map.len_bytes()
    }

    /// The unit of copying.
    pub fn chunk_size(&self) -> ChunkSize {
        self.map.chunk_size()
    }

    /// How it behaves.
    pub fn options(&self) -> &SnapshotOptions {
        &self.options
    }

    /// The COW device.
    pub fn cow_device(&self) -> &C {
        self.store.device()
    }

    /// How often slots were written and the COW device was flushed for them, since the store was
    /// opened. `None` for one without slots on the device.
    pub fn metadata_writes_and_flushes(&self) -> Option<(u64, u64)> {
        self.store.persistent().map(|store| (store.metadata_writes(), store.flushes()))
    }

    /// True if its exceptions outlive the process.
    pub fn is_persistent(&self) -> bool {
        self.store.persistent().is_some()
    }

    /// How it is.
    pub fn state(&self) -> State {
        self.standing.state()
    }

    /// How many exceptions reads see.
    pub fn exceptions(&self) -> u64 {
        self.map.len()
    }

    /// How many of them a crash would lose.
    pub fn unpublished(&self) -> u64 {
        self.unpublished.borrow().len()
    }

    /// The store's numbers; `None` if it is invalid.
    pub fn usage(&self) -> Option<Usage> {
        match self.state() {
            State::Invalid => None,
            _ => self.store.usage().ok(),
        }
    }

    /// Which bytes of a range have an exception: lengths in bytes, one after the other from the
    /// beginning of the range on, at most `most` of them. These are the chunks in which snapshot and
    /// origin have differed since the snapshot was made.
    pub fn changes(&self, range: Range<u64>, most: usize) -> Vec<(u64, bool)> {
        self.map.differences(range, most)
    }

    /// Bytes of memory of its table.
    pub fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
    }

    /// True if it was dropped and its COW device has not taken the mark: anyone who opens the store believes
    /// it. See [`mark_dropped`](super::Volume::mark_dropped).
    pub fn is_unmarked(&self) -> bool {
        self.standing.is_unmarked()
    }

    pub(super) fn store(&self) -> &AnyStore<C> {
        &self.store
    }

    pub(super) fn map(&self) -> &ChunkMap {
        &self.map
    }

    pub(super) fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn cow_reads(&self) -> &Tracked {
        &self.cow_reads
    }

    pub(super) fn cow_writes(&self) -> &Tracked {
        &self.cow_writes
    }

    pub(super) fn share(&self) -> &Rc<Share> {
        &self.share
    }

    pub(super) fn was_merged(&self) -> bool {
        self.was_merged.get()
    }

    /// These exceptions are in the origin, and cleared.
    pub(super) fn forget(&self, exceptions: &[Exception]) {
        self.map.remove(exceptions);
        self.exceptions_changed.now();
    }

    /// What has changed since a generation, if anything has.
    pub(super) fn change_after(&self, generation: u64) -> Option<SnapshotChange> {
        let change = SnapshotChange {
            id: self.id,
            is_new: self.added.after(generation),
            state_changed: self.state_changed.after(generation),
            exceptions_changed: self.exceptions_changed.after(generation),
        };
        let any = change.is_new || change.state_changed || change.exceptions_changed;
        any.then_some(change)
    }

    /// It is one of the volume's from now on.
    pub(super) fn set_added(&self) {
        self.added.now();
    }

    pub(super) fn set_was_merged(&self) {
        self.was_merged.set(true);
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.store.persistent().is_some_and(Persistent::is_read_only)
    }

    pub(super) fn writable(&self) -> io::Result<()> {
        self.standing.usable()?;
        match self.is_read_only() {
            true => Err(VolumeError::ReadOnly.into()),
            false => Ok(()),
        }
    }

    pub(super) fn set_overflowed(&self, overflowed: bool) {
        if self.standing.set_overflowed(overflowed) {
            self.state_has_changed();
        }
    }

    /// Drops the snapshot, durably before this returns. Every origin write that relies on it waits for that.
    /// If the COW device fails here too, the snapshot is dropped in memory only, the error says so, and
    /// origin writes that need the mark fail until [it is written](Self::mark_again).
    pub(super) async fn invalidate(&self) -> Result<(), StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let mark = async {
            self.state_changed.now();
            self.mark().await
        };
        let marked = self.standing.drop_with(mark).await;
        self.state_has_changed();
        marked
    }

    /// Drops a snapshot that cannot keep old data any more, unless it was taken out. If not even the mark can
    /// be written, origin writes that rely on it are refused. Boxed: it is rare, and their futures are deep.
    pub(super) async fn stop_keeping(&self) {
        if !self.standing.is_out() {
            let _in_memory_at_least = Box::pin(self.invalidate()).await;
        }
    }

    /// Writes the mark of a snapshot that was dropped without one. Origin writes do not wait for it: they
    /// fail until it is there.
    pub(super) async fn mark_again(&self) -> Result<(), StoreError> {
        let marked = self.standing.mark_again(self.mark()).await;
        self.state_has_changed();
        marked
    }

    fn state_has_changed(&self) {
        self.state_changed.now();
        self.pending.notify();
    }

    async fn mark(&self) -> Result<(), StoreError> {
        let _under_way = self.store_writes.enter(0..1);
        self.store.invalidate().await
    }

    /// Returns when nobody writes the mark of a dropped snapshot any more.
    pub(super) async fn wait_marked(&self) {
        self.pending.wait_until(|| !self.standing.is_marking()).await;
    }

    /// From now on nobody begins to write to its store, except the caller.
    pub(super) fn take_out(&self) {
        self.standing.take_out();
        self.pending.notify();
    }

    /// Returns when what was being written to its store as it was [taken out](Self::take_out) has ended.
    pub(super) async fn at_rest(&self) {
        if planted(Planted::RemovedIsWritten) {
            return;
        }
        let _nobody_writes = self.gate.close().await;
        self.pending.wait_for_all().await;
        self.store_writes.wait_clear(0..1).await;
    }
}
