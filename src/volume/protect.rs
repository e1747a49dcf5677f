use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::StreamExt;

use super::Volume;
use super::error::{VolumeError, to_io};
use super::payload::Payload;
use super::snapshot::{OnFull, Snapshot};
use crate::copy::{REQUEST_BYTES, all, index, joined, union};
use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::{Prepared, StoreError};
use crate::sync::give_way;

/// Old data in memory at a time, for one origin write or one group of them.
const LOT_BYTES: u64 = 4 << 20;

/// Read from the origin in one request.
const PIECE_BYTES: u64 = 1 << 20;

/// Reads in flight.
const READS: usize = 32;

/// Writes in flight, to each COW device.
const WRITES: usize = 16;

/// A chunk that a snapshot needs the old data of.
struct Keep<C> {
    snapshot: Rc<Snapshot<C>>,
    old: u64,
    prepared: Prepared,
    /// Bytes of the origin.
    range: Range<u64>,
}

impl<C: Device> Keep<C> {
    /// The first byte of its chunk on the COW device.
    fn cow_byte(&self) -> u64 {
        self.prepared.chunk().get() * self.snapshot.chunk_size.bytes()
    }
}

impl<O: Device, C: Device> Volume<O, C> {
    /// Writes to the origin, which no snapshot notices. `merging` is the snapshot that merges, if
    /// one does: what has no exception in it belongs to the origin.
    ///
    /// # Ordering
    ///
    /// 1. for every snapshot without an exception: old data to a new chunk of its COW device
    /// 2. publish those exceptions: flush, slots, flush   - shared with other writes of the moment
    /// 3. write the origin
    ///
    /// A crash before 3 leaves the origin as it was, and exceptions that hold the same.
    pub(super) async fn write_origin(
        &self,
        at: u64,
        payload: Payload,
        merging: Option<&Rc<Snapshot<C>>>,
    ) -> io::Result<()> {
        let range = at..at + payload.len();
        self.protect(std::slice::from_ref(&range), merging).await?;
        if !planted(Planted::ReadsNotHeld) {
            self.origin_reads.wait_clear(range).await;
        }
        payload.write_to(&self.origin, at).await
    }

    /// Gives every snapshot but `merging` published exceptions for these ranges of the origin.
    /// A snapshot whose COW device fails is dropped; one without room follows its own rule, which
    /// may be to try [again](Self::patiently_while). Those that may refuse the write are asked first; only
    /// of a write longer than [`LOT_BYTES`], or if it is the device below that has no room, may a
    /// refusal come after another snapshot was dropped.
    ///
    /// Whatever snapshot was dropped, by this call or another, is durably marked when it returns.
    pub(super) async fn protect(
        &self,
        ranges: &[Range<u64>],
        merging: Option<&Rc<Snapshot<C>>>,
    ) -> io::Result<()> {
        if planted(Planted::OriginWithoutCopy) {
            return Ok(());
        }
        let mut snapshots = self.snapshots();
        snapshots.retain(|snapshot| {
            snapshot.is_kept() && !merging.is_some_and(|it| Rc::ptr_eq(it, snapshot))
        });
        self.protect_in(snapshots, ranges).await
    }

