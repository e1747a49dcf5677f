use std::fmt;
use std::str::FromStr;

use super::error::VolumeError;
use crate::store::Strays;

/// What a write to the origin does when a snapshot that needs the old data has no room for it.
///
/// As text, and with `serde`: `invalidate`, `fail`, or `wait:60`, where a server ticks once a second and
/// that is a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
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

impl fmt::Display for OnFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalidate => f.write_str("invalidate"),
            Self::Fail => f.write_str("fail"),
            Self::Wait { ticks } => write!(f, "wait:{ticks}"),
        }
    }
}

/// A text that is none of an [`OnFull`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`; it is invalidate, fail or wait:SECONDS")]
#[non_exhaustive]
pub struct UnknownOnFull {
    /// The text.
    pub found: String,
}

impl FromStr for OnFull {
    type Err = UnknownOnFull;

    fn from_str(text: &str) -> Result<Self, UnknownOnFull> {
        let found = match text {
            "invalidate" => Some(Self::Invalidate),
            "fail" => Some(Self::Fail),
            _ => {
                let ticks = text.strip_prefix("wait:");
                let digits = |it: &&str| it.bytes().all(|byte| byte.is_ascii_digit());
                let ticks = ticks.filter(digits).and_then(|it| it.parse().ok());
                ticks.map(|ticks| Self::Wait { ticks })
            }
        };
        found.ok_or_else(|| UnknownOnFull { found: text.into() })
    }
}

impl TryFrom<String> for OnFull {
    type Error = UnknownOnFull;

    fn try_from(text: String) -> Result<Self, UnknownOnFull> {
        text.parse()
    }
}

impl From<OnFull> for String {
    fn from(rule: OnFull) -> Self {
        rule.to_string()
    }
}

/// How a snapshot behaves.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    /// How large the snapshot is, in bytes. Where it is longer than the origin, that is followed by zeroes; where it is
    /// shorter, what follows is not a part of it: the origin may have been made longer since. By default what the
    /// store says of itself, or else as the origin.
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
