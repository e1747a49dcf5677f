use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::{ChunkSize, Exception, OriginChunk, Usage};

use super::error::VolumeError;
use super::scratch::Share;
use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, Persistent, Prepared, Published, Store, StoreError, Strays};
use crate::sync::{Event, Gate, Tracked};
use crate::table::Table;

/// Data in the chunks of unpublished exceptions, in bytes, that is much: whoever writes back publishes it.
const MUCH_BYTES: u64 = 256 << 20;

/// So many unpublished exceptions are much, however small their chunks.
const MUCH: u64 = 65_536;

/// What a write to the origin does when a snapshot that needs the old data has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFull {
    /// The snapshot is dropped, durably, and the write goes on: what kernels do.
    #[default]
    Invalidate,
    /// The write fails with "no space".
    Fail,
    /// The write waits for room, at most this many [ticks](super::Volume::tick), then fails.
    Wait {
        /// How many.
        ticks: u32,
    },
}

/// How a snapshot behaves.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    /// How large the snapshot is: the origin may have been made longer since. By default as the origin.
    pub len_bytes: Option<u64>,
    /// What an opening for writing does with what lies after the end of the store's list.
    pub strays: Strays,
    /// What happens to origin writes when the store is full.
    pub on_full: OnFull,
    /// Up to how many bytes the COW device is grown when it is full, if it can grow.
    pub max_bytes: Option<u64>,
    /// Discards of whole chunks that have an exception zero them, as in kernels with
    /// `discard_zeroes_cow`. Without it discards of the snapshot do nothing.
    pub discard_zeroes: bool,
    /// Discards go to the origin as well, which keeps the old data for every snapshot first.
    pub discard_passdown: bool,
}

/// How a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Reads and writes.
    Active,
    /// A write found no room: it failed, reads are right, and writes that need no room go on.
    Overflowed,
    /// Dropped: nothing can be read or written any more.
    Invalid,
}

/// One snapshot of a volume.
#[derive(Debug)]
pub struct Snapshot<C> {
    pub(super) name: String,
    /// No other snapshot of the volume has, or ever had it.
    id: u64,
    len_bytes: u64,
    pub(super) options: SnapshotOptions,
    pub(super) store: AnyStore<C>,
    pub(super) chunk_size: ChunkSize,
    /// What reads see: complete exceptions, published or not.
    pub(super) table: RefCell<Table>,
    unpublished: RefCell<Unpublished>,
    /// Below this ticket nobody tries again to publish what has become much.
    much_tried: Cell<u64>,
    /// Origin chunks whose new exception is being made.
    pending: RefCell<HashSet<u64>>,
    /// How many pending exceptions were settled so far.
    settled: Cell<u64>,
    /// A pending exception was settled, or the state changed.
    changed: Event,
    state: Cell<State>,
    /// A merge of it was begun.
    pub(super) was_merged: Cell<bool>,
    /// Every write to this snapshot is inside; closed while it is taken out, and while its merge begins or
    /// is given up.
    pub(super) gate: Gate,
    /// How many calls write the mark of a dropped snapshot at the moment.
    marking: Cell<u32>,
    /// It was dropped, and its store does not say so.
    unmarked: Cell<bool>,
    /// It is no longer of the volume: nobody begins to write to its store.
    out: Cell<bool>,
    /// Publishes and marks under way, each of all bytes.
    store_writes: Tracked,
    /// Reads of the COW device under way, by bytes of the snapshot.
    pub(super) cow_reads: Tracked,
    /// Writes in place under way, by bytes of the snapshot.
    pub(super) cow_writes: Tracked,
    /// Of the memory for copying.
    pub(super) share: Rc<Share>,
}

/// Exceptions that reads see and a crash would lose.
#[derive(Debug, Default)]
struct Unpublished {
    by_old: HashMap<u64, u64>,
    by_ticket: BTreeMap<u64, u64>,
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
        Self {
            name,
            id,
            len_bytes,
            options,
            chunk_size: store.chunk_size(),
            store,
            table: table.into(),
            unpublished: RefCell::default(),
            much_tried: Cell::default(),
            pending: RefCell::default(),
            settled: Cell::default(),
            changed: Event::default(),
            state: State::Active.into(),
            was_merged: Cell::default(),
            gate: Gate::default(),
            marking: Cell::default(),
            unmarked: Cell::default(),
            out: Cell::default(),
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

    /// Its size, in bytes. Where the origin is longer, what lies past that is no part of the snapshot, and
    /// nothing of it is kept.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The unit of copying.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
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
        self.state.get()
    }

