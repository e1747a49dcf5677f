use std::cell::{Cell, RefCell};

use dmsnap_format::{
    ChunkSize, Exception, Extents, Layout, OriginChunk, RawException, SLOT_BYTES, Usage,
};
use futures_util::lock::Mutex;
use zerocopy::IntoBytes;

use super::header::{read_header, write_invalid};
use super::queue::Queue;
use super::room::Room;
use super::scan::{End, read_exceptions, read_range, read_strays};
use super::{Ledger, Place, Prepared, Published, Store, StoreError};
use crate::device::{Allocation, Barrier, Buffer, Device, is_no_room};
use crate::planted::{Planted, planted};

/// The kernel's exception store, open for writing: the header in chunk 0, areas of slots, and the
/// copied chunks between them.
///
/// Slots are filled in the order chunks were given out, each with the chunk as far behind its area
/// as the slot is inside it, wherever the store allows it, because every kernel then finds the same
/// next free chunk.
#[derive(Debug)]
pub struct Persistent<D> {
    cow: D,
    layout: Layout,
    /// Slots in what the device writes untorn.
    unit_slots: u64,
    standing: Cell<Standing>,
    /// Exceptions on the medium: the index of the first free slot.
    published: Cell<u64>,
    room: RefCell<Room>,
    queue: RefCell<Queue>,
    /// Held by whoever writes metadata.
    writer: Mutex<()>,
    metadata_writes: Cell<u64>,
    flushes: Cell<u64>,
    barrier: Barrier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Usable,
    ReadOnly,
    Invalid,
    Broken,
}

struct BreaksWhenDropped<'a>(&'a Cell<Standing>);

impl Drop for BreaksWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.set(Standing::Broken);
    }
}

impl<D: Device> Persistent<D> {
    /// Opens a valid store for writing. Every exception is held against the devices' sizes and
    /// against each other, then handed to `visit`, in order.
    ///
    /// `origin_bytes` is the size of the origin, if there is one to hold exceptions against.
    ///
    /// # Ordering
    ///
    /// 1. read header, areas and what lies behind the terminator
    /// 2. flush                          - what was read is durable
    /// 3. if there are strays: zero them, flush
    ///
    /// Whoever wrote the store last may have been killed between the slots and their flush; origin writes
    /// rely on every exception that was read. A crash before the flush in 3 leaves some of the strays; they
    /// are behind the terminator as before, and the next opening finds them again. Until 3 is done, nothing
    /// else is written.
    ///
    /// # Errors
    ///
    /// Why the store cannot be opened or must not be written: nothing was written then, but for a
    /// failure in 3.
    pub async fn open(
        cow: D,
        origin_bytes: Option<u64>,
        visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        Self::open_read_only(cow, origin_bytes, visit).await?.into_writable().await
    }

