//! Changing a volume group's metadata.

mod error; // why it is refused
mod edit; // the text of before a merge, and after it
mod plan; // which bytes to write, and in which order

use crate::assemble::{Group, GroupProblem};
use crate::group::VolumeGroup;

pub use edit::Stamp;
pub use error::RewriteError;
pub use plan::Step;

/// A new metadata text, and how to bring it onto the disks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrite {
    /// Without the NUL that follows it on disk.
    pub text: Vec<u8>,
    /// To be done one after the other.
    pub steps: Vec<Step>,
}

/// Both rewrites of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeRewrites {
    /// Says that the snapshot merges; to be carried out before the first byte of the origin changes.
    /// `None` if the text in force says so already.
    pub mark: Option<Rewrite>,
    /// The group without the snapshot; to be carried out when all its data is with the origin.
    pub finish: Rewrite,
}

impl Group {
    /// What LVM does to the metadata before and after a merge of `snapshot`.
    ///
    /// A group that is activated in between is one that merges: LVM continues it, as after an
    /// `lvconvert --merge`. Without the mark it would show an origin that is neither old nor new.
    ///
    /// # Ordering
    ///
    /// 1. [`MergeRewrites::mark`], all of its steps
    /// 2. the data                                 (done by the caller, durably)
    /// 3. [`MergeRewrites::finish`]
    ///
    /// A crash in 1 leaves the group of before or the marked one, and all data as it was; one in 2
    /// the marked group; one in 3 the marked group or the new one. Each rewrite has the order of
    /// [`finish_merge`](Self::finish_merge).
    ///
    /// # Errors
    ///
    /// As [`finish_merge`](Self::finish_merge), for both of them before anything is written.
    pub fn merge(
        &self,
        snapshot: &str,
        mark: &Stamp,
        finish: &Stamp,
    ) -> Result<MergeRewrites, RewriteError> {
        if self.vg.snapshot(snapshot).is_some_and(|snapshot| snapshot.merging) {
            return Ok(MergeRewrites { mark: None, finish: self.finish_merge(snapshot, finish)? });
        }
        // What refuses the removal comes first: it is what the user asked for.
        self.finish_merge(snapshot, finish)?;
        let text = self.marked(snapshot, mark)?;
        let steps = self.steps(&text)?;
        let finish = self.following(&text)?.finish_merge(snapshot, finish)?;
        Ok(MergeRewrites { mark: Some(Rewrite { text, steps }), finish })
    }

    /// Whether `text` is that of this group right before the merge of `snapshot` was marked in it:
    /// what a merge that goes on has kept as the old one.
    pub fn is_marked_since(&self, text: &[u8], snapshot: &str) -> bool {
        let merging = self.vg.snapshot(snapshot).is_some_and(|snapshot| snapshot.merging);
        let old = VolumeGroup::parse(text).ok();
        merging && old.is_some_and(|old| edit::is_marked(&old, &self.vg, snapshot))
    }

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
    /// 1. write the text into the free part of the area's buffer, after the live text
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