    /// The same for some snapshots only.
    pub(super) async fn protect_in(
        &self,
        mut snapshots: Vec<Rc<Snapshot<C>>>,
        ranges: &[Range<u64>],
    ) -> io::Result<()> {
        // None shall be dropped for a write that another one refuses.
        snapshots.sort_by_key(|it| it.options.on_full == OnFull::Invalidate && !it.is_read_only());
        if snapshots.is_empty() {
            return self.all_marked(ranges).await;
        }
        let chunk = snapshots.iter().map(|it| it.chunk_size.bytes()).max().unwrap_or(1);
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
    /// published: an origin write that goes on without it relies on the mark, whoever dropped it. A write
    /// whose old data is there relies on nothing, and does not wait for a device that may hang.
    ///
    /// # Errors
    ///
    /// A COW device has not taken the mark. Without it nothing tells a store that shows the old data from one
    /// that shows the new: the write must not happen.
    async fn all_marked(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let needs = |it: &Snapshot<C>| {
            planted(Planted::MarksOfOthers) || !ranges.iter().all(|range| it.is_published(range))
        };
        let marking = || {
            let snapshots = self.snapshots.borrow();
            snapshots.iter().find(|it| it.is_marking() && needs(it)).cloned()
        };
        while let Some(snapshot) = marking() {
            snapshot.marked().await;
        }
        let snapshots = self.snapshots.borrow();
        let unmarked = snapshots.iter().find(|it| it.is_unmarked() && needs(it));
        match unmarked.filter(|_| !planted(Planted::UnmarkedLetsThrough)) {
            None => Ok(()),
            Some(it) => Err(VolumeError::Unmarked { snapshot: it.name.clone() }.into()),
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
                    // Nobody shall wait for chunks that wait for room themselves. Newest first, so that
                    // they are given out again in step with their slots.
                    for keep in keeps.into_iter().rev() {
                        keep.snapshot.give_up(keep.prepared, keep.old);
                    }
                    return Err(error);
                }
            };
            if !keeps.is_empty() {
                self.copy_old(keeps).await?;
                continue;
            }
            match first_pending(snapshots, ranges) {
                Some((snapshot, old)) => snapshot.settled(old).await,
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
            for old in ranges.iter().flat_map(|range| snapshot.chunks(range)) {
                if !snapshot.is_kept() {
                    break;
                }
                if snapshot.has(old) || snapshot.is_pending(old) {
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
                match (begun, snapshot.options.on_full) {
                    (Ok(Some(prepared)), _) => {
                        let range = snapshot.chunk_range(old, self.origin_bytes);
                        let snapshot = snapshot.clone();
                        keeps.push(Keep { snapshot, old, prepared, range });
                    }
                    (Ok(None), _) => {}
                    (Err(StoreError::Full), _) if planted(Planted::FullLetsThrough) => {}
                    (Err(StoreError::Full), OnFull::Fail) => {
                        return Err(VolumeError::NoRoom { ticks: None }.into());
                    }
                    (Err(StoreError::Full), OnFull::Wait { ticks }) => {
                        return Err(VolumeError::NoRoom { ticks: Some(ticks) }.into());
                    }
                    (Err(StoreError::ReadOnly), _) => return Err(VolumeError::ReadOnly.into()),
                    (Err(_), _) => {
                        in_one_moment = false;
                        drop_snapshot(snapshot).await;
                    }
                }
            }
        }
        Ok(in_one_moment)
    }

    /// Reads each stretch of the origin once and writes it to every chunk that needs it. What a snapshot
    /// keeps is complete when its own COW device has it: one that hangs holds up no publish of another.
    async fn copy_old(&self, mut keeps: Vec<Keep<C>>) -> io::Result<()> {
        keeps.sort_by_key(|keep| keep.range.start);
        let lots = lots(pieces(keeps.iter().map(|keep| keep.range.clone()).collect()));
        let last = lots.len().saturating_sub(1);
        let mut copies = by_snapshot(keeps);
        for (n, pieces) in lots.into_iter().enumerate() {
            let share = match copies.as_slice() {
                // One whose device hangs takes only its own part.
                [only] => only.snapshot.share.clone(),
                _ => self.origin_share.clone(),
            };
            let memory = pieces.iter().map(|piece| piece.end - piece.start).sum();
            let _memory = self.scratch.take(&share, memory).await;
            let data = match self.read_lot(pieces).await {
                Ok(data) => data,
                // That the origin cannot be read is an error: nobody could keep its old data then.
                Err(error) => {
                    copies.iter_mut().for_each(CopyTo::give_up);
                    return Err(error);
                }
            };
            // Every copy is driven to its end, also beside one that fails.
            let together = planted(Planted::KeepsSettledTogether);
            let ends = copies.iter_mut().map(|copy| copy.take(&data, n == last && !together));
            let ended = join_all(ends).await;
            ended.into_iter().collect::<io::Result<()>>().inspect_err(|_| {
                copies.iter_mut().for_each(CopyTo::give_up);
            })?;
        }
        copies.iter_mut().for_each(CopyTo::complete);
        Ok(())
    }

    async fn read_lot(&self, pieces: Vec<Range<u64>>) -> io::Result<Vec<(Range<u64>, Bytes)>> {
        let reads = pieces.iter().map(|piece| async {
            let read = self.origin.read(piece.start, index(piece.end - piece.start)).await;
            read.map(|data| (piece.clone(), data.freeze()))
        });
        let data = futures_util::stream::iter(reads).buffered(READS).collect::<Vec<_>>().await;
        data.into_iter().collect()
    }
}

/// What one snapshot keeps.
struct CopyTo<C> {
    snapshot: Rc<Snapshot<C>>,
    /// Empty when they are settled.
    keeps: Vec<Keep<C>>,
}

fn by_snapshot<C>(keeps: Vec<Keep<C>>) -> Vec<CopyTo<C>> {
    let mut copies: Vec<CopyTo<C>> = Vec::new();
    for keep in keeps {
        match copies.iter_mut().find(|copy| Rc::ptr_eq(&copy.snapshot, &keep.snapshot)) {
            Some(copy) => copy.keeps.push(keep),
            None => {
                copies.push(CopyTo { snapshot: keep.snapshot.clone(), keeps: vec![keep] });
            }
        }
    }
    copies
}

impl<C: Device> CopyTo<C> {
    /// Writes what it needs of the data, in large requests, since chunks were given out one behind the
    /// other. Settles everything if that fails, or if this was the last of it. An error is what the origin
    /// write has to be refused with.
    async fn take(&mut self, data: &[(Range<u64>, Bytes)], is_last: bool) -> io::Result<()> {
        // Nothing keeps other writes out of these chunks once it is taken out: the data may be newer.
        if self.snapshot.is_out() {
            self.give_up();
            return Ok(());
        }
        let mut parts: Vec<_> = self.keeps.iter().flat_map(|keep| parts(keep, data)).collect();
        parts.sort_unstable_by_key(|(byte, _)| *byte);
        let cow = self.snapshot.store.device();
        let writes = joined(parts, REQUEST_BYTES).into_iter();
        let writes = writes.map(|(byte, data, _)| cow.write_vectored(byte, data));
        let written = match all(WRITES, writes).await {
            Err(_) if planted(Planted::CowErrorKept) => Ok(()),
            written => written,
        };
        match written {
            Ok(()) => {
                if is_last {
                    self.complete();
                }
                Ok(())
            }
            Err(error) => {
                self.give_up();
                if planted(Planted::CowErrorHarmsOrigin) {
                    return Err(io::ErrorKind::Other.into());
                }
                match refusal(&error, self.snapshot.options.on_full) {
                    Some(refusal) => Err(refusal),
                    None => {
                        drop_snapshot(&self.snapshot).await;
                        Ok(())
                    }
                }
            }
        }
    }

