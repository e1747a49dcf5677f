use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;

use super::buffer::Buffer;
use super::interface::{Allocation, Device};

/// A device in memory. Every write is at once as durable as it will ever be.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: RefCell<Vec<u8>>,
}

impl Memory {
    /// A device of `len_bytes` zeroes.
    pub fn zeroed(len_bytes: usize) -> Self {
        vec![0; len_bytes].into()
    }

    /// A copy of the content.
    pub fn content(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    /// Grows with zeroes, or cuts off the end.
    pub fn resize(&self, len_bytes: usize) {
        self.bytes.borrow_mut().resize(len_bytes, 0);
    }

    fn with<R>(&self, at: u64, len: u64, act: impl FnOnce(&mut [u8]) -> R) -> io::Result<R> {
        let end = at.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let range = usize::try_from(at).and_then(|at| Ok(at..usize::try_from(end)?));
        let mut bytes = self.bytes.borrow_mut();
        // The last sector is whole.
        if end > bytes.len() as u64 && end <= (bytes.len() as u64).next_multiple_of(SECTOR_BYTES) {
            bytes.resize(usize::try_from(end).map_err(io::Error::other)?, 0);
        }
        match bytes.get_mut(range.map_err(io::Error::other)?) {
            Some(bytes) => Ok(act(bytes)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into() }
    }
}

impl Device for Memory {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let before = self.bytes.borrow().len();
        let read = self.with(at, len as u64, |bytes| Buffer::copy_of(bytes));
        // To look at it does not make it longer.
        self.bytes.borrow_mut().truncate(before);
        read
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.with(at, data.len() as u64, |bytes| bytes.copy_from_slice(&data))
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        self.with(at, len, |bytes| bytes.fill(0))
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.with(at, len, |bytes| bytes.fill(0))
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        let len = usize::try_from(len_bytes.max(self.len_bytes()?)).map_err(io::Error::other)?;
        self.resize(len);
        Ok(())
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}
