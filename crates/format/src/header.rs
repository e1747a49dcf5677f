use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::units::{ChunkSize, ChunkSizeError};

/// "SnAp", the first four bytes of every persistent store.
pub const MAGIC: [u8; 4] = *b"SnAp";

/// The only version there ever was.
pub const VERSION: u32 = 1;

/// The first 16 bytes of a COW device, exactly as stored. The rest of chunk 0 is written as zeroes
/// and ignored on reading.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RawHeader {
    /// [`MAGIC`]; four zeroes mean "no store yet" to the kernel, which then makes one.
    pub magic: [u8; 4],
    /// Zero means the snapshot was dropped and can never be used again; the kernel treats any
    /// other value as valid.
    pub valid: U32,
    /// [`VERSION`].
    pub version: U32,
    /// In sectors.
    pub chunk_size: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 16);

impl RawHeader {
    /// The header of a store with this chunk size.
    pub fn new(chunk_size: ChunkSize, valid: bool) -> Self {
        Self {
            magic: MAGIC,
            valid: U32::new(u32::from(valid)),
            version: U32::new(VERSION),
            chunk_size: U32::new(chunk_size.sectors()),
        }
    }

    /// Takes the header from the first bytes of a COW device.
    ///
    /// Returns `None` if there are fewer than 16.
    pub fn from_prefix(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// What the header means.
    ///
    /// # Errors
    ///
    /// The first reason, in the kernel's order of checks, why the kernel would not open this
    /// device: magic, chunk size, version. That a store is invalid is not an error here: the kernel
    /// opens it and answers every request with an error.
    pub fn validate(&self) -> Result<Header, HeaderError> {
        match self.magic {
            MAGIC => {}
            [0, 0, 0, 0] => return Err(HeaderError::Blank),
            found => return Err(HeaderError::Magic { found }),
        }
        let chunk_size = ChunkSize::from_sectors(self.chunk_size.get())?;
        match self.version.get() {
            VERSION => Ok(Header { chunk_size, valid: self.valid.get() != 0 }),
            found => Err(HeaderError::Version { found }),
        }
    }
}

/// A header that the kernel would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Fixed when the store is created; what a table line says later is ignored.
    pub chunk_size: ChunkSize,
    /// False for good once the snapshot was dropped.
    pub valid: bool,
}

/// Why a header chunk cannot be acted on. Each message names the value that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// All-zero magic: the kernel would initialise this device, not open it.
    #[error("no snapshot store here: the magic is zero")]
    Blank,
    /// Something else lives here.
    #[error("no snapshot store here: the magic is {:02x} {:02x} {:02x} {:02x}, not 53 6e 41 70 (\"SnAp\")", found[0], found[1], found[2], found[3])]
    Magic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// A chunk size that cannot be.
    #[error("impossible {0}")]
    ChunkSize(#[from] ChunkSizeError),
    /// A version that was never written.
    #[error("format version {found} (only {VERSION} exists)")]
    Version {
        /// The version found.
        found: u32,
    },
}