    fn complete(&mut self) {
        for keep in self.keeps.drain(..) {
            self.snapshot.complete(keep.prepared, keep.old);
        }
    }

    fn give_up(&mut self) {
        // Newest first, so that they are given out again in step with their slots.
        self.keeps.sort_by_key(|keep| std::cmp::Reverse(keep.prepared.ticket()));
        for keep in self.keeps.drain(..) {
            self.snapshot.give_up(keep.prepared, keep.old);
        }
    }
}

/// Is there something to wait for before this snapshot has room, or is dropped? What refuses an origin
/// write does so at once.
fn may_take_long<C: Device>(snapshot: &Snapshot<C>, error: &StoreError) -> bool {
    match (error, snapshot.options.on_full) {
        (StoreError::ReadOnly, _) => false,
        (StoreError::Full, OnFull::Fail | OnFull::Wait { .. }) => {
            snapshot.options.max_bytes.is_some()
        }
        _ => true,
    }
}

/// What becomes of an origin write if a COW device would not take its old data, because there is no room
/// below it (a file without all its blocks, on a full file system) and the snapshot is not to be dropped
/// for that.
fn refusal(error: &io::Error, on_full: OnFull) -> Option<io::Error> {
    match on_full {
        OnFull::Fail if is_no_room(error) => Some(VolumeError::NoRoom { ticks: None }.into()),
        OnFull::Wait { ticks } if is_no_room(error) => {
            Some(VolumeError::NoRoom { ticks: Some(ticks) }.into())
        }
        _ => None,
    }
}

/// Where on the COW device which parts of the data go that a chunk needs. `data` is sorted.
fn parts<C: Device>(
    keep: &Keep<C>,
    data: &[(Range<u64>, Bytes)],
) -> impl Iterator<Item = (u64, Bytes)> {
    let range = keep.range.clone();
    let byte = keep.cow_byte();
    let first = data.partition_point(|(piece, _)| piece.end <= range.start);
    let end = range.end;
    data[first..].iter().take_while(move |(piece, _)| piece.start < end).map(
        move |(piece, data)| {
            let (start, end) = (piece.start.max(range.start), piece.end.min(range.end));
            let part = data.slice(index(start - piece.start)..index(end - piece.start));
            (byte + (start - range.start), part)
        },
    )
}

/// Makes the exceptions for these ranges durable. A snapshot where that fails is dropped, and the origin
/// write goes on without it; unless that is for lack of room, and its rule is another one.
async fn publish_ranges<C: Device>(
    snapshot: &Snapshot<C>,
    ranges: &[Range<u64>],
) -> io::Result<()> {
    if !snapshot.is_kept() {
        return Ok(());
    }
    let Some(ticket) = ranges.iter().filter_map(|range| snapshot.newest_ticket_in(range)).max()
    else {
        return Ok(());
    };
    let Err(error) = snapshot.publish_through(ticket).await.map_err(to_io) else { return Ok(()) };
    match refusal(&error, snapshot.options.on_full) {
        Some(refusal) => return Err(refusal),
        None => drop_snapshot(snapshot).await,
    }
    Ok(())
}

/// Drops a snapshot that cannot keep old data any more. If not even the mark can be written, origin writes
/// that rely on it are refused by [`all_marked`](Volume::all_marked).
async fn drop_snapshot<C: Device>(snapshot: &Snapshot<C>) {
    if !snapshot.is_out() {
        let _in_memory_at_least = snapshot.invalidate().await;
    }
}

fn first_pending<'s, C: Device>(
    snapshots: &'s [Rc<Snapshot<C>>],
    ranges: &[Range<u64>],
) -> Option<(&'s Snapshot<C>, u64)> {
    snapshots.iter().filter(|snapshot| snapshot.is_kept()).find_map(|it| {
        let mut chunks = ranges.iter().flat_map(|range| it.chunks(range));
        Some((&**it, chunks.find(|old| it.is_pending(*old))?))
    })
}

