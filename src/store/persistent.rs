mod label; // whom it belongs to
mod mark; // a dropped snapshot says so
mod opening; // what an opening for writing puts in order

use std::cell::{Cell, RefCell};

use dmsnap_format::{ChunkSize, Exception, Layout, OriginChunk, Tag, Usage};
use futures_util::lock::Mutex;

use super::queue::Queue;
use super::room::Room;
use super::scan::read_range;
use super::slots::Slots;
use super::{Loaded, Prepared, Published, Store, StoreError, Strays};
use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};

/// The kernel's exception store, open for writing: the header in chunk 0, areas of slots, and the
/// copied chunks between them.
///
/// Slots are filled in the order chunks were given out, each with the chunk as far after its area
/// as the slot is inside it, wherever the store allows it, because every kernel then finds the same
/// next free chunk.
#[derive(Debug)]
pub struct Persistent<D> {
    slots: Slots<D>,
    standing: Cell<Standing>,
    /// Exceptions on the medium: the index of the first free slot.
    published: Cell<u64>,
    room: RefCell<Room>,
    queue: RefCell<Queue>,
    tag: RefCell<Option<Box<Tag>>>,
    /// Held while metadata is written.
    writer: Mutex<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Usable,
    /// Opened to be looked at only.
    ReadOnly,
    /// Dropped.
    Invalid,
    /// What is on the medium is unknown.
    Broken,
}

struct BreaksWhenDropped<'a>(&'a Cell<Standing>);

impl Drop for BreaksWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.set(Standing::Broken);
    }
}

impl<D: Device> Loaded<D> {
    /// Opens it for writing.
    ///
    /// # Ordering
    ///
    /// 1. read what lies after the terminator, past any cache
    ///    (holes in the area in force are filled with zeroes, which is what they read as)
    /// 2. flush                          - what was read is durable
    /// 3. if there are strays: zero them, flush
    ///
    /// The last writer of the store may have been killed between the slots and their flush; origin writes
    /// rely on every exception that was read. A crash before the flush in 3 leaves some of the strays, as
    /// far out of reach as before, and the next opening finds them again. Until 3 is done, nothing else is
    /// written.
    ///
    /// # Errors
    ///
    /// [`StoreError::FrontZeroed`] before anything is written, with [`Strays::Refuse`]; an error of the device.
    pub async fn into_writable(mut self, strays: Strays) -> Result<Persistent<D>, StoreError> {
        if strays == Strays::Refuse {
            self.refuse_lost_front().await?;
        }
        let span = self.strays().await?.span;
        let store = Persistent::new(self, Standing::Usable);
        store.put_in_order(span).await?;
        Ok(store)
    }

    /// Opens it for looking at what the snapshot shows. Nothing is ever written to the device; what lies after
    /// the terminator stays there.
    pub fn into_read_only(self) -> Persistent<D> {
        Persistent::new(self, Standing::ReadOnly)
    }
}

impl<D: Device> Persistent<D> {
    /// Opens a valid store for writing: [`Loaded::read`], then [`Loaded::into_writable`], which say what is read
    /// and written in which order.
    ///
    /// # Errors
    ///
    /// Why the store cannot be opened or must not be written. Nothing was written then, unless the device
    /// failed while slots after the end of the list were zeroed.
    pub async fn open(
        cow: D,
        origin_bytes: Option<u64>,
        strays: Strays,
        visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        Loaded::read(cow, origin_bytes, visit).await?.into_writable(strays).await
    }

    /// Opens a valid store for looking at what the snapshot shows: [`Loaded::read`], then
    /// [`Loaded::into_read_only`].
    ///
    /// # Errors
    ///
    /// Why the store cannot be opened.
    pub async fn open_read_only(
        cow: D,
        origin_bytes: Option<u64>,
        visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        Ok(Loaded::read(cow, origin_bytes, visit).await?.into_read_only())
    }

