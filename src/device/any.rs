use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::{Allocation, Buffer, Device, File, Mapped, Shared, Zeroes};

/// A file or disk as it is, a device made of parts of some, or one that lies nowhere.
#[derive(Debug)]
pub enum AnyDevice {
    /// All of it.
    File(File),
    /// Parts; other devices may have other parts of the same files.
    Mapped(Mapped<Rc<Shared<File>>>),
    /// Zeroes.
    Zeroes(Zeroes),
}

impl From<Zeroes> for AnyDevice {
    fn from(zeroes: Zeroes) -> Self {
        Self::Zeroes(zeroes)
    }
}

impl From<File> for AnyDevice {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl From<Mapped<Rc<Shared<File>>>> for AnyDevice {
    fn from(mapped: Mapped<Rc<Shared<File>>>) -> Self {
        Self::Mapped(mapped)
    }
}

macro_rules! either {
    ($self:ident, $device:ident => $call:expr) => {
        match $self {
            Self::File($device) => $call,
            Self::Mapped($device) => $call,
            Self::Zeroes($device) => $call,
        }
    };
}

impl Device for AnyDevice {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        either!(self, device => device.read(at, len).await)
    }

    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        either!(self, device => device.read_medium(at, len).await)
    }

    async fn forget_cached(&self) -> io::Result<()> {
        either!(self, device => device.forget_cached().await)
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        either!(self, device => device.write(at, data).await)
    }

    async fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        either!(self, device => device.write_vectored(at, pieces).await)
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        either!(self, device => device.write_zeroes(at, len, allocation).await)
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        either!(self, device => device.discard(at, len).await)
    }

    async fn flush(&self) -> io::Result<()> {
        either!(self, device => device.flush().await)
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        either!(self, device => device.next_data(at).await)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        either!(self, device => device.len_bytes())
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        either!(self, device => device.grow(len_bytes).await)
    }

    fn block_bytes(&self) -> u32 {
        either!(self, device => device.block_bytes())
    }

    fn logical_block_bytes(&self) -> u32 {
        either!(self, device => device.logical_block_bytes())
    }

    fn kernel_file(&self) -> Option<Arc<std::fs::File>> {
        either!(self, device => device.kernel_file())
    }
}
