use std::fmt;

use dmsnap_format::{Exception, ExceptionFault, HeaderError};

use super::{Fault, FenceBreak, Place, StoreError};

/// How bad something is that was found in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Severity {
    /// Worth knowing; the store is sound.
    Note,
    /// The kernel would refuse or misread the store, or data is lost.
    Damage,
}

/// What can be found in a store. `Display` is the sentence for people, without the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// No kernel would open what the header says.
    Header(HeaderError),
    /// The device ends before the first area does.
    TooSmall {
        /// Of the COW device.
        cow_bytes: u64,
        /// What header and first area take.
        needed_bytes: u64,
    },
    /// The snapshot was dropped.
    Invalid,
    /// The valid flag is neither 0 nor 1. A note.
    OddValidFlag {
        /// The flag.
        valid: u32,
    },
    /// The device does not end with a chunk. A note.
    PartialChunk {
        /// Bytes after the last whole chunk.
        extra_bytes: u64,
    },
    /// An exception that cannot be believed.
    Exception {
        /// What the slot says.
        exception: Exception,
        /// What is wrong with it.
        fault: Fault,
        /// Its COW chunk is the one that an in-order writer gives its slot. Of no meaning for one that
        /// repeats another.
        in_step: bool,
        /// The slot that it repeats, where that is known.
        earlier: Option<Place>,
    },
    /// The very first exception cannot be, as after a creation that was cut off. A note.
    StaleFirstArea,
    /// The area that should end the list lies beyond the device.
    MissingTerminator {
        /// Of the COW device.
        cow_bytes: u64,
    },
    /// Slots after the terminator that are not empty.
    StraySlots {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// The terminator's.
        terminator: u64,
    },
    /// The same, as an unaligned discard in a kernel leaves them.
    FrontZeroed {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// The terminator's.
        terminator: u64,
    },
    /// The origin begins with a store's header.
    OriginBeginsWithHeader,
    /// The origin is not the one that the store was made for, or was written past the store.
    OriginChanged(FenceBreak),
    /// Data chunks that no exception uses. A note.
    Holes {
        /// How many.
        chunks: u64,
    },
    /// Exceptions that are not where an in-order writer puts them. A note.
    OutOfOrder {
        /// How many.
        exceptions: u64,
    },
    /// A kernel has dropped the snapshot when its last chunk was filled. A note.
    DroppedAtLastChunk,
    /// There is no room for another exception. A note.
    Full,
    /// A kernel will drop the snapshot when its last chunk is filled. A note.
    KernelLosesLastChunk {
        /// Of the COW device.
        chunks: u64,
    },
}

impl Damage {
    /// A stable word for programs: `bad-magic`, `duplicate-old`, ...
    pub fn name(&self) -> &'static str {
        match self {
            Self::Header(error) => header_name(*error),
            Self::TooSmall { .. } => "truncated",
            Self::Invalid => "invalid",
            Self::OddValidFlag { .. } => "odd-valid-flag",
            Self::PartialChunk { .. } => "partial-chunk",
            Self::Exception { fault, in_step, .. } => exception_name(*fault, *in_step),
            Self::StaleFirstArea => "stale-first-area",
            Self::MissingTerminator { .. } => "missing-terminator",
            Self::StraySlots { .. } => "stray-slots",
            Self::FrontZeroed { .. } => "front-of-area-zeroed",
            Self::OriginBeginsWithHeader => "origin-begins-with-header",
            Self::OriginChanged(_) => "origin-changed",
            Self::Holes { .. } => "holes",
            Self::OutOfOrder { .. } => "out-of-order",
            Self::DroppedAtLastChunk => "dropped-at-last-chunk",
            Self::Full => "full",
            Self::KernelLosesLastChunk { .. } => "kernel-loses-last-chunk",
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::OddValidFlag { .. }
            | Self::PartialChunk { .. }
            | Self::StaleFirstArea
            | Self::Holes { .. }
            | Self::OutOfOrder { .. }
            | Self::DroppedAtLastChunk
            | Self::Full
            | Self::KernelLosesLastChunk { .. } => Severity::Note,
            _ => Severity::Damage,
        }
    }
}

fn header_name(error: HeaderError) -> &'static str {
    match error {
        HeaderError::Blank => "blank",
        HeaderError::Magic { .. } => "bad-magic",
        HeaderError::Version { .. } => "bad-version",
        HeaderError::ChunkSize(_) => "impossible-chunk-size",
        _ => "bad-header",
    }
}

