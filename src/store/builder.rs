use bytes::Bytes;
use dmsnap_format::{
    ChunkSize, CowChunk, Exception, Layout, OriginChunk, RawException, SLOT_BYTES, Tag,
};
use zerocopy::IntoBytes;

use super::StoreError;
use super::header::{announce, clear_header, write_header};
use crate::device::{Allocation, Buffer, Device};
use crate::planted::{Planted, planted};

/// The most slots that are in memory: areas can have 64 million.
const MOST_SLOTS: u64 = 4096;

/// Writes a whole store, front to back, each exception in lock-step with its slot, as every kernel since 2013
/// does, or where the caller says. The header comes last.
///
/// # Ordering
///
/// 1. if the device does not begin with zeroes: zero the header, flush      - no store is here
/// 2. write data and slots, in any order; zeroes after the last slot, to the end of its area; if that area
///    is full, zeroes to the next; flush                                     - the list is whole
/// 3. write the header, flush                                                - the store exists
///
/// A crash before 3 leaves a device that every reader takes for one without a store; what lay on it before is
/// lost from 1 on. A crash in 3 leaves that, or the whole store. So does an error, and a builder that is
/// dropped before [`finish`](Self::finish).
#[derive(Debug)]
pub struct Builder<'a, D> {
    cow: &'a D,
    layout: Layout,
    /// The most exceptions there is room for.
    capacity: u64,
    count: u64,
    /// Slots of the current area that are not written yet: the newest.
    slots: Vec<RawException>,
    /// Comes with the header.
    tag: Option<Tag>,
    /// All but the header is durable.
    is_complete: bool,
}

impl<'a, D: Device> Builder<'a, D> {
    /// Begins with step 1. Whatever lies on `cow` is overwritten.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooSmall`] before anything is written; any error of the device.
    pub async fn new(cow: &'a D, chunk_size: ChunkSize) -> Result<Self, StoreError> {
        let builder = Self::empty(cow, chunk_size)?;
        clear_header(cow, chunk_size).await?;
        Ok(builder)
    }

