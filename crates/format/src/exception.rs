use core::fmt;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::units::{CowChunk, OriginChunk};

/// Bytes in a slot.
pub const SLOT_BYTES: u64 = size_of::<RawException>() as u64;

/// One slot of an area, exactly as stored.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct RawException {
    /// Chunk of the origin; 0 is a chunk like any other.
    pub old: U64,
    /// Chunk of the COW device; 0 is the terminator, whatever `old` says.
    pub new: U64,
}

const _: () = assert!(size_of::<RawException>() == 16);

impl RawException {
    /// What the slot says, or `None` at the terminator. The numbers are not checked against any
    /// device: see [`Extents::check`](crate::Extents::check).
    pub fn decode(&self) -> Option<Exception> {
        let exception =
            Exception { old: OriginChunk::new(self.old.get()), new: CowChunk::new(self.new.get()) };
        (exception.new.get() != 0).then_some(exception)
    }

    /// The slots in `bytes`, in order; a trailing part of a slot is left out.
    pub fn slots(bytes: &[u8]) -> &[Self] {
        let whole = bytes.len() - bytes.len() % size_of::<Self>();
        <[Self]>::ref_from_bytes(&bytes[..whole]).unwrap_or_default()
    }
}

impl From<Exception> for RawException {
    fn from(exception: Exception) -> Self {
        Self { old: U64::new(exception.old.get()), new: U64::new(exception.new.get()) }
    }
}

/// Origin chunk `old` lives in COW chunk `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Where the chunk belongs on the origin.
    pub old: OriginChunk,
    /// Where its content for the snapshot lies on the COW device.
    pub new: CowChunk,
}

/// Exceptions that are consecutive on both devices: `old + i` lives in `new + i` for `i < len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First chunk on the origin.
    pub old: OriginChunk,
    /// First chunk on the COW device.
    pub new: CowChunk,
    /// In chunks, at least 1.
    pub len: u64,
}

impl Run {
    /// Takes `exception` in if it continues the run at its upper end.
    pub fn extend(&mut self, exception: Exception) -> bool {
        // By differences: a sum would have to saturate, and the largest number then follow itself.
        let behind_old = exception.old.get().checked_sub(self.old.get());
        let behind_new = exception.new.get().checked_sub(self.new.get());
        let next = behind_old == Some(self.len) && behind_new == Some(self.len);
        self.len += u64::from(next);
        next
    }
}

impl From<Exception> for Run {
    fn from(exception: Exception) -> Self {
        Self { old: exception.old, new: exception.new, len: 1 }
    }
}

/// Why an exception cannot be true of the devices at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ExceptionFault {
    /// `new` is the header or an area: metadata would be served as data.
    NewIsMetadata,
    /// `new` ends beyond the COW device.
    NewBeyondDevice,
    /// `new` has one of its upper eight bits set, which the kernel takes for a run length; two
    /// such slots can stop the whole machine.
    NewTooLarge,
    /// `old` begins beyond the origin.
    OldBeyondOrigin,
}

impl fmt::Display for ExceptionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewIsMetadata => "points to a metadata chunk of the COW device",
            Self::NewBeyondDevice => "points beyond the end of the COW device",
            Self::NewTooLarge => "has a COW chunk number of 2^56 or more",
            Self::OldBeyondOrigin => "belongs beyond the end of the origin",
        })
    }
}
