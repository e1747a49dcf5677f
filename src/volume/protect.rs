use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::error::{VolumeError, to_io};
use super::old_data::{Keep, copy_old, give_up, groups, not_kept};
use super::options::OnFull;
use super::origin::Origin;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use super::snapshots::Snapshots;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::StoreError;
use crate::sync::{give_way, join_all};

/// Old data of the origin, kept before it is written over.
pub(super) struct Protect<'a, O, C> {
    pub(super) origin: &'a Origin<O>,
    pub(super) snapshots: &'a Snapshots<C>,
    pub(super) scratch: &'a Scratch,
}

impl<O: Device, C: Device> Protect<'_, O, C> {
    /// Gives every snapshot but `merging` published exceptions for these ranges of the origin.
    /// A snapshot whose COW device fails is dropped; one without room follows its own rule, which
    /// may be to try [again](super::clock::Clock::wait_for_room). Those that may refuse the write are asked
    /// first; only of a long write, or if it is the device below that has no room, may a refusal come after
    /// another snapshot was dropped.
    ///
    /// Whatever snapshot was dropped, by this call or another, is durably marked when it returns.
    pub(super) async fn all_but(
        &self,
        merging: Option<&Rc<Snapshot<C>>>,
        ranges: &[Range<u64>],
    ) -> io::Result<()> {
        if planted(Planted::OriginWithoutCopy) {
            return Ok(());
        }
        let mut snapshots = self.snapshots.all();
        snapshots.retain(|snapshot| {
            let merges = merging.is_some_and(|it| Rc::ptr_eq(it, snapshot));
            snapshot.standing().is_kept() && !merges
        });
        self.these(snapshots, ranges).await
    }

    /// The same for some snapshots only.
    pub(super) async fn these(
        &self,
        mut snapshots: Vec<Rc<Snapshot<C>>>,
        ranges: &[Range<u64>],
    ) -> io::Result<()> {
        // None shall be dropped for a write that another one refuses.
        snapshots
            .sort_by_key(|it| it.options().on_full == OnFull::Invalidate && !it.is_read_only());
        if snapshots.is_empty() {
            return self.all_marked(ranges).await;
        }
        let chunk = snapshots.iter().map(|it| it.map().chunk_bytes()).max().unwrap_or(1);
        let mut is_first = true;
        for group in groups(ranges, chunk) {
            // To look chunks up takes its time, also where there is nothing to keep.
            if !std::mem::replace(&mut is_first, false) {
                give_way().await;
            }
            self.keep_old(&snapshots, &group).await?;
        }
        if planted(Planted::TrustVisible) {
            snapshots.clear();
        }
        let ended = join_all(snapshots.iter().map(|it| publish_ranges(it, ranges))).await;
        self.all_marked(ranges).await?;
        ended.into_iter().collect()
    }

    /// Returns when every dropped snapshot has its mark that does not hold the old data of these ranges,
    /// published: an origin write that goes on without it relies on the mark, no matter which call dropped
    /// the snapshot. A write whose old data is there relies on nothing, and does not wait for a device that
    /// may hang.
    ///
    /// # Errors
    ///
    /// A COW device has not taken the mark. Without it nothing tells a store that shows the old data from one
    /// that shows the new: the write must not happen.
    async fn all_marked(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let needs = |it: &Snapshot<C>| {
            planted(Planted::MarksOfOthers) || !ranges.iter().all(|range| it.is_published(range))
        };
        while let Some(snapshot) = self.snapshots.find(|it| it.standing().is_marking() && needs(it))
        {
            snapshot.wait_marked().await;
        }
        let unmarked = self.snapshots.find(|it| it.is_unmarked() && needs(it));
        match unmarked.filter(|_| !planted(Planted::UnmarkedLetsThrough)) {
            None => Ok(()),
            Some(it) => Err(VolumeError::Unmarked { snapshot: it.name().into() }.into()),
        }
    }

    /// Copies the old data of every chunk of `ranges` to every snapshot that has no exception for
    /// it yet, reading the origin once.
    async fn keep_old(
        &self,
        snapshots: &[Rc<Snapshot<C>>],
        ranges: &[Range<u64>],
    ) -> io::Result<()> {
        loop {
            let mut keeps = Vec::new();
            let in_one_moment = match self.gather(snapshots, ranges, &mut keeps).await {
                Ok(in_one_moment) => in_one_moment || planted(Planted::GatheredOverTime),
                Err(error) => {
                    // Nobody shall wait for chunks that wait for room themselves.
                    give_up(&mut keeps);
                    return Err(error);
                }
            };
            if !keeps.is_empty() {
                copy_old(self.origin, self.scratch, keeps).await?;
                continue;
            }
            match first_pending(snapshots, ranges) {
                Some((snapshot, old)) => snapshot.pending().wait_for(old).await,
                None if in_one_moment => return Ok(()),
                // What others were at work on when it was looked at may have been given up since.
                None => {}
            }
        }
    }

    /// Gets a chunk for everything that needs one; others may still be at work on some.
    ///
    /// A chunk that was given out holds up every publish of its snapshot until it has its data. So what may
    /// have to wait for a device, to grow it or to mark it, is done only while nothing is held; otherwise
    /// this returns early, and is called again. True if it did not wait for anything: then all that needs no
    /// chunk has one, or others are at work on it now.
    async fn gather(
        &self,
        snapshots: &[Rc<Snapshot<C>>],
        ranges: &[Range<u64>],
        keeps: &mut Vec<Keep<C>>,
    ) -> io::Result<bool> {
        let mut in_one_moment = true;
        for snapshot in snapshots {
            for old in ranges.iter().flat_map(|range| snapshot.map().chunks(range)) {
                if !snapshot.standing().is_kept() {
                    break;
                }
                if snapshot.map().has(old) || snapshot.pending().contains(old) {
                    continue;
                }
                let begun = match snapshot.begin_at_once(old) {
                    Err(error) if may_take_long(snapshot, &error) && !keeps.is_empty() => {
                        return Ok(false);
                    }
                    Err(StoreError::Full) => {
                        in_one_moment &= planted(Planted::FullLetsThrough);
                        snapshot.begin(old).await
                    }
                    begun => begun,
                };
                match begun {
                    Ok(Some(prepared)) => {
                        let end = self.origin.len_bytes().max(snapshot.len_bytes());
                        let range = snapshot.map().chunk_range(old, end);
                        let snapshot = snapshot.clone();
                        keeps.push(Keep { snapshot, old, prepared, range });
                    }
                    Ok(None) => {}
                    Err(StoreError::Full) if planted(Planted::FullLetsThrough) => {}
                    Err(error) => match refusal(snapshot, &error) {
                        Some(refusal) => return Err(refusal.into()),
                        None => {
                            in_one_moment = false;
                            snapshot.stop_keeping().await;
                        }
                    },
                }
            }
        }
        Ok(in_one_moment)
    }
}

