use std::io;

use dmsnap_format::StoreId;

use crate::store::{FenceBreak, StoreError};
use crate::table::Duplicate;

/// Why a volume did not do what was asked.
///
/// A [`View`](super::View) is a device, whose errors are [`io::Error`]s: what the volume itself refuses is
/// inside ([`io::Error::downcast`]), with the same [kind](Self::kind), and what a device said is passed on
/// as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// Another snapshot has the name.
    #[error("there is a snapshot {name} already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Not while a snapshot merges.
    #[error("{snapshot} is merging")]
    Merging {
        /// Its name.
        snapshot: String,
    },
    /// [`run_merge`](super::Volume::run_merge) has not returned.
    #[error("the merge is running")]
    MergeRunning,
    /// A merge has finished, and its snapshot is still there.
    #[error("{snapshot} has merged; remove it first")]
    Merged {
        /// Its name.
        snapshot: String,
    },
    /// No merge was started.
    #[error("no merge was started")]
    NotMerging,
    /// The store keeps the way back of a merge: merged by itself, it would change what its partner shows.
    #[error("its store is the way back of a merge, which is not merged by itself")]
    IsWayBack,
    /// Another store keeps the way back already.
    #[error("the store {partner} keeps its way back already")]
    HasWayBack {
        /// The name of that store.
        partner: StoreId,
    },
    /// No valid store that keeps the way back is one of the volume's.
    #[error("no store here keeps a way back")]
    NoWayBack,
    /// What is to be merged back would leave no room for what the snapshot shows.
    #[error("has no room for {chunks} chunks that it would have to keep, only for {room}")]
    NoRoomToKeep {
        /// How many.
        chunks: u64,
        /// For how many there is room.
        room: u64,
    },
    /// The store was opened for reading only.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// A store has no room for another exception.
    #[error("the store is full")]
    NoRoom {
        /// For how many ticks a snapshot's rule lets the write wait for room; `None` if it does not.
        ticks: Option<u32>,
    },
    /// The snapshot was dropped.
    #[error("the snapshot is invalid")]
    Invalid,
    /// The snapshot is not in the volume any more.
    #[error("the snapshot was taken out")]
    TakenOut,
    /// A chunk that was not published when a flush of the COW device failed.
    #[error("a flush of the COW device failed: a chunk may be lost")]
    LostInFlush,
    /// A snapshot was dropped, and nothing on its COW device says so: an origin write that needs either must
    /// not happen.
    #[error(
        "snapshot {snapshot}: its COW device takes neither old data nor the mark that the snapshot is dropped"
    )]
    Unmarked {
        /// Its name.
        snapshot: String,
    },
    /// A store could not be marked as dropped.
    #[error("{snapshot}: {source}; its store says that it is valid, and must not be used")]
    MarkFailed {
        /// The name of its snapshot.
        snapshot: String,
        /// Why.
        source: StoreError,
    },
    /// The snapshot cannot tell any more what has changed since it was made.
    #[error("the snapshot no longer tells what has changed: it was dropped, taken out, or merged")]
    ChangesUnknown,
    /// A transient store cannot be merged: its exceptions are on no device.
    #[error("a transient store")]
    Transient,
    /// The origin is not what the store remembers of it.
    #[error("the origin is not the one that the store was made for, or was written past it: {0}")]
    OriginChanged(FenceBreak),
    /// A snapshot of whole sectors only.
    #[error("the snapshot's size, {found} bytes, is not a multiple of 512")]
    SizeNotWhole {
        /// In bytes.
        found: u64,
    },
    /// A snapshot that is longer than its origin cannot be merged: the origin lacks what lies past its end. Or it
    /// is longer than any file.
    #[error(
        "the snapshot has {found} bytes, and its origin only {origin}: make the origin as large first"
    )]
    SizeTooLarge {
        /// In bytes.
        found: u64,
        /// In bytes.
        origin: u64,
    },
    /// Exceptions that repeat themselves.
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    /// A store cannot be opened, contradicts the devices or itself, or its device failed.
    #[error(transparent)]
    Store(StoreError),
    /// A device failed.
    #[error(transparent)]
    Device(io::Error),
}

impl VolumeError {
    /// The kind of the [`io::Error`] that a device of the volume answers with.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NameTaken { .. } => io::ErrorKind::AlreadyExists,
            Self::Merging { .. } | Self::MergeRunning | Self::Merged { .. } => {
                io::ErrorKind::ResourceBusy
            }
            Self::NotMerging | Self::NoWayBack => io::ErrorKind::NotFound,
            Self::IsWayBack | Self::HasWayBack { .. } => io::ErrorKind::InvalidInput,
            Self::ReadOnly => io::ErrorKind::PermissionDenied,
            Self::NoRoom { .. } | Self::NoRoomToKeep { .. } => io::ErrorKind::StorageFull,
            Self::Transient => io::ErrorKind::Unsupported,
            Self::SizeNotWhole { .. } | Self::SizeTooLarge { .. } => io::ErrorKind::InvalidInput,
            Self::Duplicate(_) => io::ErrorKind::InvalidData,
            Self::Store(StoreError::Io { source, .. })
            | Self::MarkFailed { source: StoreError::Io { source, .. }, .. }
            | Self::Device(source) => source.kind(),
            Self::Invalid
            | Self::TakenOut
            | Self::LostInFlush
            | Self::Unmarked { .. }
            | Self::MarkFailed { .. }
            | Self::ChangesUnknown
            | Self::OriginChanged(_)
            | Self::Store(_) => io::ErrorKind::Other,
        }
    }

    /// For how many ticks the rule of a snapshot without room lets the write wait that failed with `error`.
    pub(super) fn ticks_to_wait(error: &io::Error) -> Option<u32> {
        match error.get_ref()?.downcast_ref()? {
            Self::NoRoom { ticks } => *ticks,
            _ => None,
        }
    }
}

impl From<StoreError> for VolumeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::NoRoom { ticks: None },
            StoreError::ReadOnly => Self::ReadOnly,
            other => Self::Store(other),
        }
    }
}

/// What a device of the volume answered: what is inside, or what the device below said.
impl From<io::Error> for VolumeError {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Device)
    }
}

impl From<VolumeError> for io::Error {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Device(error) => error,
            error => Self::new(error.kind(), error),
        }
    }
}

/// What a client hears of a store's error.
pub(super) fn to_io(error: StoreError) -> io::Error {
    VolumeError::from(error).into()
}
