use std::io;

use dmsnap_format::{HeaderError, StoreId};

use super::list_error::ListError;
use super::pack::PackError;
use super::repair::Condition;
use crate::copy::CopyError;
use crate::signature::Found;
use crate::store::{FenceBreak, StoreError, UNKNOWN_SIZE};
use crate::table::Duplicate;
use crate::volume::VolumeError;

/// Which of a task's devices something is about. The caller knows their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Which {
    /// The COW device.
    Cow,
    /// The origin.
    Origin,
    /// Where an export goes.
    Output,
    /// The COW device of an undo store.
    Undo,
    /// The COW device of the second of two stores that are compared.
    Second,
}

/// Why a task could not be done. Nothing was written unless the variant says so. The message
/// leaves the device's name to the caller: see [`device`](Error::device).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device failed.
    #[error("{doing}: {source}")]
    Io {
        /// The device.
        device: Which,
        /// What was being done, as in "cannot read chunk 12".
        doing: String,
        /// What the device said.
        source: io::Error,
    },
    /// No store here, or none that can be opened.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// The store refused.
    #[error(transparent)]
    Store(StoreError),
    /// The COW device holds no store, but the origin does.
    #[error("no snapshot store here, but there is one on the origin: the devices look swapped")]
    Swapped,
    /// Both devices begin with a store's header.
    #[error(
        "begins with a store's header itself: it is a COW device, or a kernel's merge that failed wrote it there"
    )]
    OriginIsStore,
    /// A repair in place was begun, and did not end: no store is here until its backup is unpacked.
    #[error(
        "a repair in place was begun here and did not end: the backup of the metadata brings the store back"
    )]
    RepairBegun,
    /// The store was dropped.
    #[error(
        "this store is invalid: the snapshot was dropped, and the origin may have changed since without copies"
    )]
    Invalid,
    /// The store contradicts itself or the devices.
    #[error("{0}; nothing was written")]
    Damaged(StoreError),
    /// An origin chunk occurs more than once.
    #[error("{0}")]
    Duplicate(Duplicate),
    /// Exceptions were lost to an unaligned discard in a kernel: [`StoreError::FrontZeroed`].
    #[error("{0}")]
    FrontZeroed(StoreError),
    /// The observer asked for it.
    #[error("stopped before the end")]
    Stopped,
    /// The consumer of the results did not want more.
    #[error("{0}")]
    Consumer(#[source] io::Error),
    /// Something lies where a store is to be made.
    #[error("holds {found} (magic at byte {})", found.at)]
    Occupied {
        /// What lies there.
        found: Found,
    },
    /// One disk of a RAID, which must not be written without the others.
    #[error("is {found}, and must not be written alone")]
    RaidMember {
        /// What kind of member.
        found: Found,
    },
    /// Another snapshot of the origin cannot keep what it shows.
    #[error("{source}")]
    Other {
        /// Its name.
        name: String,
        /// Why.
        source: Box<Error>,
    },
    /// A device failed, or a snapshot had no room, while a merge let other snapshots keep what they show.
    #[error("{0}")]
    Live(#[source] VolumeError),
    /// There is data of an unknown kind where a store would begin.
    #[error("there is data at byte {at}, where the store would begin")]
    NotEmpty {
        /// Its first byte.
        at: u64,
    },
    /// Chunks are not made of whole blocks of a device.
    #[error("{source}")]
    PartBlocks {
        /// The device.
        device: Which,
        /// Both sizes.
        source: StoreError,
    },
    /// About an undo store.
    #[error("{0}")]
    OfUndo(Box<Error>),
    /// The store keeps the way back of a merge: merged by itself, it would change what its partner shows.
    #[error(
        "is the way back of a merge: merged by itself, it would change what the store {partner} shows"
    )]
    IsWayBack {
        /// The other store.
        partner: StoreId,
    },
    /// The way back is kept while the merge runs, by a store that was not given.
    #[error(
        "is merged with a way back in the store {partner}, which a merge without it would lose"
    )]
    PartnerMissing {
        /// The other store.
        partner: StoreId,
    },
    /// Two stores of which neither names the other as its partner.
    #[error("is not the way back of this store's merge")]
    NotPartners,
    /// The stores of an undo are exchanged.
    #[error("is the way back, and the other store was merged: exchange them")]
    WrongOrder,
    /// The device that is to become an undo store holds another one.
    #[error("holds a store already, which is not the way back of this merge")]
    HoldsStore,
    /// The device that is to become an undo store is too small.
    #[error("has {found_bytes} bytes; the way back takes {needed_bytes}")]
    UndoTooSmall {
        /// Its size.
        found_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// A store has no room for what it is to keep.
    #[error("has no room for {chunks} more chunks that it is to keep: {room} fit")]
    NoRoomToKeep {
        /// How many chunks.
        chunks: u64,
        /// How many fit.
        room: u64,
    },
    /// The origin is not what the store remembers of it.
    #[error("not the origin that the store was made for, or it was written past the store: {0}")]
    OriginChanged(FenceBreak),
    /// The origin is shorter than the snapshot that is to be merged, and lacks what lies past its end.
    #[error(
        "{origin_bytes} bytes, and the snapshot of it has {snapshot_bytes}: make it as large first"
    )]
    OriginTooSmall {
        /// Size of the origin.
        origin_bytes: u64,
        /// Size of the snapshot, as it was given.
        snapshot_bytes: u64,
    },
    /// The size given for a snapshot has part of a sector.
    #[error("a snapshot of {snapshot_bytes} bytes, which is not a multiple of 512")]
    PartSectors {
        /// Size of the snapshot, as it was given.
        snapshot_bytes: u64,
    },
    /// A valid store lies where another one is to be written.
    #[error("holds a valid store, which would be lost")]
    StoreExists,
    /// The COW device is smaller than the store that is to be written to it.
    #[error("has {cow_bytes} bytes; the store needs {needed_bytes}")]
    CowTooSmall {
        /// Size of the COW device.
        cow_bytes: u64,
        /// What the store needs.
        needed_bytes: u64,
    },
    /// A list of exceptions cannot be made a store.
    #[error(transparent)]
    List(#[from] ListError),
    /// A pack cannot be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A repair needs something of its caller first.
    #[error("{0}")]
    Needs(Condition),
    /// Two stores remember different content of their origins where both say it has not changed.
    #[error(
        "the stores were made for two origins, or one was written past its store: byte {at} differs"
    )]
    TwoOrigins {
        /// Where what they remember begins.
        at: u64,
    },
    /// What is asked for begins past the end.
    #[error("byte {from} lies past the end at {len_bytes}")]
    PastEnd {
        /// Where it would begin.
        from: u64,
        /// Size of the larger of both.
        len_bytes: u64,
    },
    /// The output has no room for a store.
    #[error("{output_bytes} bytes are too few for the store: it needs {needed_bytes}")]
    NoRoomForStore {
        /// Size of the output.
        output_bytes: u64,
        /// The least size of a device for the store.
        needed_bytes: u64,
    },
    /// The output has no room for the image.
    #[error("{output_bytes} bytes are too few for an image of {image_bytes}")]
    OutputTooSmall {
        /// Size of the output.
        output_bytes: u64,
        /// Size of the image.
        image_bytes: u64,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { doing, source } => Self::Io { device: Which::Cow, doing, source },
            StoreError::Header(error) => Self::Header(error),
            StoreError::Invalid => Self::Invalid,
            StoreError::RepairBegun => Self::RepairBegun,
            lost @ StoreError::FrontZeroed { .. } => Self::FrontZeroed(lost),
            fault @ (StoreError::Fault { .. } | StoreError::NoTerminator { .. }) => {
                Self::Damaged(fault)
            }
            source @ StoreError::PartBlocks { .. } => {
                Self::PartBlocks { device: Which::Cow, source }
            }
            other => Self::Store(other),
        }
    }
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => error.into(),
            CopyError::Target(doing, source) => Self::Io { device: Which::Origin, doing, source },
        }
    }
}