/// What an origin write is refused with if the snapshot's store gives no chunk for old data; `None` if the
/// snapshot is dropped instead.
fn refusal<C: Device>(snapshot: &Snapshot<C>, error: &StoreError) -> Option<VolumeError> {
    match error {
        StoreError::Full => snapshot.options().on_full.refusal(),
        StoreError::ReadOnly => Some(VolumeError::ReadOnly),
        _ => None,
    }
}

/// Is there something to wait for before this snapshot has room, or is dropped? What refuses an origin
/// write does so at once.
fn may_take_long<C: Device>(snapshot: &Snapshot<C>, error: &StoreError) -> bool {
    match error {
        StoreError::ReadOnly => false,
        StoreError::Full if snapshot.options().on_full != OnFull::Invalidate => {
            snapshot.options().max_bytes.is_some()
        }
        _ => true,
    }
}

/// Makes the exceptions for these ranges durable. A snapshot where that fails is dropped, and the origin
/// write goes on without it; unless that is for lack of room, and its rule is another one.
async fn publish_ranges<C: Device>(
    snapshot: &Snapshot<C>,
    ranges: &[Range<u64>],
) -> io::Result<()> {
    if !snapshot.standing().is_kept() {
        return Ok(());
    }
    let newest = ranges.iter().filter_map(|range| snapshot.newest_ticket_in(range)).max();
    let Some(ticket) = newest else { return Ok(()) };
    match snapshot.publish_through(ticket).await.map_err(to_io) {
        Ok(_) => Ok(()),
        Err(error) => not_kept(snapshot, &error).await,
    }
}

fn first_pending<'s, C: Device>(
    snapshots: &'s [Rc<Snapshot<C>>],
    ranges: &[Range<u64>],
) -> Option<(&'s Snapshot<C>, u64)> {
    snapshots.iter().filter(|snapshot| snapshot.standing().is_kept()).find_map(|it| {
        let mut chunks = ranges.iter().flat_map(|range| it.map().chunks(range));
        Some((&**it, chunks.find(|old| it.pending().contains(*old))?))
    })
}