    /// From what was read of it.
    pub(super) fn new(loaded: Loaded<D>, standing: Standing) -> Self {
        let Loaded { cow, layout, tag, published, room, .. } = loaded;
        Self {
            slots: Slots::new(cow, layout),
            standing: Cell::new(standing),
            published: Cell::new(published),
            room: RefCell::new(room),
            queue: RefCell::default(),
            tag: RefCell::new(tag),
            writer: Mutex::new(()),
        }
    }

    /// True if it was opened to be looked at only.
    pub fn is_read_only(&self) -> bool {
        self.standing.get() == Standing::ReadOnly
    }

    /// The COW device.
    pub fn device(&self) -> &D {
        &self.slots.cow
    }

    /// Where everything lies.
    pub fn layout(&self) -> Layout {
        self.slots.layout
    }

    /// Slots in what the device writes untorn: clearing inside one such unit takes one write.
    pub fn unit_slots(&self) -> u64 {
        self.slots.unit_slots
    }

    /// Writes of slots, counted since the store was opened.
    pub fn metadata_writes(&self) -> u64 {
        self.slots.metadata_writes.get()
    }

    /// Flushes of the COW device, counted since the store was opened.
    pub fn flushes(&self) -> u64 {
        self.slots.flushes.get()
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
        read_range(&self.slots.cow, self.slots.layout, range).await
    }

    fn usable(&self) -> Result<(), StoreError> {
        match self.standing.get() {
            Standing::Usable => Ok(()),
            Standing::ReadOnly => Err(StoreError::ReadOnly),
            Standing::Invalid => Err(StoreError::Invalid),
            Standing::Broken => Err(StoreError::Broken),
        }
    }

    /// Runs a change of the medium. If it fails, or is abandoned half-way, the store is broken.
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

    /// The same for a change that can be made again, whole, whatever part of it has reached the medium:
    /// where there is no room for a write of it, the store may be used on.
    async fn change_again(
        &self,
        change: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let unfinished = BreaksWhenDropped(&self.standing);
        let ended = change.await;
        let harmless = match &ended {
            Ok(()) => true,
            // A flush that finds no room has lost writes, as any that fails.
            Err(StoreError::Io { source, .. }) => {
                is_no_room(source) && !self.slots.barrier.has_failed()
            }
            Err(_) => false,
        };
        if harmless || planted(Planted::GoOnAfterFailure) {
            std::mem::forget(unfinished);
        }
        ended
    }
}

impl<D: Device> Store for Persistent<D> {
    fn chunk_size(&self) -> ChunkSize {
        self.slots.layout.chunk_size()
    }

    /// Never gives out a chunk whose slot would fill an area after which the next one does not
    /// fit: the kernel does, finds no room for the terminator, and drops the snapshot.
    fn prepare(&self) -> Result<Prepared, StoreError> {
        self.usable()?;
        let mut queue = self.queue.borrow_mut();
        let index = self.published.get() + queue.slots();
        let mut room = self.room.borrow_mut();
        let chunk = match room.take(self.slots.layout, index) {
            Some(chunk) => chunk,
            None => {
                let grown = self.slots.cow.len_bytes();
                let grown = grown.map_err(StoreError::unknown_size)?;
                room.cow_chunks = self.slots.layout.chunk_size().whole_chunks(grown);
                room.take(self.slots.layout, index).ok_or(StoreError::Full)?
            }
        };
        Ok(queue.push(chunk))
    }

    fn commit(&self, prepared: Prepared, old: OriginChunk) {
        self.queue.borrow_mut().commit(&prepared, old);
    }

    fn abandon(&self, prepared: Prepared) {
        self.queue.borrow_mut().abandon(&prepared);
        self.room.borrow_mut().take_back(self.slots.layout, prepared.chunk);
    }

