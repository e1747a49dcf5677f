use core::fmt;

use crate::exception::Exception;
use crate::layout::Layout;
use crate::units::{CowChunk, SECTOR_BYTES};

/// The three numbers of a status line, in sectors. Its `Display` is that line, byte for byte as
/// the kernel prints it: `allocated/total metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size of the COW device, a trailing partial chunk included.
    pub total: u64,
    /// Everything below the next free chunk; can exceed `total` on a device that was cut short.
    pub allocated: u64,
    /// The header and every area up to the current one.
    pub metadata: u64,
}

impl Usage {
    /// Sectors of copied data: what user space calls used.
    pub const fn data(self) -> u64 {
        self.allocated.saturating_sub(self.metadata)
    }

    /// How full the store is, from 0.0 to 100.0 (and above, if the device was cut short), as LVM
    /// counts it: an empty store is 0, whatever its metadata takes.
    pub fn percent(self) -> f64 {
        if self.allocated == self.metadata {
            return 0.0;
        }
        if self.total == 0 {
            return 100.0;
        }
        self.allocated as f64 * 100.0 / self.total as f64
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.allocated, self.total, self.metadata)
    }
}

/// What reading a store's exceptions in order adds up to: how many there are, and where the next
/// chunk would be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    layout: Layout,
    exceptions: u64,
    max_new: u64,
}

impl Tally {
    /// Of an empty store.
    pub const fn new(layout: Layout) -> Self {
        Self { layout, exceptions: 0, max_new: 0 }
    }

    /// Counts one more exception.
    pub fn add(&mut self, exception: Exception) {
        self.exceptions += 1;
        self.max_new = self.max_new.max(exception.new.get());
    }

    /// How many exceptions were counted: the index of the first free slot.
    pub const fn exceptions(&self) -> u64 {
        self.exceptions
    }

    /// The chunk the kernel would give out next: one past the largest seen, never metadata.
    /// Saturates, where the kernel wraps to 0 for a chunk number of 2^64 - 1.
    pub const fn next_free(&self) -> CowChunk {
        self.layout.skip_metadata(CowChunk::new(self.max_new).plus(1))
    }

    /// Data chunks below the next free one that no exception uses: lost space to the kernel. Says
    /// nothing sensible about a store with duplicates.
    pub const fn holes(&self) -> u64 {
        self.layout.data_chunks_before(self.next_free()).saturating_sub(self.exceptions)
    }

    /// The status numbers on a COW device of `cow_bytes`.
    ///
    /// Kernel: persistent_usage.
    pub const fn usage(&self, cow_bytes: u64) -> Usage {
        let chunk = self.layout.chunk_size().sectors() as u64;
        let (area, _) = self.layout.position(self.exceptions);
        Usage {
            total: cow_bytes / SECTOR_BYTES,
            allocated: self.next_free().get().saturating_mul(chunk),
            metadata: (area + 2).saturating_mul(chunk),
        }
    }
}