impl Error {
    /// What [`Volume::open`](crate::volume::Volume::open) refused a COW device for.
    pub fn of_opening(error: VolumeError) -> Self {
        match error {
            VolumeError::Store(refused) => refused.into(),
            VolumeError::OriginChanged(found) => Self::OriginChanged(found),
            error => Self::io(Which::Cow, "cannot become a snapshot")(error.into()),
        }
    }

    /// The device it is about.
    pub fn device(&self) -> Which {
        match self {
            Self::Io { device, .. } | Self::PartBlocks { device, .. } => *device,
            Self::OriginIsStore | Self::OriginChanged(_) | Self::OriginTooSmall { .. } => {
                Which::Origin
            }
            Self::OutputTooSmall { .. } | Self::NoRoomForStore { .. } => Which::Output,
            Self::OfUndo(error) => match error.device() {
                Which::Cow => Which::Undo,
                other => other,
            },
            _ => Which::Cow,
        }
    }

    /// About the undo store.
    pub(super) fn of_undo(error: impl Into<Self>) -> Self {
        Self::OfUndo(Box::new(error.into()))
    }

    /// About another snapshot of the origin.
    pub(super) fn other(name: &str, error: Self) -> Self {
        Self::Other { name: name.to_owned(), source: Box::new(error) }
    }

    /// For `map_err` on the size of a device.
    pub(crate) fn unknown_size(device: Which) -> impl FnOnce(io::Error) -> Self {
        Self::io(device, UNKNOWN_SIZE)
    }

    /// For `map_err` on what a device said.
    pub(crate) fn io(device: Which, doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { device, doing, source }
    }
}
