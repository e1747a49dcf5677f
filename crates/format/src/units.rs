use core::fmt;

/// Bytes in a sector: the unit of every size in headers, tables and status lines, whatever the
/// device's own block is.
pub const SECTOR_BYTES: u64 = 512;

/// The unit of copying, a power of two of sectors from 1 to 2097152 (512 bytes to 1 GiB).
///
/// The bounds are the kernel's: it refuses anything above 4194303 sectors, so the largest power of
/// two it takes is 2097152.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize {
    shift: u32,
}

/// A chunk size no kernel would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkSizeError {
    /// Zero or not a power of two.
    #[error("chunk size of {sectors} sectors (must be a power of two)")]
    NotPowerOfTwo {
        /// The value found, in sectors.
        sectors: u32,
    },
    /// More than 2097152 sectors.
    #[error("chunk size of {sectors} sectors (at most {} are possible)", ChunkSize::MAX.sectors())]
    TooLarge {
        /// The value found, in sectors.
        sectors: u32,
    },
}

impl ChunkSize {
    /// One sector.
    pub const MIN: Self = Self { shift: 0 };
    /// That of a new store for which none was asked: 8 sectors, 4 KiB, as LVM makes snapshots.
    pub const DEFAULT: Self = Self { shift: 3 };
    /// What a kernel takes where a table line says chunk size 0: 32 sectors, 16 KiB.
    pub const KERNEL_DEFAULT: Self = Self { shift: 5 };
    /// 2097152 sectors, 1 GiB.
    pub const MAX: Self = Self { shift: 21 };

    /// Checks a size in sectors.
    ///
    /// # Errors
    ///
    /// [`ChunkSizeError`] where the kernel would say "Invalid chunk size".
    pub const fn from_sectors(sectors: u32) -> Result<Self, ChunkSizeError> {
        if !sectors.is_power_of_two() {
            return Err(ChunkSizeError::NotPowerOfTwo { sectors });
        }
        if sectors > Self::MAX.sectors() {
            return Err(ChunkSizeError::TooLarge { sectors });
        }
        Ok(Self { shift: sectors.trailing_zeros() })
    }

    /// All that there are, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::MIN.shift..=Self::MAX.shift).map(|shift| Self { shift })
    }

    /// In sectors.
    pub const fn sectors(self) -> u32 {
        1 << self.shift
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        SECTOR_BYTES << self.shift
    }

    /// How many whole chunks fit into `bytes`.
    pub const fn whole_chunks(self, bytes: u64) -> u64 {
        bytes >> (self.shift + 9)
    }

    /// How many chunks touch the first `bytes` of a device: a last, shorter one counts.
    pub const fn touched_chunks(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }
}

impl fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.sectors())
    }
}

macro_rules! chunk_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The chunk with this number; any 64-bit value can stand on disk.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The chunk `n` further on. Saturates: a number near 2^64 is never valid, and must
            /// not turn into a small one that is.
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// Where the chunk begins on its device, in bytes; `None` past 2^64.
            pub const fn byte(self, size: ChunkSize) -> Option<u64> {
                self.0.checked_mul(size.bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

chunk_number! {
    /// A chunk of the origin (and of the snapshot: both are numbered alike).
    OriginChunk
}
chunk_number! {
    /// A chunk of the COW device; 0 is the header and, inside an exception, the terminator.
    CowChunk
}
