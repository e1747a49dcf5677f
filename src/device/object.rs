use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::buffer::Buffer;
use super::interface::{Allocation, Change, Device};

/// [`Device`], with futures whose size need not be known.
pub(super) trait Object {
    fn read(&self, at: u64, len: usize) -> LocalBoxFuture<'_, io::Result<Buffer>>;
    fn read_medium(&self, at: u64, len: usize) -> LocalBoxFuture<'_, io::Result<Buffer>>;
    fn forget_cached(&self) -> LocalBoxFuture<'_, io::Result<()>>;
    fn write(&self, at: u64, data: Bytes) -> LocalBoxFuture<'_, io::Result<()>>;
    fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> LocalBoxFuture<'_, io::Result<()>>;
    fn write_many(&self, writes: Vec<(u64, Bytes)>) -> LocalBoxFuture<'_, io::Result<()>>;
    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        allocation: Allocation,
    ) -> LocalBoxFuture<'_, io::Result<()>>;
    fn discard(&self, at: u64, len: u64) -> LocalBoxFuture<'_, io::Result<()>>;
    fn flush(&self) -> LocalBoxFuture<'_, io::Result<()>>;
    fn claim(&self) -> LocalBoxFuture<'_, io::Result<()>>;
    fn is_read_only(&self) -> bool;
    fn change(&self) -> LocalBoxFuture<'_, io::Result<Option<Change>>>;
    fn next_data(&self, at: u64) -> LocalBoxFuture<'_, io::Result<Option<Range<u64>>>>;
    fn len_bytes(&self) -> io::Result<u64>;
    fn grow(&self, len_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>>;
    fn block_bytes(&self) -> u32;
    fn logical_block_bytes(&self) -> u32;
    fn kernel_file(&self) -> Option<Arc<std::fs::File>>;
}

impl<D: Device> Object for D {
    fn read(&self, at: u64, len: usize) -> LocalBoxFuture<'_, io::Result<Buffer>> {
        Box::pin(Device::read(self, at, len))
    }

    fn read_medium(&self, at: u64, len: usize) -> LocalBoxFuture<'_, io::Result<Buffer>> {
        Box::pin(Device::read_medium(self, at, len))
    }

    fn forget_cached(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::forget_cached(self))
    }

    fn write(&self, at: u64, data: Bytes) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::write(self, at, data))
    }

    fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::write_vectored(self, at, pieces))
    }

    fn write_many(&self, writes: Vec<(u64, Bytes)>) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::write_many(self, writes))
    }

    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        allocation: Allocation,
    ) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::write_zeroes(self, at, len, allocation))
    }

    fn discard(&self, at: u64, len: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::discard(self, at, len))
    }

    fn flush(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::flush(self))
    }

    fn claim(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::claim(self))
    }

    fn is_read_only(&self) -> bool {
        Device::is_read_only(self)
    }

    fn change(&self) -> LocalBoxFuture<'_, io::Result<Option<Change>>> {
        Box::pin(Device::change(self))
    }

    fn next_data(&self, at: u64) -> LocalBoxFuture<'_, io::Result<Option<Range<u64>>>> {
        Box::pin(Device::next_data(self, at))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Device::len_bytes(self)
    }

    fn grow(&self, len_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(Device::grow(self, len_bytes))
    }

    fn block_bytes(&self) -> u32 {
        Device::block_bytes(self)
    }

    fn logical_block_bytes(&self) -> u32 {
        Device::logical_block_bytes(self)
    }

    fn kernel_file(&self) -> Option<Arc<std::fs::File>> {
        Device::kernel_file(self)
    }
}