    /// The same, and says in the write of step 1 what is being made here, so that it is known again after a crash.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub async fn announced(
        cow: &'a D,
        chunk_size: ChunkSize,
        tag: &Tag,
    ) -> Result<Self, StoreError> {
        let builder = Self::empty(cow, chunk_size)?;
        announce(cow, chunk_size, tag).await?;
        Ok(builder)
    }

    fn empty(cow: &'a D, chunk_size: ChunkSize) -> Result<Self, StoreError> {
        let cow_bytes = cow.len_bytes().map_err(StoreError::unknown_size)?;
        let needed_bytes = 2 * chunk_size.bytes();
        if cow_bytes < needed_bytes {
            return Err(StoreError::TooSmall { cow_bytes, needed_bytes });
        }
        let layout = Layout::new(chunk_size);
        let capacity = layout.capacity(chunk_size.whole_chunks(cow_bytes));
        Ok(Self {
            cow,
            layout,
            capacity,
            count: 0,
            slots: Vec::new(),
            tag: None,
            is_complete: false,
        })
    }

    /// The store gets this tag together with its header.
    pub fn set_tag(&mut self, tag: Tag) {
        self.tag = Some(tag);
    }

    /// Takes the next exception in, and says which chunk of the COW device its data belongs into. The caller
    /// writes it there before [`finish`](Self::finish), or leaves what is there.
    ///
    /// Each origin chunk may come once; that is not looked at here.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] if there is no room for it; an error of the device.
    pub async fn place(&mut self, old: OriginChunk) -> Result<CowChunk, StoreError> {
        let new = self.layout.lock_step_chunk(self.count);
        self.place_at(Exception { old, new }).await?;
        Ok(new)
    }

    /// Takes the next exception in as it is: its data lies in its chunk, or the caller writes it there before
    /// [`finish`](Self::finish).
    ///
    /// Each chunk of either device may come once, and that of the COW device must be there and a data chunk;
    /// that is not looked at here.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    pub async fn place_at(&mut self, exception: Exception) -> Result<(), StoreError> {
        if self.count >= self.capacity {
            return Err(StoreError::Full);
        }
        self.slots.push(exception.into());
        self.count += 1;
        let area_is_full = self.count.is_multiple_of(self.layout.exceptions_per_area());
        if area_is_full || self.slots.len() as u64 == MOST_SLOTS {
            self.write_slots().await?;
        }
        Ok(())
    }

    /// The same, with the data of the chunk.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    pub async fn add(&mut self, old: OriginChunk, data: Bytes) -> Result<(), StoreError> {
        debug_assert_eq!(data.len() as u64, self.layout.chunk_size().bytes(), "one chunk");
        let new = self.place(old).await?;
        let at = new.get() * self.layout.chunk_size().bytes();
        let written = self.cow.write(at, data).await;
        written.map_err(StoreError::io(format!("cannot write chunk {new}")))
    }

    /// Ends the list and makes it durable, data and all: step 2. Nothing may be added after it.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    pub async fn complete(&mut self) -> Result<(), StoreError> {
        if self.is_complete {
            return Ok(());
        }
        self.write_slots().await?;
        self.end_list().await?;
        if !planted(Planted::HeaderBeforeArea) {
            self.cow.flush().await.map_err(self.failed())?;
        }
        self.is_complete = true;
        Ok(())
    }

    /// [Completes](Self::complete) the list, and makes the device a store. Says how many exceptions it has.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    pub async fn finish(self) -> Result<u64, StoreError> {
        self.finish_as(true).await
    }

    /// The same; without `valid` it is the store of a snapshot that was dropped.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub async fn finish_as(mut self, valid: bool) -> Result<u64, StoreError> {
        self.complete().await?;
        write_header(self.cow, self.layout.chunk_size(), valid, self.tag.as_ref()).await?;
        Ok(self.count)
    }

    /// Writes the slots in memory, with zeroes up to the end of their last untorn unit.
    async fn write_slots(&mut self) -> Result<(), StoreError> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let at = self.byte(self.count - self.slots.len() as u64)?;
        let end = self.written()?;
        let mut bytes = Buffer::zeroed(usize::try_from(end - at).unwrap_or(usize::MAX));
        let slots = self.slots.as_bytes();
        bytes[..slots.len()].copy_from_slice(slots);
        self.cow.write(at, bytes.freeze()).await.map_err(self.failed())?;
        self.slots.clear();
        Ok(())
    }

    /// Zeroes what of the last area no slot was written to; a whole one where the last slot fills its area.
    async fn end_list(&self) -> Result<(), StoreError> {
        let (area, slot) = self.layout.position(self.count);
        let area_at = self.byte(area * self.layout.exceptions_per_area())?;
        let at = if slot == 0 { area_at } else { self.written()? };
        let end = area_at + self.layout.chunk_size().bytes();
        if at < end {
            let zeroed = self.cow.write_zeroes(at, end - at, Allocation::Keep).await;
            zeroed.map_err(self.failed())?;
        }
        Ok(())
    }

    /// Where the untorn unit of the newest slot ends, in bytes.
    fn written(&self) -> Result<u64, StoreError> {
        let unit_slots = self.layout.slots_per_unit(self.cow.block_bytes());
        let newest = self.count - 1;
        let unit = newest - newest % unit_slots;
        Ok(self.byte(unit)? + unit_slots * SLOT_BYTES)
    }

    fn byte(&self, index: u64) -> Result<u64, StoreError> {
        self.layout.slot_byte(index).ok_or(StoreError::Full)
    }

    fn failed(&self) -> impl FnOnce(std::io::Error) -> StoreError + use<D> {
        StoreError::io(match self.layout.position(self.count.saturating_sub(1)) {
            _ if self.count == 0 => "cannot zero the first area".into(),
            (area, _) => format!("cannot write area {area}"),
        })
    }
}

/// Makes an empty store: a [`Builder`] that is given nothing.
///
/// # Ordering
///
/// 1. if the device does not begin with zeroes: zero the header, flush    - no store is here
/// 2. zero area 0, flush                                                  - the list is empty
/// 3. write the header, flush                                             - the store exists
///
/// A crash before 3 leaves a device that every reader takes for one without a store. The kernel
/// writes the header first and flushes nothing, so that a crash can leave a store whose exceptions
/// are whatever lay in area 0.
///
/// # Errors
///
/// [`StoreError::TooSmall`] before anything is written; any error of the device.
pub async fn format<D: Device>(cow: &D, chunk_size: ChunkSize) -> Result<(), StoreError> {
    Builder::new(cow, chunk_size).await?.finish().await.map(|_| ())
}

/// The same with a tag, which comes with the header.
///
/// # Errors
///
/// As [`format()`].
pub async fn format_tagged<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
    tag: Tag,
) -> Result<(), StoreError> {
    let mut builder = Builder::new(cow, chunk_size).await?;
    builder.set_tag(tag);
    builder.finish().await.map(|_| ())
}
