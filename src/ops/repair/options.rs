use std::fmt;

use dmsnap_format::ChunkSize;

/// What a repair may do, and what its caller knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Drop what cannot be repaired: the snapshot shows the origin there.
    pub drop_lost: bool,
    /// Which of several exceptions for one chunk of the origin counts, if their data differ.
    pub duplicates: Option<Duplicates>,
    /// The chunk size, whatever the header says.
    pub chunk_size: Option<ChunkSize>,
    /// Make a snapshot that was dropped valid again.
    pub revive: bool,
    /// The size of the snapshot, in bytes; by default that of the origin.
    pub len_bytes: Option<u64>,
    /// Where the repaired store is to be.
    pub target: RepairTarget,
}

impl RepairOptions {
    /// Whether the caller has agreed to this.
    pub(super) fn meets(&self, condition: Condition) -> bool {
        match condition {
            Condition::Impossible | Condition::ChunkSize => false,
            Condition::Revive => self.revive,
            Condition::Duplicates => self.duplicates.is_some(),
            Condition::Drop => self.drop_lost,
        }
    }
}

/// Where the repaired store is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepairTarget {
    /// On another device, which has room for it.
    #[default]
    Copy,
    /// Where it is.
    InPlace {
        /// The device can be made longer.
        can_grow: bool,
    },
}

/// Which of several exceptions for one chunk of the origin is kept, if their data differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// That of the earliest slot: what Linux 6.1 shows, and what every merge ends with.
    First,
    /// That of the latest slot: what Linux 6.12 shows.
    Last,
}

/// What a caller has to agree to, or to say, before a repair is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Condition {
    /// There is no repair.
    Impossible,
    /// The chunk size has to be told.
    ChunkSize,
    /// A snapshot that was dropped becomes valid again.
    Revive,
    /// Which of several exceptions counts.
    Duplicates,
    /// Chunks of the snapshot are lost.
    Drop,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Impossible => "what was found cannot be repaired",
            Self::ChunkSize => {
                "the chunk size is unknown: not exactly one makes a list of exceptions of what is there"
            }
            Self::Revive => {
                "the snapshot was dropped, and the origin may have changed since without copies"
            }
            Self::Duplicates => "exceptions for the same chunk of the origin have different data",
            Self::Drop => "a repair loses chunks of the snapshot",
        })
    }
}