/// Puts ranges together that are looked after at once, and cuts those that are too long for that. The old
/// data of a group, in chunks of `chunk` bytes, is one lot if no range needs more by itself.
fn groups(ranges: &[Range<u64>], chunk: u64) -> Vec<Vec<Range<u64>>> {
    let slices = ranges.iter().flat_map(|range| {
        let starts = (range.start..range.end).step_by(index(LOT_BYTES));
        starts.map(|start| start..(start + LOT_BYTES).min(range.end))
    });
    let mut kept = 0..0;
    put_together(slices.collect(), |range| {
        // A chunk that the range before touches as well is not kept twice.
        let whole = range.start / chunk * chunk..range.end.div_ceil(chunk) * chunk;
        let start = if kept.contains(&whole.start) { kept.end } else { whole.start };
        kept = whole.clone();
        whole.end.saturating_sub(start)
    })
}

/// Puts ranges together that have [`LOT_BYTES`] in all; none is longer.
fn lots(ranges: Vec<Range<u64>>) -> Vec<Vec<Range<u64>>> {
    put_together(ranges, |range| range.end - range.start)
}

fn put_together(
    ranges: Vec<Range<u64>>,
    mut cost: impl FnMut(&Range<u64>) -> u64,
) -> Vec<Vec<Range<u64>>> {
    let mut lots: Vec<Vec<Range<u64>>> = Vec::new();
    let mut room = 0;
    for range in ranges {
        let len = cost(&range);
        if len > room || lots.is_empty() {
            lots.push(Vec::new());
            room = LOT_BYTES.max(len);
        }
        room -= len;
        if let Some(lot) = lots.last_mut() {
            lot.push(range);
        }
    }
    lots
}

/// The bytes in any of these ranges, in pieces of one read each.
fn pieces(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let cut = |range: Range<u64>| {
        let starts = (range.start..range.end).step_by(index(PIECE_BYTES));
        starts.map(move |start| start..(start + PIECE_BYTES).min(range.end))
    };
    union(ranges).into_iter().flat_map(cut).collect()
}
