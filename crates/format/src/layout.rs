use crate::exception::{Exception, ExceptionFault, SLOT_BYTES};
use crate::units::{ChunkSize, CowChunk, SECTOR_BYTES};

/// Where everything lies on a COW device with a given chunk size.
///
/// Chunk 0 is the header, chunk 1 the first area; an area of `E` slots is followed by the `E` data
/// chunks of its range, then by the next area. Exceptions are numbered from 0 in the order of
/// their slots, across areas: exception `n` is in slot `n % E` of area `n / E`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    chunk_size: ChunkSize,
}

/// What a chunk of the COW device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Chunk 0.
    Header,
    /// The area with this number.
    Area(u64),
    /// Copied data.
    Data,
}

impl Layout {
    /// The layout for this chunk size.
    pub const fn new(chunk_size: ChunkSize) -> Self {
        Self { chunk_size }
    }

    /// The chunk size.
    pub const fn chunk_size(self) -> ChunkSize {
        self.chunk_size
    }

    /// `E`: slots in an area, 32 for each sector of a chunk (at most 2^26).
    pub const fn exceptions_per_area(self) -> u64 {
        self.chunk_size.bytes() / SLOT_BYTES
    }

    /// Chunks from one area to the next: `E + 1`.
    pub const fn stride(self) -> u64 {
        self.exceptions_per_area() + 1
    }

    /// The chunk that holds `area`: `1 + area * (E + 1)`. Saturates past 2^64.
    ///
    /// Kernel: area_location.
    pub const fn area_location(self, area: u64) -> CowChunk {
        CowChunk::new(area.saturating_mul(self.stride()).saturating_add(1))
    }

    /// Area and slot of exception `index`.
    pub const fn position(self, index: u64) -> (u64, u64) {
        (index / self.exceptions_per_area(), index % self.exceptions_per_area())
    }

    /// The byte on the COW device where slot `index` begins; `None` past 2^64.
    pub const fn slot_byte(self, index: u64) -> Option<u64> {
        let (area, slot) = self.position(index);
        match self.area_location(area).byte(self.chunk_size) {
            Some(byte) => byte.checked_add(slot * SLOT_BYTES),
            None => None,
        }
    }

    /// What `chunk` is for.
    pub const fn role(self, chunk: CowChunk) -> Role {
        match chunk.get() {
            0 => Role::Header,
            n if n % self.stride() == 1 => Role::Area((n - 1) / self.stride()),
            _ => Role::Data,
        }
    }

    /// The first data chunk at or after `chunk`.
    ///
    /// Must be applied to *every* candidate for allocation, including the one computed while
    /// loading: a full last area leaves the next area's own chunk as the first free one. The
    /// kernel once skipped this on load and gave metadata chunks away (CVE-2013-4299).
    pub const fn skip_metadata(self, chunk: CowChunk) -> CowChunk {
        match self.role(chunk) {
            Role::Header => CowChunk::new(2),
            Role::Area(_) => chunk.plus(1),
            Role::Data => chunk,
        }
    }

    /// The data chunk that an in-order writer gives exception `index`: the one as far after its
    /// area as its slot is inside it. Saturates past 2^64.
    pub const fn lock_step_chunk(self, index: u64) -> CowChunk {
        let (area, slot) = self.position(index);
        self.area_location(area).plus(1 + slot)
    }

    /// Data chunks in front of `chunk`: how many exceptions an in-order writer has made when
    /// `chunk` is its next free one.
    pub const fn data_chunks_before(self, chunk: CowChunk) -> u64 {
        match chunk.get() {
            0 => 0,
            // Chunks before this one, less the header and every area among them.
            n => n - 1 - (n - 1).div_ceil(self.stride()),
        }
    }

    /// Chunks a device needs for a store of `exceptions` that can still be loaded: header, data
    /// and every area, that of the terminator included. Saturates past 2^64.
    pub const fn chunks_needed(self, exceptions: u64) -> u64 {
        exceptions.saturating_add(exceptions / self.exceptions_per_area()).saturating_add(2)
    }

    /// The most exceptions a device of `chunks` whole chunks can hold and still be loaded.
    ///
    /// One less than the kernel hands out where the chunk after a full area would be the first
    /// one past the end: there the kernel fails to write the terminator and drops the snapshot.
    pub const fn capacity(self, chunks: u64) -> u64 {
        match chunks {
            0..=2 => 0,
            // k + k/E + 2 <= n. With q whole areas, q * (E + 1) of n - 2 are spent on them.
            _ => {
                let room = chunks - 2;
                let areas = room / self.stride();
                let rest = room % self.stride();
                let most = self.exceptions_per_area() - 1;
                areas * self.exceptions_per_area() + if rest < most { rest } else { most }
            }
        }
    }

    /// True if a kernel that fills a device of `chunks` whole chunks drops the snapshot with its
    /// last allocation, because the area that has to follow lies past the end.
    pub const fn kernel_loses_last_chunk(self, chunks: u64) -> bool {
        chunks > 1 && chunks % self.stride() == 1
    }

    /// Slots in one write of `unit_bytes`, the most that can reach the disk all or nothing.
    pub const fn slots_per_unit(self, unit_bytes: u32) -> u64 {
        let unit =
            if (unit_bytes as u64) < SECTOR_BYTES { SECTOR_BYTES } else { unit_bytes as u64 };
        let chunk = self.chunk_size.bytes();
        (if unit < chunk { unit } else { chunk }) / SLOT_BYTES
    }
}

/// How far the devices of a store reach, to check exceptions against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// The store's layout.
    pub layout: Layout,
    /// Whole chunks of the COW device.
    pub cow_chunks: u64,
    /// Chunks of the origin, a last partial one included; `None` if no origin is at hand.
    pub origin_chunks: Option<u64>,
}

impl Extents {
    /// The extents of devices of these sizes in bytes.
    pub const fn new(layout: Layout, cow_bytes: u64, origin_bytes: Option<u64>) -> Self {
        let size = layout.chunk_size();
        Self {
            layout,
            cow_chunks: size.whole_chunks(cow_bytes),
            origin_chunks: match origin_bytes {
                Some(bytes) => Some(size.touched_chunks(bytes)),
                None => None,
            },
        }
    }

    /// Holds one exception against the devices. The kernel does not: it shows metadata as data,
    /// merges it into the origin, or stops.
    ///
    /// # Errors
    ///
    /// The worst fault there is.
    pub const fn check(self, exception: Exception) -> Result<(), ExceptionFault> {
        if exception.new.get() >> 56 != 0 {
            return Err(ExceptionFault::NewTooLarge);
        }
        if exception.new.get() >= self.cow_chunks {
            return Err(ExceptionFault::NewBeyondDevice);
        }
        if !matches!(self.layout.role(exception.new), Role::Data) {
            return Err(ExceptionFault::NewIsMetadata);
        }
        match self.origin_chunks {
            Some(chunks) if exception.old.get() >= chunks => Err(ExceptionFault::OldBeyondOrigin),
            _ => Ok(()),
        }
    }

    /// True if the whole of `area` lies on the COW device.
    pub const fn has_area(self, area: u64) -> bool {
        self.layout.area_location(area).get() < self.cow_chunks
    }
}
