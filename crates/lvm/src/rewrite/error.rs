use crate::assemble::GroupProblem;
use crate::group::{Fault, GroupError, MapError};

/// Why the metadata cannot be rewritten. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RewriteError {
    /// No snapshot has that name.
    #[error("volume group {vg} has no snapshot {name}")]
    NotFound { vg: String, name: String },
    /// The COW device is not made of extents alone: removing it would leave parts.
    #[error("the snapshot cannot be removed: {0}")]
    Cow(MapError),
    /// The origin lies nowhere: there is nothing to merge into.
    #[error("its origin {origin} is virtual: there is nothing to merge into")]
    VirtualOrigin { origin: String },
    /// Another LV needs what would be removed.
    #[error("the snapshot cannot be removed: {user} needs {part}")]
    InUse { user: String, part: String },
    /// The group contradicts itself.
    #[error("the metadata contradicts itself: {0}")]
    Fault(Fault),
    /// The disks are not as they should be.
    #[error("the volume group is not whole: {0}")]
    Problem(GroupProblem),
    /// Hosts share the group, and each would have to be told.
    #[error("the volume group is shared by hosts (lock type {lock_type})")]
    Shared { lock_type: String },
    /// `vgexport` was run.
    #[error("the volume group is exported")]
    Exported,
    /// The text does not fit next to the one in force.
    #[error(
        "a metadata area of PV {pv} has {free} bytes free next to the text in force, {needed} are \
         needed"
    )]
    Full { pv: String, free: u64, needed: u64 },
    /// The metadata area is not made of whole sectors.
    #[error("a metadata area of PV {pv} is not made of whole sectors")]
    Unaligned { pv: String },
    /// No metadata area is in use.
    #[error("the volume group has no metadata area in use")]
    NoArea,
    /// The new text would not be what it should: something in the old one was not understood.
    #[error("the new metadata text is not as it should be")]
    Check(#[source] Option<GroupError>),
}
