//! Leaves in order, found by their first old chunk.

use std::ops::Range;

use dmsnap_format::Run;

use super::leaf::{LEAF_RUNS, Leaf};

/// Most leaves a branch holds. Few, so that a search in one touches few cache lines: the first
/// chunks of the branches themselves are touched by every search, and stay in the cache.
pub(super) const BRANCH_LEAVES: usize = 64;

/// Parts with less than a quarter of what they may hold look for a neighbour to fuse with, and
/// leave a quarter free so that the next insertion does not split them again.
const fn few(most: usize) -> usize {
    most / 4
}
const fn fused(most: usize) -> usize {
    most - most / 4
}

/// How full a bulk build leaves the parts: room for an eighth more before they split.
pub(super) const fn filled(most: usize) -> usize {
    most - most / 8
}

/// Entries a branch reserves at once.
const SPARE: usize = 8;

/// Where a leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    branch: usize,
    leaf: usize,
}

/// Neighbouring leaves. The first old chunks lie apart, because a search reads only them.
#[derive(Clone, Default)]
struct Branch {
    firsts: Vec<u64>,
    leaves: Vec<Leaf>,
}

/// All leaves, in branches. No leaf and no branch is empty, so a place in front of every leaf
/// exists only when there is none.
#[derive(Clone, Default)]
pub(super) struct Directory {
    /// First old chunk of every branch.
    firsts: Vec<u64>,
    branches: Vec<Branch>,
}

/// The last of `firsts` at or before `old`, or the first.
fn holder(firsts: &[u64], old: u64) -> usize {
    firsts.partition_point(|&first| first <= old).saturating_sub(1)
}

/// As [`holder`], for few firsts that are not in the cache: one of every line is loaded before the
/// search needs any.
fn far_holder(firsts: &[u64], old: u64) -> usize {
    const LINE: usize = 64 / size_of::<u64>();
    let lines = firsts.iter().skip(LINE).step_by(LINE).map(|&first| usize::from(first <= old));
    let from = LINE * lines.sum::<usize>();
    from + holder(&firsts[from..firsts.len().min(from + LINE)], old)
}

impl Branch {
    fn insert(&mut self, at: usize, leaf: Leaf) {
        if self.leaves.len() == self.leaves.capacity() {
            self.firsts.reserve_exact(SPARE);
            self.leaves.reserve_exact(SPARE);
        }
        self.firsts.insert(at, leaf.run(0).old.get());
        self.leaves.insert(at, leaf);
    }

    fn remove(&mut self, at: usize) -> Leaf {
        self.firsts.remove(at);
        let leaf = self.leaves.remove(at);
        if self.leaves.capacity() > self.leaves.len() + 2 * SPARE {
            self.shrink(SPARE);
        }
        leaf
    }

    fn shrink(&mut self, spare: usize) {
        self.firsts.shrink_to(self.firsts.len() + spare);
        self.leaves.shrink_to(self.leaves.len() + spare);
    }

    fn split_off(&mut self, at: usize) -> Self {
        let upper = Self { firsts: self.firsts.split_off(at), leaves: self.leaves.split_off(at) };
        self.shrink(SPARE);
        upper
    }

    fn append(&mut self, mut after: Self) {
        self.firsts.append(&mut after.firsts);
        self.leaves.append(&mut after.leaves);
        self.shrink(SPARE);
    }

    /// Fuses the small leaf `at` with a neighbour, if the two leave enough room.
    fn fuse(&mut self, at: usize) {
        let room = fused(LEAF_RUNS);
        let pair = [at.checked_sub(1), Some(at)].into_iter().flatten().find(|&left| {
            let right = self.leaves.get(left + 1);
            right.is_some_and(|right| self.leaves[left].len() + right.len() <= room)
        });
        if let Some(left) = pair {
            let right = self.remove(left + 1);
            self.leaves[left].append(&right);
        }
    }

    fn memory_bytes(&self) -> usize {
        vec_bytes(&self.firsts)
            + vec_bytes(&self.leaves)
            + self.leaves.iter().map(Leaf::memory_bytes).sum::<usize>()
    }
}

impl Directory {
    /// The leaf that holds `old` if one does: the last that begins at or before it, or the first.
    pub(super) fn locate(&self, old: u64) -> Option<Place> {
        let branch = holder(&self.firsts, old);
        let leaf = far_holder(&self.branches.get(branch)?.firsts, old);
        Some(Place { branch, leaf })
    }

    pub(super) fn leaf(&self, at: Place) -> &Leaf {
        &self.branches[at.branch].leaves[at.leaf]
    }

