use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::buffer::Buffer;
use super::interface::{Allocation, Device, within};

/// A device of zeroes that lie nowhere. Nothing can be written to it.
#[derive(Debug)]
pub struct Zeroes {
    len_bytes: u64,
}

impl Zeroes {
    /// This many bytes.
    pub fn new(len_bytes: u64) -> Self {
        Self { len_bytes }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a device of zeroes cannot be written to")
}

impl Device for Zeroes {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        within(at, len as u64, self.len_bytes)?;
        Ok(Buffer::zeroed(len))
    }

    async fn write(&self, _: u64, _: Bytes) -> io::Result<()> {
        Err(refused())
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: Allocation) -> io::Result<()> {
        Err(refused())
    }

    async fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(refused())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn claim(&self) -> io::Result<()> {
        Err(refused())
    }

    fn is_read_only(&self) -> bool {
        true
    }

    async fn next_data(&self, _: u64) -> io::Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn block_bytes(&self) -> u32 {
        4096
    }
}
