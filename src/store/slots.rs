use std::cell::Cell;

use dmsnap_format::{Exception, Layout, RawException, SLOT_BYTES};
use zerocopy::IntoBytes;

use super::{Place, StoreError};
use crate::device::{Allocation, Barrier, Buffer, Device};
use crate::planted::{Planted, planted};

/// The slots of a store on the medium: how they are written, in which units, and in which order.
///
/// It knows no exception that is not handed to it. Callers take turns: nothing else writes slots at the
/// same time.
#[derive(Debug)]
pub(super) struct Slots<D> {
    pub(super) cow: D,
    pub(super) layout: Layout,
    /// Slots in what the device writes untorn.
    pub(super) unit_slots: u64,
    pub(super) metadata_writes: Cell<u64>,
    pub(super) flushes: Cell<u64>,
    pub(super) barrier: Barrier,
}

impl<D: Device> Slots<D> {
    /// Of a store with this layout.
    pub(super) fn new(cow: D, layout: Layout) -> Self {
        Self {
            layout,
            unit_slots: layout.slots_per_unit(cow.block_bytes()),
            metadata_writes: Cell::new(0),
            flushes: Cell::new(0),
            barrier: Barrier::default(),
            cow,
        }
    }

    /// The byte of slot `index`.
    pub(super) fn byte(&self, index: u64) -> Result<u64, StoreError> {
        self.layout.slot_byte(index).ok_or(StoreError::Full)
    }

    /// Makes what was written durable; `what` names it in an error.
    pub(super) async fn make_durable(&self, what: &str) -> Result<(), StoreError> {
        self.flushes.set(self.flushes.get() + 1);
        let flushed = match planted(Planted::GoOnAfterFailure) {
            true => self.cow.flush().await,
            false => self.barrier.flush(&self.cow).await,
        };
        flushed.map_err(StoreError::io(format!("cannot make {what} durable")))
    }

    /// Writes one untorn unit of slots: what it holds below slot `keep` is read and kept,
    /// `exceptions` follow, and zeroes after them.
    async fn write_unit(
        &self,
        unit: u64,
        keep: u64,
        exceptions: &[Exception],
    ) -> Result<(), StoreError> {
        let place = Place::of(self.layout, unit);
        let failed = || StoreError::io(format!("cannot write area {}", place.area));
        let at = self.byte(unit)?;
        let kept = slot_bytes(keep - unit);
        let mut bytes = if kept > 0 || planted(Planted::KeepTail) {
            let len = slot_bytes(self.unit_slots);
            let read = self.cow.read_medium(at, len).await;
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

    /// Writes a whole area that no reader can reach yet: `exceptions` and zeroes after them.
    async fn write_area(&self, area: u64, exceptions: &[Exception]) -> Result<(), StoreError> {
        let failed = || StoreError::io(format!("cannot write area {area}"));
        let at = self.byte(area * self.layout.exceptions_per_area())?;
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

    /// Writes `exceptions` from slot `first` on, which is the terminator's.
    ///
    /// # Ordering
    ///
    /// Steps 2 to 5 of [`Persistent::publish`](super::Persistent).
    pub(super) async fn append(
        &self,
        first: u64,
        exceptions: &[Exception],
    ) -> Result<(), StoreError> {
        if !planted(Planted::AreasAfterLink) {
            self.write_next_areas(first, exceptions).await?;
        }
        self.link(first, exceptions).await
    }

    /// Writes what follows the area of slot `first`, which nobody can reach yet.
    async fn write_next_areas(
        &self,
        first: u64,
        exceptions: &[Exception],
    ) -> Result<(), StoreError> {
        let per_area = self.layout.exceptions_per_area();
        let (area, _) = self.layout.position(first);
        let (_, others) = self.split(first, exceptions);
        let mut areas = others.chunks(usize::try_from(per_area).unwrap_or(usize::MAX));
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

    /// Makes that durable, and writes what links it.
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
            self.write_next_areas(first, exceptions).await?;
        }
        Ok(())
    }

    /// Zeroes the slots from `first` on that lie in its area and below `end`.
    ///
    /// # Ordering
    ///
    /// That of [`Persistent::clear`](super::Persistent): one untorn unit at a time, highest first, a flush
    /// after each.
    pub(super) async fn zero(&self, first: u64, end: u64) -> Result<(), StoreError> {
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

    /// Zeroes the units that hold slots `first` to `last`, which lie after the terminator in one area.
    /// Kernels keep them, and bring them back to life once the slots before them are filled.
    ///
    /// # Ordering
    ///
    /// 1. zero them, lowest first
    /// 2. flush
    ///
    /// A crash before 2 leaves some of them, still out of reach.
    pub(super) async fn wipe(
        &self,
        terminator: u64,
        (first, last): (u64, u64),
    ) -> Result<(), StoreError> {
        let first = first - first % self.unit_slots;
        for unit in (first..=last).step_by(usize::try_from(self.unit_slots).unwrap_or(1)) {
            self.write_unit(unit, terminator.max(unit), &[]).await?;
        }
        self.make_durable("what lies after the terminator").await
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