    /// # Ordering
    ///
    /// Let F be the area with the first free slot and L the last one touched.
    ///
    /// 1. write the copied data chunks            (done by the caller, not yet flushed)
    /// 2. write areas F+1 to L, zeroes after their slots; if L is full, zeroes to area L+1
    /// 3. flush                                   - data and everything unreachable is durable
    /// 4. write what changes in F, one untorn unit at a time, lowest first
    /// 5. flush after each unit                   - the exceptions exist
    ///
    /// A crash before 4 leaves the list as it was: it ends inside F. A crash in 4 or 5 leaves a
    /// first part of the new exceptions, all with their data; what lies after F is reached only
    /// with F full, and is whole then. No crash leaves a slot after a gap.
    ///
    /// If there is no room below the device for a write in 2 or 4, the next publish makes all of it again:
    /// the same exceptions in the same slots, each with data that is durable, and those that were committed
    /// since after them. Until then a crash leaves what it leaves in 4.
    async fn publish(&self) -> Result<Published, StoreError> {
        let _turn = self.writer.lock().await;
        self.usable()?;
        let (entries, exceptions) = self.queue.borrow().settled();
        if !exceptions.is_empty() {
            let first = self.published.get();
            self.change_again(self.slots.append(first, &exceptions)).await?;
            self.published.set(first + exceptions.len() as u64);
            let mut in_lock_step = (first..).zip(&exceptions).map(|(index, exception)| {
                exception.new == self.slots.layout.lock_step_chunk(index)
            });
            self.room.borrow_mut().in_order &= in_lock_step.all(|yes| yes);
        }
        let next_ticket = self.queue.borrow_mut().drop_front(entries);
        Ok(Published { next_ticket, flushed: !exceptions.is_empty() })
    }

    /// # Ordering
    ///
    /// Only the area that holds the first cleared slot is written: what lies after it cannot be
    /// reached any more.
    ///
    /// 1. zero the slots in it, one untorn unit at a time, highest first
    /// 2. flush after each unit
    ///
    /// A crash leaves a first part of the list, at least what was to stay, and no slot after a
    /// gap. Memory changes only when everything has succeeded.
    async fn clear(&self, count: u64) -> Result<(), StoreError> {
        let _turn = self.writer.lock().await;
        self.usable()?;
        debug_assert!(!self.has_unpublished(), "a snapshot that merges takes no new exceptions");
        let end = self.published.get();
        let first = end.saturating_sub(count);
        if planted(Planted::MemoryBeforeClear) {
            self.published.set(first);
            return self.slots.zero(first, end).await;
        }
        if first < end {
            let from = if planted(Planted::ClearFront) { 0 } else { first };
            self.change(self.slots.zero(from, end - first + from)).await?;
            self.published.set(first);
            self.room.borrow_mut().cleared(self.slots.layout, first);
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
    /// tried again, and may be at any later time.
    ///
    /// If there is no room below the device, unused chunks are released first; and if
    /// that is not enough:
    ///
    /// 3. zero the header's chunk, flush    - no store is here
    /// 4. give back all chunks, then 1 and 2
    ///
    /// A crash before 1 has reached the medium, or between 3 and 4, leaves the valid store or none.
    async fn invalidate(&self) -> Result<(), StoreError> {
        let _turn = self.writer.lock().await;
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        self.standing.set(Standing::Invalid);
        self.mark().await
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
            return self.slots.cow.flush().await.map_err(StoreError::io("cannot flush"));
        }
        let flushed = self.slots.make_durable("what was written").await;
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

    fn room_left(&self) -> u64 {
        match self.standing.get() {
            Standing::Usable => {
                let index = self.published.get() + self.queue.borrow().slots();
                self.room.borrow().left(self.slots.layout, index)
            }
            _ => 0,
        }
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        if self.standing.get() == Standing::Invalid {
            return Err(StoreError::Invalid);
        }
        let cow_bytes = self.slots.cow.len_bytes().map_err(StoreError::unknown_size)?;
        let chunk = u64::from(self.slots.layout.chunk_size().sectors());
        let (area, _) = self.slots.layout.position(self.published.get());
        Ok(Usage {
            total: cow_bytes / dmsnap_format::SECTOR_BYTES,
            allocated: self.room.borrow().next_free.get().saturating_mul(chunk),
            metadata: (area + 2) * chunk,
        })
    }
}
