use std::fmt;
use std::ops::Range;

use dmsnap_format::{ChunkSize, CowChunk};

use super::options::{Condition, Duplicates};

/// What a repair does about one finding. `Display` is the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Treatment {
    /// Nothing: the store is sound with it.
    Leave,
    /// The header is written anew.
    WriteHeader {
        /// The chunk size that it gets.
        chunk_size: ChunkSize,
    },
    /// Nothing, because the chunk size is not known.
    NameChunkSize,
    /// Nothing, because no list of exceptions is left.
    NothingLeft,
    /// The snapshot becomes valid again.
    Revive,
    /// Slots after the end of the list are zeroed.
    ZeroSlots {
        /// How many.
        slots: u64,
    },
    /// What a discard has left of an area follows the exceptions before it. Those that were zeroed are lost:
    /// nothing tells which chunks of the origin they were for.
    MoveUp {
        /// Exceptions that are left.
        left: u64,
        /// Exceptions that were zeroed.
        lost: u64,
    },
    /// The list gets an end.
    EndList,
    /// Dropped, because the area that has to follow it has no room.
    DropNewest {
        /// What falls back to the origin, in bytes.
        origin: Range<u64>,
    },
    /// The exception gets a copy of the chunk of its own.
    CopyChunk,
    /// Dropped: the exception that is kept says the same.
    DropRepeat,
    /// Kept: it is the first with data for its chunk of the origin.
    KeepRepeat,
    /// One of several exceptions with different data is kept.
    Choose {
        /// Where they differ, in bytes of the origin.
        origin: Range<u64>,
        /// Which one; `None` as long as nobody has said.
        keep: Option<Duplicates>,
    },
    /// Dropped: there is no data.
    Drop {
        /// What falls back to the origin, in bytes.
        origin: Range<u64>,
    },
    /// Dropped: no device shows it.
    DropUnseen,
    /// Nothing: it is not the store that is damaged.
    LeaveOrigin {
        /// The chunk of the COW device that holds what the snapshot shows of the origin's first chunk.
        chunk_0: Option<CowChunk>,
    },
}

impl Treatment {
    /// A stable word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::WriteHeader { .. } => "write-header",
            Self::NameChunkSize => "name-chunk-size",
            Self::NothingLeft => "nothing-left",
            Self::Revive => "revive",
            Self::ZeroSlots { .. } => "zero-slots",
            Self::MoveUp { .. } => "move-up",
            Self::EndList => "end-list",
            Self::DropNewest { .. } => "drop-newest",
            Self::CopyChunk => "copy-chunk",
            Self::DropRepeat => "drop-repeat",
            Self::KeepRepeat => "keep-repeat",
            Self::Choose { .. } => "choose",
            Self::Drop { .. } => "drop",
            Self::DropUnseen => "drop-unseen",
            Self::LeaveOrigin { .. } => "leave-origin",
        }
    }

    /// Where the snapshot may show something else afterwards, in bytes of the origin.
    pub fn origin(&self) -> Option<Range<u64>> {
        match self {
            Self::DropNewest { origin } | Self::Choose { origin, .. } | Self::Drop { origin } => {
                Some(origin.clone())
            }
            _ => None,
        }
    }

    /// What has to be agreed to before it is done.
    pub fn needs(&self) -> Option<Condition> {
        match self {
            Self::NothingLeft | Self::LeaveOrigin { .. } => Some(Condition::Impossible),
            Self::NameChunkSize => Some(Condition::ChunkSize),
            Self::Revive => Some(Condition::Revive),
            Self::Choose { .. } => Some(Condition::Duplicates),
            Self::Drop { .. } | Self::DropNewest { .. } | Self::MoveUp { .. } => {
                Some(Condition::Drop)
            }
            Self::Leave
            | Self::WriteHeader { .. }
            | Self::ZeroSlots { .. }
            | Self::EndList
            | Self::CopyChunk
            | Self::DropRepeat
            | Self::KeepRepeat
            | Self::DropUnseen => None,
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => f.write_str("left as it is"),
            Self::WriteHeader { chunk_size } => write!(f, "a new header, chunk size {chunk_size}"),
            Self::NameChunkSize => f.write_str("not repaired: the chunk size is unknown"),
            Self::NothingLeft => f.write_str("not repaired: no exceptions are left"),
            Self::Revive => f.write_str("made valid again"),
            Self::ZeroSlots { slots } => write!(f, "{slots} slots zeroed"),
            Self::MoveUp { left, lost } => write!(
                f,
                "{left} exceptions moved up; {lost} before them are lost, and nothing tells which chunks \
                 of the origin they were for"
            ),
            Self::EndList => f.write_str("the list gets an end"),
            Self::DropNewest { origin } => {
                write!(f, "dropped, to make room for the end of the list: {}", Shown(origin))
            }
            Self::CopyChunk => f.write_str("gets a copy of the chunk of its own"),
            Self::DropRepeat => f.write_str("dropped: the data is the same"),
            Self::KeepRepeat => f.write_str("kept: the earlier exceptions have no data"),
            Self::Choose { origin, keep } => tell_choice(f, origin, *keep),
            Self::Drop { origin } => write!(f, "dropped: {}", Shown(origin)),
            Self::DropUnseen => f.write_str("dropped: no device shows it"),
            Self::LeaveOrigin { chunk_0: Some(chunk) } => write!(
                f,
                "not repaired: what the snapshot shows there is in chunk {chunk} of the COW device"
            ),
            Self::LeaveOrigin { chunk_0: None } => f.write_str(
                "not repaired: the store holds no copy of these bytes; a backup of the origin may",
            ),
        }
    }
}

/// Bytes of the origin that the snapshot shows after the repair.
struct Shown<'a>(&'a Range<u64>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.0.start, self.0.end.saturating_sub(1));
        write!(f, "the snapshot will show the origin in bytes {from} to {to}")
    }
}

fn tell_choice(
    f: &mut fmt::Formatter<'_>,
    origin: &Range<u64>,
    keep: Option<Duplicates>,
) -> fmt::Result {
    f.write_str(match keep {
        None => "either the first or the last is kept",
        Some(Duplicates::First) => "the first is kept",
        Some(Duplicates::Last) => "the last is kept",
    })?;
    let (from, to) = (origin.start, origin.end.saturating_sub(1));
    write!(f, ": they differ, for bytes {from} to {to} of the origin")
}

#[cfg(feature = "serde")]
impl serde::Serialize for Treatment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Told {
            kind: &'static str,
            needs: Option<Condition>,
            #[serde(skip_serializing_if = "Option::is_none")]
            origin_start_bytes: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            origin_length_bytes: Option<u64>,
            message: String,
        }

        let origin = self.origin();
        let told = Told {
            kind: self.name(),
            needs: self.needs(),
            origin_start_bytes: origin.as_ref().map(|bytes| bytes.start),
            origin_length_bytes: origin.as_ref().map(|bytes| bytes.end - bytes.start),
            message: self.to_string(),
        };
        serde::Serialize::serialize(&told, serializer)
    }
}
