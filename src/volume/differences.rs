use std::ops::Range;
use std::rc::Rc;

use super::error::VolumeError;
use super::extents::Extents;
use super::snapshot::Snapshot;
use super::standing::State;
use super::volume::Volume;
use crate::device::Device;
use crate::planted::{Planted, planted};

/// The first stretch of one kind that ends after a position.
type Next<'a> = &'a dyn Fn(u64) -> Option<Range<u64>>;

impl<O: Device, C: Device> Volume<O, C> {
    /// Where the origin, as its clients see it, may differ from what it was when `snapshot` was made: lengths
    /// in bytes, one after the other from the beginning of the range on, at most `most` of them (at
    /// least one), no two neighbours alike. What is called unchanged is so at the moment of the call.
    ///
    /// Changed is what has an exception; what waits in memory to be written; what another snapshot that
    /// merges holds, because the origin shows that; and whatever lies past the end of the snapshot.
    ///
    /// # Errors
    ///
    /// [`VolumeError::ChangesUnknown`] of one that cannot tell ([`tells_changes`](Self::tells_changes)).
    pub fn changed_since(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, VolumeError> {
        self.refuse_unknown(snapshot)?;
        let merging = self.merges().with(None);
        let merging = merging.as_ref().filter(|_| !planted(Planted::BitmapForgetsMerge));
        let kinds: [Next<'_>; 4] = [
            &|at| snapshot.map().next_saved(at),
            &|at| merging.and_then(|it| it.snapshot().map().next_saved(at)),
            &|at| self.origin().backlog().next(at),
            &|at| Some(at.max(snapshot.len_bytes())..u64::MAX),
        ];
        Ok(covered(&kinds, range, most))
    }

    /// Where two snapshots may differ, in the same form. What is called the same is so at the moment of the call.
    ///
    /// What neither has an exception for, both read from the origin's device: what waits in memory to be
    /// written to it, or what another snapshot that merges holds, neither of them shows. What lies past the end of
    /// the smaller one is different.
    ///
    /// # Errors
    ///
    /// [`VolumeError::ChangesUnknown`] if one of them cannot tell ([`tells_changes`](Self::tells_changes)).
    pub fn different(
        &self,
        [a, b]: [&Rc<Snapshot<C>>; 2],
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, VolumeError> {
        self.refuse_unknown(a)?;
        self.refuse_unknown(b)?;
        let in_common = a.len_bytes().min(b.len_bytes());
        let kinds: [Next<'_>; 3] =
            [&|at| a.map().next_saved(at), &|at| b.map().next_saved(at), &|at| {
                Some(at.max(in_common)..u64::MAX)
            }];
        Ok(covered(&kinds, range, most))
    }

    /// Can a snapshot tell what has changed since it was made? Not one that was dropped or taken out:
    /// nobody makes exceptions for it any more. Nor one whose merge was begun, whatever became of that:
    /// from then on it and the origin changed together, and its exceptions went away.
    pub fn tells_changes(&self, snapshot: &Rc<Snapshot<C>>) -> bool {
        let is_there = self.members().contains(snapshot);
        is_there && snapshot.state() != State::Invalid && !snapshot.was_merged()
    }

    fn refuse_unknown(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        match self.tells_changes(snapshot) {
            true => Ok(()),
            false => Err(VolumeError::ChangesUnknown),
        }
    }
}

/// Which bytes of a range lie in a stretch of any of these kinds: lengths in bytes, one after the other from the
/// beginning of the range on, at most `most` of them (at least one), no two neighbours alike.
fn covered(kinds: &[Next<'_>], range: Range<u64>, most: usize) -> Vec<(u64, bool)> {
    let mut found = Extents::at_most(most);
    let mut at = range.start;
    while at < range.end {
        let next = || kinds.iter().filter_map(|next| next(at));
        let covered = next().filter(|it| it.start <= at).map(|it| it.end).max();
        let end = covered.unwrap_or_else(|| next().map(|it| it.start).min().unwrap_or(range.end));
        let len = end.min(range.end) - at;
        if !found.push(len, covered.is_some()) {
            break;
        }
        at += len;
    }
    found.into_vec()
}
