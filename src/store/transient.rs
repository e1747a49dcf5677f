use std::cell::{Cell, RefCell};

use dmsnap_format::{ChunkSize, CowChunk, OriginChunk, SECTOR_BYTES, Usage};

use super::{Prepared, Published, Store, StoreError};
use crate::device::{Barrier, Device};

/// A store that writes no metadata: its exceptions are gone with it. Data begins in chunk 0.
#[derive(Debug)]
pub struct Transient<D> {
    cow: D,
    chunk_size: ChunkSize,
    next_free: Cell<u64>,
    /// Chunks that were given back.
    spare: RefCell<Vec<u64>>,
    next_ticket: Cell<u64>,
    committed: Cell<u64>,
    valid: Cell<bool>,
    barrier: Barrier,
}

impl<D: Device> Transient<D> {
    /// An empty one. Whatever lies on `cow` is overwritten bit by bit, headers included.
    pub fn new(cow: D, chunk_size: ChunkSize) -> Self {
        Self {
            cow,
            chunk_size,
            next_free: Cell::new(0),
            spare: RefCell::default(),
            next_ticket: Cell::new(0),
            committed: Cell::new(0),
            valid: Cell::new(true),
            barrier: Barrier::default(),
        }
    }

    /// The COW device.
    pub fn device(&self) -> &D {
        &self.cow
    }

    fn cow_bytes(&self) -> Result<u64, StoreError> {
        self.cow.len_bytes().map_err(StoreError::unknown_size)
    }
}

impl<D: Device> Store for Transient<D> {
    fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    fn prepare(&self) -> Result<Prepared, StoreError> {
        if !self.valid.get() {
            return Err(StoreError::Invalid);
        }
        let chunks = self.chunk_size.whole_chunks(self.cow_bytes()?);
        let next = self.next_free.get();
        let chunk = match self.spare.borrow_mut().pop() {
            Some(chunk) => chunk,
            None if next >= chunks => return Err(StoreError::Full),
            None => {
                self.next_free.set(next + 1);
                next
            }
        };
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        Ok(Prepared { ticket, chunk: CowChunk::new(chunk) })
    }

    fn commit(&self, _: Prepared, _: OriginChunk) {
        self.committed.set(self.committed.get() + 1);
    }

    fn abandon(&self, prepared: Prepared) {
        self.spare.borrow_mut().push(prepared.chunk().get());
    }

    async fn publish(&self) -> Result<Published, StoreError> {
        Ok(Published { next_ticket: self.next_ticket.get(), flushed: false })
    }

    async fn clear(&self, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Transient)
    }

    async fn invalidate(&self) -> Result<(), StoreError> {
        self.valid.set(false);
        Ok(())
    }

    /// What is here does not outlive the process; but a device that lost writes says so at a flush.
    async fn flush(&self) -> Result<(), StoreError> {
        let flushed = self.barrier.flush(&self.cow).await;
        flushed.map_err(StoreError::io("cannot make what was written durable"))
    }

    fn is_broken(&self) -> bool {
        self.barrier.has_failed()
    }

    fn room_left(&self) -> u64 {
        let chunks = self.cow_bytes().map_or(0, |bytes| self.chunk_size.whole_chunks(bytes));
        let fresh = chunks.saturating_sub(self.next_free.get());
        if self.valid.get() { fresh + self.spare.borrow().len() as u64 } else { 0 }
    }

    fn published(&self) -> u64 {
        self.committed.get()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        if !self.valid.get() {
            return Err(StoreError::Invalid);
        }
        Ok(Usage {
            total: self.cow_bytes()? / SECTOR_BYTES,
            allocated: self.next_free.get() * u64::from(self.chunk_size.sectors()),
            metadata: 0,
        })
    }
}
