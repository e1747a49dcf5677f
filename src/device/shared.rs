use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::{Allocation, Barrier, Buffer, Device};

/// One device below several others, as a disk is below its volumes.
///
/// Its flushes go through one [`Barrier`]: a flush that fails may have lost the writes of any of
/// them, so from then on all fail, for everybody.
#[derive(Debug)]
pub struct Shared<D> {
    device: D,
    barrier: Barrier,
}

impl<D> Shared<D> {
    /// To be shared as an `Rc`.
    pub fn new(device: D) -> Self {
        Self { device, barrier: Barrier::default() }
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }
}

impl<D: Device> Device for Shared<D> {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.device.read(at, len).await
    }

    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.device.read_medium(at, len).await
    }

    async fn forget_cached(&self) -> io::Result<()> {
        self.device.forget_cached().await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.device.write(at, data).await
    }

    async fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        self.device.write_vectored(at, pieces).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.device.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.device.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.barrier.flush(&self.device).await
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        self.device.next_data(at).await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.device.len_bytes()
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.device.grow(len_bytes).await
    }

    fn logical_block_bytes(&self) -> u32 {
        self.device.logical_block_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.device.block_bytes()
    }
}