    /// Opens a valid store for looking at what the snapshot shows. Nothing is ever written to the
    /// device; what lies behind the terminator stays there and counts for nothing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_read_only(
        cow: D,
        origin_bytes: Option<u64>,
        visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        let store = Self::load(cow, origin_bytes, visit).await?;
        store.standing.set(Standing::ReadOnly);
        Ok(store)
    }

    /// Makes a store that was opened to be looked at one that may be written. So whoever has doubts
    /// about a store judges it in between, and the list is read once.
    ///
    /// # Ordering
    ///
    /// Steps 2 and 3 of [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) in these steps.
    pub async fn into_writable(self) -> Result<Self, StoreError> {
        self.standing.set(Standing::Usable);
        if !planted(Planted::BelieveWithoutFlush) {
            let flushed = self.barrier.flush(&self.cow).await;
            flushed.map_err(StoreError::io("cannot make durable what was read"))?;
        }
        self.scrub(self.published.get()).await?;
        Ok(self)
    }

    async fn load(
        cow: D,
        origin_bytes: Option<u64>,
        mut visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        let header = read_header(&cow).await?;
        if !header.valid && !planted(Planted::InvalidOpens) {
            return Err(StoreError::Invalid);
        }
        let layout = Layout::new(header.chunk_size);
        let cow_bytes = cow.len_bytes().map_err(StoreError::io("cannot find out the size"))?;
        let extents = Extents::new(layout, cow_bytes, origin_bytes);
        let mut ledger = Ledger::new(extents);
        let (published, end) = read_exceptions(&cow, extents, |index, exception| {
            let admitted = ledger.admit(exception).map_err(|fault| StoreError::Fault {
                place: Place::of(layout, index),
                exception,
                fault,
            });
            if !planted(Planted::BelieveExceptions) {
                admitted?;
            }
            visit(exception);
            Ok::<_, StoreError>(())
        })
        .await?;
        if let End::Missing { area } = end {
            return Err(StoreError::NoTerminator { area, cow_bytes });
        }
        Ok(Self {
            layout,
            unit_slots: layout.slots_per_unit(cow.block_bytes()),
            standing: Cell::new(Standing::Usable),
            published: Cell::new(published),
            room: RefCell::new(Room::new(&ledger, extents.cow_chunks)),
            queue: RefCell::default(),
            writer: Mutex::new(()),
            metadata_writes: Cell::new(0),
            flushes: Cell::new(0),
            barrier: Barrier::default(),
            cow,
        })
    }

    /// True if it was opened to be looked at only.
    pub fn is_read_only(&self) -> bool {
        self.standing.get() == Standing::ReadOnly
    }

    /// The COW device.
    pub fn device(&self) -> &D {
        &self.cow
    }

    /// Where everything lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Slots in what the device writes untorn: clearing inside one such unit takes one write.
    pub fn unit_slots(&self) -> u64 {
        self.unit_slots
    }

    /// Writes of slots, counted since the store was opened.
    pub fn metadata_writes(&self) -> u64 {
        self.metadata_writes.get()
    }

    /// Flushes of the COW device, counted since the store was opened.
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// True if chunks are prepared or committed that no publish has made durable.
    pub fn has_unpublished(&self) -> bool {
        self.queue.borrow().slots() > 0
    }

    /// Reads the exceptions with these indexes from the medium, all of them published.
    ///
    /// # Errors
    ///
    /// An error of the device.
    pub async fn read_range(
        &self,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<Exception>, StoreError> {
        read_range(&self.cow, self.layout, range).await
    }

    /// Zeroes what lies behind the terminator in the last area. Kernels keep it, and bring it back
    /// to life once the slots before it are filled.
    async fn scrub(&self, terminator: u64) -> Result<(), StoreError> {
        if planted(Planted::KeepStrays) || planted(Planted::KeepTail) {
            return Ok(());
        }
        let mut strays: Option<(u64, u64)> = None;
        read_strays(&self.cow, self.layout, terminator, |index, _| {
            strays = Some((strays.map_or(index, |(first, _)| first), index));
        })
        .await?;
        let Some((first, last)) = strays else {
            return Ok(());
        };
        self.change(async {
            let first = first - first % self.unit_slots;
            for unit in (first..=last).step_by(usize::try_from(self.unit_slots).unwrap_or(1)) {
                self.write_unit(unit, terminator.max(unit), &[]).await?;
            }
            self.make_durable("what lies behind the terminator").await
        })
        .await
    }

    /// Writes one untorn unit of slots: what it holds below slot `keep` is read and kept,
    /// `exceptions` follow, and zeroes behind them.
    async fn write_unit(
        &self,
        unit: u64,
        keep: u64,
        exceptions: &[Exception],
    ) -> Result<(), StoreError> {
        let place = Place::of(self.layout, unit);
        let failed = || StoreError::io(format!("cannot write area {}", place.area));
        let at = self.slot_byte(unit)?;
        let kept = slot_bytes(keep - unit);
        let mut bytes = if kept > 0 || planted(Planted::KeepTail) {
            let len = slot_bytes(self.unit_slots);
            let read = self.cow.read(at, len).await;
            read.map_err(StoreError::io(format!("cannot read area {}", place.area)))?
        } else {
            Buffer::zeroed(slot_bytes(self.unit_slots))
        };
        if !planted(Planted::KeepTail) || exceptions.is_empty() {
            bytes[kept..].fill(0);
        }
        put_slots(&mut bytes[kept..], exceptions);
        self.metadata_writes.set(self.metadata_writes.get() + 1);
        self.cow.write(at, bytes.freeze()).await.map_err(failed())
    }

    async fn make_durable(&self, what: &str) -> Result<(), StoreError> {
        self.flushes.set(self.flushes.get() + 1);
        let flushed = match planted(Planted::GoOnAfterFailure) {
            true => self.cow.flush().await,
            false => self.barrier.flush(&self.cow).await,
        };
        flushed.map_err(StoreError::io(format!("cannot make {what} durable")))
    }

    fn slot_byte(&self, index: u64) -> Result<u64, StoreError> {
        self.layout.slot_byte(index).ok_or(StoreError::Full)
    }

    fn usable(&self) -> Result<(), StoreError> {
        match self.standing.get() {
            Standing::Usable => Ok(()),
            Standing::ReadOnly => Err(StoreError::ReadOnly),
            Standing::Invalid => Err(StoreError::Invalid),
            Standing::Broken => Err(StoreError::Broken),
        }
    }

    /// Runs a change of the medium. If it fails, or is given up half-way, the store is broken.
    async fn change(
        &self,
        change: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let unfinished = BreaksWhenDropped(&self.standing);
        let changed = change.await;
        if changed.is_ok() || planted(Planted::GoOnAfterFailure) {
            std::mem::forget(unfinished);
        }
        changed
    }

    /// The same for a change that no reader can see yet: where there is no room for it, the store is as it
    /// was, and may be used on.
    async fn change_unseen(
        &self,
        change: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let unfinished = BreaksWhenDropped(&self.standing);
        let ended = change.await;
        let harmless = match &ended {
            Ok(()) => true,
            Err(StoreError::Io { source, .. }) => is_no_room(source),
            Err(_) => false,
        };
        if harmless {
            std::mem::forget(unfinished);
        }
        ended
    }

    /// Those of `exceptions`, from slot `first` on, that lie in its area; and the others.
    fn split<'e>(
        &self,
        first: u64,
        exceptions: &'e [Exception],
    ) -> (&'e [Exception], &'e [Exception]) {
        let (_, slot) = self.layout.position(first);
        let room = self.layout.exceptions_per_area() - slot;
        exceptions.split_at(exceptions.len().min(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    /// Writes what follows the area of slot `first`, which nobody can reach yet. See [`Store::publish`].
    async fn write_behind(&self, first: u64, exceptions: &[Exception]) -> Result<(), StoreError> {
        let per_area = self.layout.exceptions_per_area();
        let (area, _) = self.layout.position(first);
        let (_, behind) = self.split(first, exceptions);
        let mut areas = behind.chunks(usize::try_from(per_area).unwrap_or(usize::MAX));
        let mut next = area + 1;
        for slots in areas.by_ref() {
            self.write_area(next, slots).await?;
            next += 1;
        }
        let full = (first + exceptions.len() as u64).is_multiple_of(per_area);
        if full && !planted(Planted::NoTerminatorArea) {
            self.write_area(next, &[]).await?;
        }
        Ok(())
    }

    /// Makes that durable, and writes what links it. See [`Store::publish`].
    async fn link(&self, first: u64, exceptions: &[Exception]) -> Result<(), StoreError> {
        if !planted(Planted::PublishBeforeData) {
            self.make_durable("copied chunks").await?;
        }
        let mut keep = first;
        let (mut rest, _) = self.split(first, exceptions);
        while !rest.is_empty() {
            let unit = keep - keep % self.unit_slots;
            let fits = usize::try_from(unit + self.unit_slots - keep).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(fits));
            self.write_unit(unit, keep, now).await?;
            if later.is_empty() || !planted(Planted::UnitsWithoutFlush) {
                self.make_durable("exceptions").await?;
            }
            keep += now.len() as u64;
            rest = later;
        }
        if planted(Planted::AreasAfterLink) {
            self.write_behind(first, exceptions).await?;
        }
        Ok(())
    }

    /// Writes a whole area that no reader can reach yet: `exceptions` and zeroes behind them.
    async fn write_area(&self, area: u64, exceptions: &[Exception]) -> Result<(), StoreError> {
        let failed = || StoreError::io(format!("cannot write area {area}"));
        let at = self.slot_byte(area * self.layout.exceptions_per_area())?;
        let used = exceptions.len() as u64 * SLOT_BYTES;
        let used = used.next_multiple_of(self.unit_slots * SLOT_BYTES);
        if used > 0 {
            let mut bytes = Buffer::zeroed(usize::try_from(used).unwrap_or(0));
            put_slots(&mut bytes, exceptions);
            self.metadata_writes.set(self.metadata_writes.get() + 1);
            self.cow.write(at, bytes.freeze()).await.map_err(failed())?;
        }
        let rest = self.layout.chunk_size().bytes() - used;
        if rest > 0 {
            self.metadata_writes.set(self.metadata_writes.get() + 1);
            let zeroed = self.cow.write_zeroes(at + used, rest, Allocation::Keep).await;
            zeroed.map_err(failed())?;
        }
        Ok(())
    }

    /// Zeroes the slots from `first` on that lie in its area and below `end`.
    async fn zero_slots(&self, first: u64, end: u64) -> Result<(), StoreError> {
        let (area, _) = self.layout.position(first);
        let end = end.min((area + 1) * self.layout.exceptions_per_area());
        let mut unit = (end - 1) - (end - 1) % self.unit_slots;
        loop {
            self.write_unit(unit, first.max(unit), &[]).await?;
            self.make_durable("cleared exceptions").await?;
            if unit <= first {
                return Ok(());
            }
            unit -= self.unit_slots;
        }
    }

    /// See [`Store::invalidate`].
    async fn mark_invalid(&self) -> Result<(), StoreError> {
        write_invalid(&self.cow, self.layout.chunk_size()).await?;
        if planted(Planted::InvalidWithoutFlush) {
            return Ok(());
        }
        self.flushes.set(self.flushes.get() + 1);
        // Also on a device whose flush failed before: that is often why the snapshot is dropped.
        let flushed = self.barrier.flush_after_failure(&self.cow).await;
        flushed.map_err(StoreError::io("cannot mark the store as invalid"))
    }
}

impl<D: Device> Store for Persistent<D> {
    fn chunk_size(&self) -> ChunkSize {
        self.layout.chunk_size()
    }

    /// Never gives out a chunk whose slot would fill an area behind which the next one does not
    /// fit: the kernel does, finds no room for the terminator, and drops the snapshot.
    fn prepare(&self) -> Result<Prepared, StoreError> {
        self.usable()?;
        let mut queue = self.queue.borrow_mut();
        let index = self.published.get() + queue.slots();
        let mut room = self.room.borrow_mut();
        let chunk = match room.take(self.layout, index) {
            Some(chunk) => chunk,
            None => {
                let grown = self.cow.len_bytes();
                let grown = grown.map_err(StoreError::io("cannot find out the size"))?;
                room.cow_chunks = self.layout.chunk_size().whole_chunks(grown);
                room.take(self.layout, index).ok_or(StoreError::Full)?
            }
        };
        Ok(queue.push(chunk))
    }

    fn commit(&self, prepared: Prepared, old: OriginChunk) {
        self.queue.borrow_mut().commit(&prepared, old);
    }

    fn abandon(&self, prepared: Prepared) {
        self.queue.borrow_mut().abandon(&prepared);
        self.room.borrow_mut().take_back(self.layout, prepared.chunk);
    }

    /// # Ordering
    ///
    /// Let F be the area with the first free slot and L the last one touched.
    ///
    /// 1. write the copied data chunks            (done by the caller, not yet flushed)
    /// 2. write areas F+1 to L, zeroes behind their slots; if L is full, zeroes to area L+1
    /// 3. flush                                   - data and everything unreachable is durable
    /// 4. write what changes in F, one untorn unit at a time, lowest first
    /// 5. flush after each unit                   - the exceptions exist
    ///
    /// A crash before 4 leaves the list as it was: it ends inside F. A crash in 4 or 5 leaves a
    /// first part of the new exceptions, all with their data; what lies behind F is reached only
    /// with F full, and is whole then. No crash leaves a slot behind a gap.
    ///
    /// If there is no room for 2 below the device, nothing has happened that counts: the next publish
    /// writes all of it again.
    async fn publish(&self) -> Result<Published, StoreError> {
        let _turn = self.writer.lock().await;
        self.usable()?;
        let (entries, exceptions) = self.queue.borrow().settled();
        if !exceptions.is_empty() {
            let first = self.published.get();
            if !planted(Planted::AreasAfterLink) {
                self.change_unseen(self.write_behind(first, &exceptions)).await?;
            }
            self.change(self.link(first, &exceptions)).await?;
            self.published.set(first + exceptions.len() as u64);
            let mut in_lock_step = (first..)
                .zip(&exceptions)
                .map(|(index, exception)| exception.new == self.layout.lock_step_chunk(index));
            self.room.borrow_mut().in_order &= in_lock_step.all(|yes| yes);
        }
        let next_ticket = self.queue.borrow_mut().drop_front(entries);
        Ok(Published { next_ticket, flushed: !exceptions.is_empty() })
    }

    /// # Ordering
    ///
    /// Only the area that holds the first cleared slot is written: what lies behind it cannot be
    /// reached any more.
    ///
    /// 1. zero the slots in it, one untorn unit at a time, highest first
    /// 2. flush after each unit
    ///
    /// A crash leaves a first part of the list, at least what was to stay, and no slot behind a
    /// gap. Memory changes only when everything has succeeded.
    async fn clear(&self, count: u64) -> Result<(), StoreError> {
        let _turn = self.writer.lock().await;
        self.usable()?;
        debug_assert!(!self.has_unpublished(), "a snapshot that merges takes no new exceptions");
        let end = self.published.get();
        let first = end.saturating_sub(count);
        if planted(Planted::MemoryBeforeClear) {
            self.published.set(first);
            return self.zero_slots(first, end).await;
        }
        if first < end {
            let from = if planted(Planted::ClearFront) { 0 } else { first };
            self.change(self.zero_slots(from, end - first + from)).await?;
            self.published.set(first);
            self.room.borrow_mut().cleared(self.layout, first);
        }
        Ok(())
    }

    /// # Ordering
    ///
    /// 1. write the first block of the header
    /// 2. flush
    ///
    /// The caller lets no origin write through that relies on it before this has returned. The
    /// kernel flushes nothing here: a power cut can leave its snapshot valid and wrong. Nothing else
    /// keeps a later reader from believing the snapshot, so an error is not the last word: both are
    /// tried twice.
    async fn invalidate(&self) -> Result<(), StoreError> {
        let _turn = self.writer.lock().await;
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        self.standing.set(Standing::Invalid);
        match self.mark_invalid().await {
            Ok(()) => Ok(()),
            Err(_) => self.mark_invalid().await,
        }
    }

    async fn flush(&self) -> Result<(), StoreError> {
        if self.is_read_only() {
            return Ok(());
        }
        // A clear that failed may have reached the medium, and then what was written to its chunks since
        // is in no exception.
        if self.standing.get() == Standing::Broken && !planted(Planted::FlushWhenBroken) {
            return Err(StoreError::Broken);
        }
        if planted(Planted::ForgetFailedFlush) {
            return self.cow.flush().await.map_err(StoreError::io("cannot flush"));
        }
        let flushed = self.make_durable("what was written").await;
        if flushed.is_err() && self.standing.get() == Standing::Usable {
            self.standing.set(Standing::Broken);
        }
        flushed
    }

    fn is_broken(&self) -> bool {
        self.standing.get() == Standing::Broken
    }

    fn published(&self) -> u64 {
        self.published.get()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        if self.standing.get() == Standing::Invalid {
            return Err(StoreError::Invalid);
        }
        let cow_bytes = self.cow.len_bytes().map_err(StoreError::io("cannot find out the size"))?;
        let chunk = u64::from(self.layout.chunk_size().sectors());
        let (area, _) = self.layout.position(self.published.get());
        Ok(Usage {
            total: cow_bytes / dmsnap_format::SECTOR_BYTES,
            allocated: self.room.borrow().next_free.get().saturating_mul(chunk),
            metadata: (area + 2) * chunk,
        })
    }
}

fn slot_bytes(slots: u64) -> usize {
    usize::try_from(slots * SLOT_BYTES).unwrap_or(usize::MAX)
}

fn put_slots(bytes: &mut [u8], exceptions: &[Exception]) {
    let slots = bytes.chunks_exact_mut(size_of::<RawException>());
    for (slot, exception) in slots.zip(exceptions) {
        slot.copy_from_slice(RawException::from(*exception).as_bytes());
    }
}
