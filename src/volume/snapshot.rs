use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::{ChunkSize, Exception, OriginChunk, Usage};

use super::chunk_map::ChunkMap;
use super::error::{VolumeError, to_io};
use super::grow::grow;
use super::options::SnapshotOptions;
use super::pending::Pending;
use super::scratch::Share;
use super::standing::{Standing, State};
use super::unpublished::Unpublished;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, Persistent, Prepared, Store, StoreError};
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
    /// nothing of it is kept.
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

    /// An error if a failed flush may have lost something of this range: what nobody has published,
    /// and whatever a transient store holds. The rest of such a chunk is not old data but whatever
    /// lay on the COW device before.
    pub(super) fn trusted(&self, range: &Range<u64>) -> io::Result<()> {
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
    pub(super) fn is_published(&self, range: &Range<u64>) -> bool {
        let unpublished = self.unpublished.borrow();
        self.map.chunks(range).all(|old| self.map.has(old) && !unpublished.contains(old))
    }

    /// The newest ticket of any chunk that a range touches, which has to be published before an origin write
    /// to it; `None` if all is that has an exception.
    pub(super) fn newest_ticket_in(&self, range: &Range<u64>) -> Option<u64> {
        self.unpublished.borrow().newest_of(self.map.chunks(range))
    }

    /// Should what was written be published, although nobody has asked for it?
    pub(super) fn is_publish_due(&self) -> bool {
        let is_due = self.unpublished.borrow().is_due();
        is_due && self.state() != State::Invalid && !self.store.is_broken()
    }

    /// That was tried. If it failed, it is tried again when as much has come again.
    pub(super) fn publish_attempted(&self) {
        self.unpublished.borrow_mut().attempted();
    }

    /// Gives out a chunk for `old`, which is pending from now on; `None` if somebody else came
    /// first, maybe while the COW device grew, for this chunk or for one before.
    pub(super) async fn begin(&self, old: u64) -> Result<Option<Prepared>, StoreError> {
        loop {
            match self.begin_at_once(old) {
                // Others may take what was grown before this one looks again.
                Err(StoreError::Full) => grow(self.cow_device(), self.options.max_bytes).await?,
                begun => return begun,
            }
        }
    }

    /// The same, as long as that needs no request of the COW device.
    pub(super) fn begin_at_once(&self, old: u64) -> Result<Option<Prepared>, StoreError> {
        if self.map.has(old) || self.pending.contains(old) {
            return Ok(None);
        }
        let prepared = self.store.prepare()?;
        self.pending.begin(old);
        Ok(Some(prepared))
    }

    /// The chunk holds the data of `old`: from now on reads see it.
    pub(super) fn complete(&self, prepared: Prepared, old: u64) {
        let exception = Exception { old: OriginChunk::new(old), new: prepared.chunk() };
        let ticket = prepared.ticket();
        self.store.commit(prepared, exception.old);
        self.map.insert(exception);
        self.unpublished.borrow_mut().insert(old, ticket);
        self.pending.settle(old);
    }

    /// The chunk is not needed, or its copy failed.
    pub(super) fn give_up(&self, prepared: Prepared, old: u64) {
        self.store.abandon(prepared);
        self.pending.settle(old);
    }

    /// Publishes everything up to and including `ticket`. Older chunks that still wait for their
    /// data are waited for. Returns true if the COW device was flushed for it after the call.
    pub(super) async fn publish_through(&self, ticket: u64) -> Result<bool, StoreError> {
        let mut flushed = false;
        loop {
            let before = self.pending.settled();
            let published = {
                let _under_way = self.store_writes.enter(0..1);
                self.store.publish().await?
            };
            flushed |= published.flushed;
            self.unpublished.borrow_mut().remove_below(published.next_ticket);
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
    pub(super) async fn flush(&self) -> io::Result<()> {
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
    pub(super) async fn last_flush(&self) -> io::Result<()> {
        match self.state() {
            State::Invalid if !self.is_unmarked() => {
                self.wait_marked().await;
                Ok(())
            }
            State::Invalid => self.mark_again().await.map_err(to_io),
            State::Active | State::Overflowed => self.flush().await,
        }
    }

    pub(super) fn set_overflowed(&self, overflowed: bool) {
        if self.standing.set_overflowed(overflowed) {
            self.pending.notify();
        }
    }

    /// Drops the snapshot, durably before this returns. Every origin write that relies on it waits for that.
    /// If the COW device fails here too, the snapshot is dropped in memory only, the error says so, and
    /// origin writes that need the mark fail until [it is written](Self::mark_again).
    pub(super) async fn invalidate(&self) -> Result<(), StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let marked = self.standing.drop_with(self.mark()).await;
        self.pending.notify();
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
        self.standing.mark_again(self.mark()).await
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