fn exception_name(fault: Fault, in_step: bool) -> &'static str {
    match fault {
        Fault::Device(ExceptionFault::NewIsMetadata) => "new-is-metadata",
        Fault::Device(ExceptionFault::NewBeyondDevice) if in_step => "truncated",
        Fault::Device(ExceptionFault::NewBeyondDevice) => "new-beyond-device",
        Fault::Device(ExceptionFault::NewTooLarge) => "new-too-large",
        Fault::Device(ExceptionFault::OldBeyondOrigin) => "old-beyond-origin",
        Fault::Device(_) => "bad-exception",
        Fault::DuplicateOld => "duplicate-old",
        Fault::DuplicateNew => "duplicate-new",
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header(error) => error.fmt(f),
            Self::TooSmall { cow_bytes, needed_bytes } => {
                StoreError::TooSmall { cow_bytes, needed_bytes }.fmt(f)
            }
            Self::Invalid => f.write_str(
                "the snapshot was dropped: the origin may have changed since without copies",
            ),
            Self::OddValidFlag { valid } => {
                write!(f, "the valid flag is {valid}; kernels take that for 1")
            }
            Self::PartialChunk { extra_bytes } => write!(
                f,
                "the device ends {extra_bytes} bytes into a chunk: these are never used (normal, unless \
                 the file was cut short)"
            ),
            Self::OriginBeginsWithHeader => f.write_str(
                "the origin begins with a store's header: kernels copy it there when a merge goes on \
                 after a failed write to the COW device (or this is a COW device itself)",
            ),
            Self::OriginChanged(found) => write!(
                f,
                "this is not the origin that the store was made for, or it was written past the store: {found}"
            ),
            Self::Exception { exception, fault, in_step, earlier } => {
                tell_exception(f, exception, fault, in_step, earlier)
            }
            Self::StraySlots { first, last, terminator } => {
                tell_slots(f, first, last, terminator)?;
                f.write_str(
                    ": a kernel that opens this store brings them to life when it fills the gap",
                )
            }
            Self::FrontZeroed { first, last, terminator } => {
                tell_slots(f, first, last, terminator)?;
                f.write_str(
                    ": the front of this area was zeroed, as kernels do when a discard is not aligned \
                     to chunks; the exceptions in it are lost to them",
                )
            }
            ref other => tell_list(f, other),
        }
    }
}

/// What is said of the list as a whole.
fn tell_list(f: &mut fmt::Formatter<'_>, damage: &Damage) -> fmt::Result {
    match damage {
        Damage::StaleFirstArea => f.write_str(
            "the very first exception cannot be: perhaps the store had just been created, and a crash \
             left the header but not the zeroes of the first area",
        ),
        Damage::MissingTerminator { cow_bytes } => write!(
            f,
            "the list of exceptions goes on here, but the device ends at {cow_bytes} bytes: it was cut \
             off, or a kernel filled it to the last chunk"
        ),
        Damage::Holes { chunks } => {
            write!(f, "{chunks} data chunks are used by no exception: lost room")
        }
        Damage::OutOfOrder { exceptions } => write!(
            f,
            "{exceptions} exceptions are not where an in-order writer puts them: written before 2013, \
             or by something else than a kernel"
        ),
        Damage::DroppedAtLastChunk => f.write_str(
            "kernels drop a snapshot of this size when its last chunk is filled, by a defect of their \
             own: that is what happened here, and all exceptions are whole",
        ),
        Damage::Full => f.write_str(
            "the store is full. Had a kernel dropped the snapshot for that, a power cut could have \
             lost the mark, which it writes without a flush",
        ),
        Damage::KernelLosesLastChunk { chunks } => write!(
            f,
            "with {chunks} chunks a kernel drops the snapshot when the last one is filled, by a defect \
             of its own: make the device a chunk larger or smaller"
        ),
        _ => Ok(()),
    }
}

fn tell_exception(
    f: &mut fmt::Formatter<'_>,
    Exception { old, new }: Exception,
    fault: Fault,
    in_step: bool,
    earlier: Option<Place>,
) -> fmt::Result {
    write!(f, "the exception {old} -> {new} {fault}")?;
    if in_step && fault == Fault::Device(ExceptionFault::NewBeyondDevice) {
        f.write_str(", in step with its slot: the end of the device or file was cut off")?;
    }
    if let Some(earlier) = earlier {
        write!(f, ": {earlier}")?;
    }
    if fault == Fault::DuplicateOld {
        f.write_str(" (kernels differ in which of them they show; a merge ends with the earlier)")?;
    }
    Ok(())
}

fn tell_slots(f: &mut fmt::Formatter<'_>, first: u64, last: u64, terminator: u64) -> fmt::Result {
    match first == terminator {
        true => write!(f, "slots {first} to {last}, from the terminator on, are not empty"),
        false => write!(
            f,
            "slots {first} to {last} after the terminator in slot {terminator} are not empty"
        ),
    }
}
