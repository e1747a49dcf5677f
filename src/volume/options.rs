use super::error::VolumeError;
use crate::store::Strays;

/// What a write to the origin does when a snapshot that needs the old data has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFull {
    /// The snapshot is dropped, durably, and the write goes on: what kernels do.
    #[default]
    Invalidate,
    /// The write fails with "no space".
    Fail,
    /// The write waits for room, at most this many [ticks](super::Volume::tick), then fails.
    Wait {
        /// How many.
        ticks: u32,
    },
}

impl OnFull {
    /// What the write is refused with; `None` if the snapshot is dropped instead.
    pub(super) fn refusal(self) -> Option<VolumeError> {
        match self {
            Self::Invalidate => None,
            Self::Fail => Some(VolumeError::NoRoom { ticks: None }),
            Self::Wait { ticks } => Some(VolumeError::NoRoom { ticks: Some(ticks) }),
        }
    }
}

/// How a snapshot behaves.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    /// How large the snapshot is: the origin may have been made longer since. By default as the origin.
    pub len_bytes: Option<u64>,
    /// What an opening for writing does with what lies after the end of the store's list.
    pub strays: Strays,
    /// What happens to origin writes when the store is full.
    pub on_full: OnFull,
    /// Up to how many bytes the COW device is grown when it is full, if it can grow.
    pub max_bytes: Option<u64>,
    /// Discards of whole chunks that have an exception zero them, as in kernels with
    /// `discard_zeroes_cow`. Without it discards of the snapshot do nothing.
    pub discard_zeroes: bool,
    /// Discards go to the origin as well, which keeps the old data for every snapshot first.
    pub discard_passdown: bool,
    /// Open it although the origin is not what the store remembers of it.
    pub ignore_fence: bool,
}
