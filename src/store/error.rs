use std::fmt;
use std::io;

use dmsnap_format::{Exception, ExceptionFault, HeaderError, Layout};

/// Where a slot lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Chunk of the COW device that holds the area.
    pub chunk: u64,
    /// Area.
    pub area: u64,
    /// Slot in the area.
    pub slot: u64,
}

impl Place {
    /// Of exception `index`.
    pub fn of(layout: Layout, index: u64) -> Self {
        let (area, slot) = layout.position(index);
        Self { chunk: layout.area_location(area).get(), area, slot }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "area {} (chunk {}), slot {}", self.area, self.chunk, self.slot)
    }
}

/// Why an exception cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It contradicts the devices.
    Device(ExceptionFault),
    /// An earlier slot has the same origin chunk. Which one counts depends on the kernel's
    /// version, and a merge ends with the earlier one.
    DuplicateOld,
    /// An earlier slot has the same COW chunk.
    DuplicateNew,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(fault) => fault.fmt(f),
            Self::DuplicateOld => f.write_str("repeats the origin chunk of an earlier slot"),
            Self::DuplicateNew => f.write_str("repeats the COW chunk of an earlier slot"),
        }
    }
}

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The COW device failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, as in "cannot read area 3".
        doing: String,
        /// What the device said.
        source: io::Error,
    },
    /// No store, or none that can be opened.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A repair in place was begun here, and did not end.
    #[error(
        "a repair in place was begun here and did not end: the backup of the metadata brings the store back"
    )]
    RepairBegun,
    /// The snapshot was dropped.
    #[error("the store is invalid: the snapshot was dropped")]
    Invalid,
    /// A flush or a metadata write failed before; what is on the medium is unknown.
    #[error("an earlier write to this store failed: it must be opened anew")]
    Broken,
    /// It was opened for reading only.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// No room for another exception.
    #[error("the store is full")]
    Full,
    /// An exception that cannot be believed.
    #[error("{place}: the exception {} -> {} {fault}", exception.old, exception.new)]
    Fault {
        /// Its slot.
        place: Place,
        /// What it says.
        exception: Exception,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The last area on the device is full, so that the list has no end.
    #[error(
        "area {area} should end the list of exceptions but lies beyond the end of the device ({cow_bytes} bytes): it was cut short"
    )]
    NoTerminator {
        /// The area that is missing.
        area: u64,
        /// The size of the COW device, in bytes.
        cow_bytes: u64,
    },
    /// Exceptions were lost to an unaligned discard in a kernel, and an opening for writing would wipe what
    /// is left after them.
    #[error(
        "area {area} (chunk {chunk}) has lost the front of its exceptions, and {left} after them would be wiped: the origin would not become what the snapshot was"
    )]
    FrontZeroed {
        /// The area.
        area: u64,
        /// Its chunk of the COW device.
        chunk: u64,
        /// Slots that are left.
        left: u64,
    },
    /// Chunks that are not made of whole blocks of a device: a kernel would not map the snapshot.
    #[error(
        "its blocks have {block_bytes} bytes, and a chunk of {chunk_bytes} bytes is not made of whole ones, as kernels demand"
    )]
    PartBlocks {
        /// The device's logical blocks, in bytes.
        block_bytes: u64,
        /// In bytes.
        chunk_bytes: u64,
    },
    /// The device is too small for any store with this chunk size.
    #[error("the device has {cow_bytes} bytes; header and first area alone need {needed_bytes}")]
    TooSmall {
        /// The size of the COW device.
        cow_bytes: u64,
        /// What two chunks take.
        needed_bytes: u64,
    },
    /// Asked for something this kind of store does not have.
    #[error("a transient store cannot be merged")]
    Transient,
}

/// What is said of a device that does not tell its size.
pub(crate) const UNKNOWN_SIZE: &str = "cannot find out the size";

impl StoreError {
    /// For `map_err` on the size of a device.
    pub(crate) fn unknown_size(source: io::Error) -> Self {
        Self::Io { doing: UNKNOWN_SIZE.into(), source }
    }

    /// For `map_err` on what the device said.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