    /// How many exceptions reads see.
    pub fn exceptions(&self) -> u64 {
        self.table.borrow().len()
    }

    /// How many of them a crash would lose.
    pub fn unpublished(&self) -> u64 {
        self.unpublished.borrow().by_ticket.len() as u64
    }

    fn much(&self) -> u64 {
        (MUCH_BYTES / self.chunk_size.bytes()).clamp(1, MUCH)
    }

    /// Should what was written be published, although nobody has asked for it? A flush would take ever
    /// longer, and a crash lose ever more.
    pub(super) fn is_much_unpublished(&self) -> bool {
        self.unpublished() >= self.much()
            && self.state.get() != State::Invalid
            && !self.store.is_broken()
            && self.newest_ticket() >= Some(self.much_tried.get())
    }

    /// Somebody has tried to publish it. If that was in vain, it is tried again when as much has come again.
    pub(super) fn tried_to_publish(&self) {
        self.much_tried.set(self.newest_ticket().unwrap_or(0) + self.much());
    }

    /// The store's numbers; `None` if it is invalid.
    pub fn usage(&self) -> Option<Usage> {
        match self.state.get() {
            State::Invalid => None,
            _ => self.store.usage().ok(),
        }
    }

    /// Which bytes of a range have an exception: lengths in bytes, one behind the other from the
    /// beginning of the range on, at most `most` of them. These are the chunks in which snapshot and
    /// origin have differed since the snapshot was made.
    pub fn changes(&self, range: Range<u64>, most: usize) -> Vec<(u64, bool)> {
        let chunk = self.chunk_size.bytes();
        let table = self.table.borrow();
        let mut found = Vec::new();
        let mut at = range.start;
        for run in table.runs_from(OriginChunk::new(at / chunk)) {
            let begin = run.old.get().saturating_mul(chunk).clamp(at, range.end);
            let end = (run.old.get() + run.len).saturating_mul(chunk).clamp(begin, range.end);
            found.extend((begin > at).then_some((begin - at, false)));
            found.extend((end > begin).then_some((end - begin, true)));
            at = end;
            if at == range.end || found.len() >= most {
                break;
            }
        }
        found.extend((at < range.end).then_some((range.end - at, false)));
        found.truncate(most);
        found
    }

    /// Bytes of memory of its table.
    pub fn memory_bytes(&self) -> usize {
        self.table.borrow().memory_bytes()
    }

    pub(super) fn usable(&self) -> io::Result<()> {
        match self.state.get() {
            State::Invalid => Err(VolumeError::Invalid.into()),
            State::Active | State::Overflowed => Ok(()),
        }
    }

    /// An error if it was [taken out](Self::take_out).
    pub(super) fn present(&self) -> io::Result<()> {
        match self.is_out() {
            true => Err(VolumeError::TakenOut.into()),
            false => Ok(()),
        }
    }

    /// Do origin writes keep old data in it?
    pub(super) fn is_kept(&self) -> bool {
        self.state.get() != State::Invalid && !self.is_out()
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.get() && !planted(Planted::RemovedIsWritten)
    }

    /// From now on nobody begins to write to its store, except the caller.
    pub(super) fn take_out(&self) {
        self.out.set(true);
        self.changed.notify();
    }

    /// Returns when what was being written to its store as it was [taken out](Self::take_out) has ended.
    pub(super) async fn at_rest(&self) {
        if planted(Planted::RemovedIsWritten) {
            return;
        }
        let _nobody_writes = self.gate.close().await;
        self.all_settled().await;
        self.store_writes.wait_clear(0..1).await;
    }

