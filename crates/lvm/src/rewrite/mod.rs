//! Changing a volume group's metadata.

mod edit; // the text without a merged snapshot
mod plan; // which bytes to write, and in which order

use crate::assemble::{Group, GroupProblem};
use crate::group::{Fault, GroupError, MapError};

pub use plan::Step;

/// Who writes, and when. LVM shows it to people and looks at none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What was done, as `Merged vg0/snap.`
    pub description: String,
    /// The name of this machine.
    pub host: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// A new metadata text, and how to bring it onto the disks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrite {
    /// Without the NUL that follows it on disk.
    pub text: Vec<u8>,
    /// To be done one after the other.
    pub steps: Vec<Step>,
}

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
    /// The text does not fit beside the one in force.
    #[error(
        "a metadata area of PV {pv} has {free} bytes free beside the text in force, {needed} are \
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

impl Group {
    /// What LVM does to the metadata when the merge of `snapshot` has ended: the LV of that name
    /// and the hidden one that ties it to its origin are gone, and the seqno is one higher.
    /// All else is kept byte for byte, whether this version knows it or not.
    ///
    /// To be asked before the first byte is merged: all that could be refused is refused here.
    /// It holds as long as nobody else writes the metadata.
    ///
    /// # Ordering
    ///
    /// Of [`Rewrite::steps`]; each line is one step for every metadata area in use:
    ///
    /// 1. write the text into the free part of the area's buffer, behind the live text
    /// 2. flush
    /// 3. write the area's header: the live text is the old one, the new one is precommitted
    /// 4. flush
    /// 5. write the area's header: the live text is the new one
    /// 6. flush                                   - this, before step 5 of the next area
    ///
    /// A crash before 5 leaves the old metadata, and so does one in the middle of any write but
    /// that of a header, whose 512 bytes are one sector. A crash before the last step 5 leaves some
    /// areas with the new and others with the old text: readers take the newer one, and LVM
    /// brings the others up to date with its next change.
    ///
    /// # Errors
    ///
    /// If there is no such snapshot, if the group is not whole or contradicts itself, or if a
    /// metadata area has no room.
    pub fn finish_merge(&self, snapshot: &str, stamp: &Stamp) -> Result<Rewrite, RewriteError> {
        self.check_writable()?;
        let text = self.without(snapshot, stamp)?;
        let steps = self.steps(&text)?;
        Ok(Rewrite { text, steps })
    }

    /// Whether the group is as LVM left it, as far as anybody can see.
    ///
    /// # Errors
    ///
    /// The first thing that is not. Old texts in some areas are allowed: those are replaced.
    pub fn check_writable(&self) -> Result<(), RewriteError> {
        if let Some(fault) = self.vg.faults().first() {
            return Err(RewriteError::Fault(fault.clone()));
        }
        let is_old = |problem: &&GroupProblem| !matches!(problem, GroupProblem::OldText { .. });
        if let Some(problem) = self.problems.iter().find(is_old) {
            return Err(RewriteError::Problem(problem.clone()));
        }
        if let Some(lock_type) = self.vg.lock_type.clone() {
            return Err(RewriteError::Shared { lock_type });
        }
        if self.vg.is_exported() { Err(RewriteError::Exported) } else { Ok(()) }
    }
}
