//! Stores and origins as a kernel would have left them, made by hand.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod hanging; // a device that hangs
pub(crate) mod live; // volumes on simulated disks
pub(crate) mod holes; // a disk that knows its holes

use dmsnap::format::{
    ChunkSize, CowChunk, Exception, Layout, OriginChunk, RawException, RawHeader,
};
use zerocopy::IntoBytes;

/// A store and its origin, and what the snapshot looks like.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) layout: Layout,
    pub(crate) cow: Vec<u8>,
    pub(crate) origin: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
}

impl World {
    /// An empty store of `cow_chunks` chunks, stale but for header and first area, and an origin
    /// of `origin_sectors` whose sectors each repeat their own number.
    pub(crate) fn new(chunk_sectors: u32, cow_chunks: u64, origin_sectors: u64) -> Self {
        let layout = Layout::new(ChunkSize::from_sectors(chunk_sectors).expect("legal"));
        let chunk = bytes(layout.chunk_size().bytes());
        let mut cow = vec![0xAA; bytes(cow_chunks) * chunk];
        cow[..2 * chunk].fill(0);
        cow[..16].copy_from_slice(RawHeader::new(layout.chunk_size(), true).as_bytes());
        let origin: Vec<u8> =
            (0..origin_sectors).flat_map(|n| n.to_le_bytes().repeat(64)).collect();
        Self { layout, cow, snapshot: origin.clone(), origin }
    }

    pub(crate) fn chunk_bytes(&self) -> usize {
        bytes(self.layout.chunk_size().bytes())
    }

    /// Adds the exceptions for these origin chunks, in lock-step, each with data of its own.
    pub(crate) fn with_exceptions(mut self, olds: &[u64]) -> Self {
        for (index, old) in (0..).zip(olds) {
            if self.layout.position(index).1 == 0 {
                let area = bytes(self.layout.slot_byte(index).expect("small"));
                let chunk = self.chunk_bytes();
                self.cow[area..area + chunk].fill(0);
            }
            let new = self.layout.lock_step_chunk(index).get();
            self.put_slot(index, *old, new);
            let data = (1 << 40 | *old).to_le_bytes().repeat(self.chunk_bytes() / 8);
            self.put_data(*old, new, &data);
        }
        let count = olds.len() as u64;
        if self.layout.position(count).1 == 0 && count > 0 {
            let area = bytes(self.layout.slot_byte(count).expect("small"));
            let chunk = self.chunk_bytes();
            self.cow[area..area + chunk].fill(0);
        }
        self
    }

    /// Writes one slot as it stands.
    pub(crate) fn put_slot(&mut self, index: u64, old: u64, new: u64) {
        let at = bytes(self.layout.slot_byte(index).expect("small"));
        let exception = Exception { old: OriginChunk::new(old), new: CowChunk::new(new) };
        self.cow[at..at + 16].copy_from_slice(RawException::from(exception).as_bytes());
    }

    /// Writes the data of an exception into the store and the snapshot.
    pub(crate) fn put_data(&mut self, old: u64, new: u64, data: &[u8]) {
        let chunk = self.chunk_bytes();
        self.cow[bytes(new) * chunk..][..chunk].copy_from_slice(data);
        let at = bytes(old) * chunk;
        let len = chunk.min(self.snapshot.len() - at);
        self.snapshot[at..at + len].copy_from_slice(&data[..len]);
    }

    /// Sets the valid flag to 0.
    pub(crate) fn invalidate(&mut self) {
        self.cow[4..8].fill(0);
    }
}

/// Numbers that jump about but never repeat below `end`.
pub(crate) fn scattered(count: u64, end: u64, seed: u64) -> Vec<u64> {
    assert!(count <= end);
    let mut all: Vec<u64> = (0..end).collect();
    let mut state = seed | 1;
    for n in (1..all.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.swap(n, bytes(state % (n as u64 + 1)));
    }
    all.truncate(bytes(count));
    all
}

pub(crate) fn bytes(n: u64) -> usize {
    usize::try_from(n).expect("small")
}