    /// The leaf after `at`.
    pub(super) fn after(&self, at: Place) -> Option<Place> {
        if at.leaf + 1 < self.branches[at.branch].leaves.len() {
            return Some(Place { leaf: at.leaf + 1, ..at });
        }
        (at.branch + 1 < self.branches.len()).then_some(Place { branch: at.branch + 1, leaf: 0 })
    }

    /// Adds a leaf that lies after all others.
    pub(super) fn push(&mut self, leaf: Leaf, branch_leaves: usize) {
        match self.branches.last_mut() {
            Some(last) if last.leaves.len() < branch_leaves => last.insert(last.leaves.len(), leaf),
            _ => {
                self.firsts.push(leaf.run(0).old.get());
                let mut branch = Branch::default();
                branch.insert(0, leaf);
                self.branches.push(branch);
            }
        }
    }

    /// Puts `with` in the place of the runs numbered `range` of the leaf at `at`, then splits or
    /// fuses what became too large or too small. Places found before are void.
    pub(super) fn splice(&mut self, at: Place, range: Range<usize>, with: &[Run]) {
        let appends = range.start == self.leaf(at).len() && self.after(at).is_none();
        let branch = &mut self.branches[at.branch];
        let leaf = &mut branch.leaves[at.leaf];
        let grows = with.len() > range.len();
        leaf.splice(range, with);
        let runs = leaf.len();
        if runs == 0 {
            branch.remove(at.leaf);
        } else {
            branch.firsts[at.leaf] = leaf.run(0).old.get();
            if runs > LEAF_RUNS {
                // Ascending insertion at the very end leaves full leaves behind.
                let upper = leaf.split_off(if appends { runs - 1 } else { runs / 2 });
                branch.insert(at.leaf + 1, upper);
            } else if runs < few(LEAF_RUNS) && !grows {
                branch.fuse(at.leaf);
            }
        }
        self.settle(at.branch, appends);
    }

    fn settle(&mut self, at: usize, appends: bool) {
        let branch = &mut self.branches[at];
        let leaves = branch.leaves.len();
        if leaves == 0 {
            self.firsts.remove(at);
            self.branches.remove(at);
            return;
        }
        self.firsts[at] = branch.firsts[0];
        if leaves > BRANCH_LEAVES {
            let upper = branch.split_off(if appends { leaves - 1 } else { leaves / 2 });
            self.firsts.insert(at + 1, upper.firsts[0]);
            self.branches.insert(at + 1, upper);
        } else if leaves < few(BRANCH_LEAVES) {
            self.fuse(at);
        }
    }

    /// Fuses the small branch `at` with a neighbour, if the two leave enough room.
    fn fuse(&mut self, at: usize) {
        let room = fused(BRANCH_LEAVES);
        let pair = [at.checked_sub(1), Some(at)].into_iter().flatten().find(|&left| {
            let right = self.branches.get(left + 1);
            right.is_some_and(|right| self.branches[left].leaves.len() + right.leaves.len() <= room)
        });
        if let Some(left) = pair {
            self.firsts.remove(left + 1);
            let right = self.branches.remove(left + 1);
            self.branches[left].append(right);
        }
    }

    /// On the heap, as the usual allocators round it.
    pub(super) fn memory_bytes(&self) -> usize {
        vec_bytes(&self.firsts)
            + vec_bytes(&self.branches)
            + self.branches.iter().map(Branch::memory_bytes).sum::<usize>()
    }

    /// Gives back what a bulk build reserved too much.
    pub(super) fn shrink(&mut self) {
        self.firsts.shrink_to_fit();
        self.branches.shrink_to_fit();
        if let Some(last) = self.branches.last_mut() {
            last.shrink(0);
        }
    }

    /// Fails unless every invariant holds.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        assert_eq!(self.firsts.len(), self.branches.len());
        let mut before: Option<Run> = None;
        for (first, branch) in self.firsts.iter().zip(&self.branches) {
            assert_eq!(branch.firsts.len(), branch.leaves.len());
            assert_eq!(branch.firsts.first(), Some(first), "branch's first");
            assert!(branch.leaves.len() <= BRANCH_LEAVES);
            for (first, leaf) in branch.firsts.iter().zip(&branch.leaves) {
                assert!((1..=LEAF_RUNS).contains(&leaf.len()), "{} runs", leaf.len());
                assert_eq!(*first, leaf.run(0).old.get(), "leaf's first");
                for run in (0..leaf.len()).map(|index| leaf.run(index)) {
                    if let Some(before) = before {
                        assert!(super::leaf::last(&before) < run.old.get(), "{before:?}, {run:?}");
                        assert!(!super::leaf::continues(&before, &run), "{before:?}, {run:?}");
                    }
                    before = Some(run);
                }
            }
        }
    }
}

fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    let bytes = vec.capacity() * size_of::<T>();
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16) }
}
