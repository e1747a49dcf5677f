//! A device in memory that counts what it is asked for.

use std::cell::Cell;
use std::io;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, Memory};
use serde::Serialize;

/// What a device was asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes and zeroings.
    pub writes: u64,
    /// Bytes written and zeroed.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Counts {
    /// What has come since `then`.
    pub fn since(self, then: Self) -> Self {
        Self {
            reads: self.reads - then.reads,
            read_bytes: self.read_bytes - then.read_bytes,
            writes: self.writes - then.writes,
            written_bytes: self.written_bytes - then.written_bytes,
            flushes: self.flushes - then.flushes,
        }
    }
}

/// Memory that writes blocks of 4 KiB untorn.
#[derive(Debug)]
pub struct Counted {
    memory: Memory,
    counts: Cell<Counts>,
}

impl Counted {
    /// Zeroes.
    pub fn zeroed(len_bytes: usize) -> Self {
        Self { memory: Memory::zeroed(len_bytes), counts: Cell::default() }
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn count_write(&self, len_bytes: u64) {
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += len_bytes;
        });
    }
}

impl Device for Counted {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += len as u64;
        });
        self.memory.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.count_write(data.len() as u64);
        self.memory.write(at, data).await
    }

    async fn write_vectored(&self, mut at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        self.count_write(pieces.iter().map(|piece| piece.len() as u64).sum());
        for piece in pieces {
            let len = piece.len() as u64;
            self.memory.write(at, piece).await?;
            at += len;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.count_write(len);
        self.memory.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.count_write(len);
        self.memory.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.count(|counts| counts.flushes += 1);
        self.memory.flush().await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.memory.grow(len_bytes).await
    }

    fn block_bytes(&self) -> u32 {
        4096
    }
}