    pub(super) fn writable(&self) -> io::Result<()> {
        self.usable()?;
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
        let chunks = self.chunks(range);
        let lost = match self.store.persistent() {
            Some(_) => self.newest_ticket_in(range).is_some(),
            None => {
                let next = self.table.borrow().next_run(OriginChunk::new(chunks.start));
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
        self.chunks(range).all(|old| self.has(old) && self.ticket_of(old).is_none())
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.store.persistent().is_some_and(Persistent::is_read_only)
    }

    /// The chunks that the part of a range touches that lies in the snapshot. Kernel: `__origin_write`, which
    /// goes by where a write begins.
    pub(super) fn chunks(&self, range: &Range<u64>) -> Range<u64> {
        let chunk = self.chunk_size.bytes();
        let first = range.start / chunk;
        match range.end.min(self.len_bytes) {
            end if end > range.start => first..end.div_ceil(chunk),
            _ => first..first,
        }
    }

    /// The bytes of the first run of chunks with an exception that ends after `at`, from `at` on; not past
    /// the snapshot's end, whatever its last chunk holds.
    pub(super) fn next_saved(&self, at: u64) -> Option<Range<u64>> {
        self.next_stored(at).map(|(range, _)| range)
    }

    /// The same, and its first byte on the COW device.
    pub(super) fn next_stored(&self, at: u64) -> Option<(Range<u64>, u64)> {
        let chunk = self.chunk_size.bytes();
        let run = self.table.borrow().next_run(OriginChunk::new(at / chunk))?;
        let begin = run.old.get() * chunk;
        let start = begin.max(at);
        let end = (begin + run.len * chunk).min(self.len_bytes);
        (start < end).then(|| (start..end, run.new.get() * chunk + (start - begin)))
    }

    /// The bytes of a chunk, up to the end of a device of `len` bytes.
    pub(super) fn chunk_range(&self, old: u64, len: u64) -> Range<u64> {
        let chunk = self.chunk_size.bytes();
        old * chunk..((old + 1) * chunk).min(len)
    }

    pub(super) fn has(&self, old: u64) -> bool {
        self.table.borrow().get(OriginChunk::new(old)).is_some()
    }

    pub(super) fn is_pending(&self, old: u64) -> bool {
        self.pending.borrow().contains(&old) && !planted(Planted::TwoExceptions)
    }

    /// The ticket that has to be published before an origin write to this chunk, which has an
    /// exception; `None` if that is published.
    pub(super) fn ticket_of(&self, old: u64) -> Option<u64> {
        self.unpublished.borrow().by_old.get(&old).copied()
    }

    /// The newest ticket of any chunk that a range touches. A range may have millions of chunks, of which
    /// few are unpublished.
    pub(super) fn newest_ticket_in(&self, range: &Range<u64>) -> Option<u64> {
        let chunks = self.chunks(range);
        let unpublished = self.unpublished.borrow();
        match chunks.end - chunks.start > unpublished.by_old.len() as u64 {
            true => {
                let inside = unpublished.by_old.iter().filter(|(old, _)| chunks.contains(old));
                inside.map(|(_, ticket)| *ticket).max()
            }
            false => chunks.filter_map(|old| unpublished.by_old.get(&old).copied()).max(),
        }
    }

    /// The newest ticket that reads see and a crash would lose.
    pub(super) fn newest_ticket(&self) -> Option<u64> {
        self.unpublished.borrow().by_ticket.keys().next_back().copied()
    }

    /// Gives out a chunk for `old`, which is pending from now on; `None` if somebody else came
    /// first, maybe while the COW device grew, for this chunk or for one before.
    pub(super) async fn begin(&self, old: u64) -> Result<Option<Prepared>, StoreError> {
        if self.has(old) || self.is_pending(old) {
            return Ok(None);
        }
        loop {
            match self.store.prepare() {
                // Others may take what was grown before this one looks again.
                Err(StoreError::Full) => self.grow().await?,
                prepared => {
                    let prepared = prepared?;
                    self.pending.borrow_mut().insert(old);
                    return Ok(Some(prepared));
                }
            }
            if self.has(old) || self.is_pending(old) {
                return Ok(None);
            }
        }
    }

    /// The same, as long as that needs no request of the COW device.
    pub(super) fn begin_at_once(&self, old: u64) -> Result<Option<Prepared>, StoreError> {
        if self.has(old) || self.is_pending(old) {
            return Ok(None);
        }
        let prepared = self.store.prepare()?;
        self.pending.borrow_mut().insert(old);
        Ok(Some(prepared))
    }

    /// Makes the COW device longer, as far as allowed. Without room below it that is what it is without
    /// leave to grow: full.
    async fn grow(&self) -> Result<(), StoreError> {
        const LEAST: u64 = 16 << 20;
        let cow = self.store.device();
        let failed = |source| StoreError::Io { doing: "cannot grow the COW device".into(), source };
        let len = cow.len_bytes().map_err(failed)?;
        let most = self.options.max_bytes.unwrap_or(0);
        if len >= most {
            return Err(StoreError::Full);
        }
        let grown = cow.grow((len + LEAST.max(len / 8)).min(most)).await;
        match grown {
            Err(error) if planted(Planted::GrowthFails) => Err(failed(error)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported || is_no_room(&error) => {
                Err(StoreError::Full)
            }
            Err(error) => Err(failed(error)),
            Ok(()) if cow.len_bytes().map_err(failed)? > len => Ok(()),
            Ok(()) => Err(StoreError::Full),
        }
    }

    /// The chunk holds the data of `old`: from now on reads see it.
    pub(super) fn complete(&self, prepared: Prepared, old: u64) {
        let exception = Exception { old: OriginChunk::new(old), new: prepared.chunk() };
        let ticket = prepared.ticket();
        self.store.commit(prepared, exception.old);
        let inserted = self.table.borrow_mut().insert(exception);
        debug_assert!(inserted.is_ok(), "chunk {old} was pending twice");
        let mut unpublished = self.unpublished.borrow_mut();
        unpublished.by_old.insert(old, ticket);
        unpublished.by_ticket.insert(ticket, old);
        drop(unpublished);
        self.end(old);
    }

    /// The chunk is not needed, or its copy failed.
    pub(super) fn give_up(&self, prepared: Prepared, old: u64) {
        self.store.abandon(prepared);
        self.end(old);
    }

    fn end(&self, old: u64) {
        self.pending.borrow_mut().remove(&old);
        self.settled.set(self.settled.get() + 1);
        self.changed.notify();
    }

    /// Returns when no new exception for `old` is being made.
    pub(super) async fn settled(&self, old: u64) {
        self.changed.wait_until(|| !self.is_pending(old)).await;
    }

    /// Returns when no new exception is being made at all.
    pub(super) async fn all_settled(&self) {
        self.changed.wait_until(|| self.pending.borrow().is_empty()).await;
    }

    /// Publishes everything up to and including `ticket`. Older chunks that still wait for their
    /// data are waited for. Returns true if the COW device was flushed for it after the call.
    pub(super) async fn publish_through(&self, ticket: u64) -> Result<bool, StoreError> {
        let mut flushed = false;
        loop {
            let before = self.settled.get();
            let published: Published = {
                let _under_way = self.store_writes.enter(0..1);
                self.store.publish().await?
            };
            flushed |= published.flushed;
            self.forget_published(published.next_ticket);
            if published.next_ticket > ticket {
                return Ok(flushed);
            }
            if !self.is_kept() {
                return Err(StoreError::Invalid);
            }
            // An older chunk has no data yet. What was settled while the publish was under way
            // counts as well.
            let waiting = || self.settled.get() == before && self.is_kept();
            self.changed.wait_until(|| !waiting()).await;
        }
    }

    fn forget_published(&self, next_ticket: u64) {
        let mut unpublished = self.unpublished.borrow_mut();
        let rest = unpublished.by_ticket.split_off(&next_ticket);
        for old in std::mem::replace(&mut unpublished.by_ticket, rest).into_values() {
            unpublished.by_old.remove(&old);
        }
    }

    pub(super) fn set_overflowed(&self, overflowed: bool) {
        if self.state.get() != State::Invalid {
            self.state.set(if overflowed { State::Overflowed } else { State::Active });
            self.changed.notify();
        }
    }

    /// Drops the snapshot, durably before this returns. Every origin write that relies on it waits for that.
    /// If the COW device fails here too, the snapshot is dropped in memory only, the error says so, and
    /// origin writes that need the mark fail until [it is written](Self::mark_again).
    pub(super) async fn invalidate(&self) -> Result<(), StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        self.state.set(State::Invalid);
        self.marking.set(self.marking.get() + 1);
        let marked = self.mark().await;
        self.marking.set(self.marking.get() - 1);
        self.unmarked.set(marked.is_err());
        self.changed.notify();
        marked
    }

    /// Writes the mark of a snapshot that was dropped without one. Origin writes do not wait for it: they
    /// fail until it is there.
    pub(super) async fn mark_again(&self) -> Result<(), StoreError> {
        let marked = self.mark().await;
        self.unmarked.set(marked.is_err());
        marked
    }

    async fn mark(&self) -> Result<(), StoreError> {
        let _under_way = self.store_writes.enter(0..1);
        self.store.invalidate().await
    }

    /// True if it was dropped and its COW device has not taken the mark: whoever opens the store believes
    /// it. See [`mark_dropped`](super::Volume::mark_dropped).
    pub fn is_unmarked(&self) -> bool {
        self.unmarked.get() && !self.is_marking()
    }

    pub(super) fn is_marking(&self) -> bool {
        self.marking.get() > 0 && !planted(Planted::UnmarkedLetsThrough)
    }

    /// Returns when nobody writes the mark of a dropped snapshot any more.
    pub(super) async fn marked(&self) {
        self.changed.wait_until(|| !self.is_marking()).await;
    }
}
