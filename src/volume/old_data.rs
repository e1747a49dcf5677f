use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;

use super::origin::Origin;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use crate::copy::{REQUEST_BYTES, all, index, joined, union};
use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::Prepared;
use crate::sync::join_all;

/// Old data in memory at a time, for one origin write or one group of them.
const LOT_BYTES: u64 = 4 << 20;

/// Read from the origin in one request.
const PIECE_BYTES: u64 = 1 << 20;

/// Reads in flight.
const READS: usize = 32;

/// Writes in flight, to each COW device.
const WRITES: usize = 16;

/// A chunk that a snapshot needs the old data of.
pub(super) struct Keep<C> {
    pub(super) snapshot: Rc<Snapshot<C>>,
    pub(super) old: u64,
    pub(super) prepared: Prepared,
    /// Bytes of the origin.
    pub(super) range: Range<u64>,
}

impl<C: Device> Keep<C> {
    /// Where on the COW device which parts of the data go that the chunk needs. `data` is sorted.
    fn parts(&self, data: &[(Range<u64>, Bytes)]) -> impl Iterator<Item = (u64, Bytes)> {
        let range = self.range.clone();
        let byte = self.snapshot.map().cow_byte(self.prepared.chunk());
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
}

/// Gives chunks up that were given out. Newest first, so that they are given out again in step with their
/// slots.
pub(super) fn give_up<C: Device>(keeps: &mut Vec<Keep<C>>) {
    keeps.sort_by_key(|keep| std::cmp::Reverse(keep.prepared.ticket()));
    for keep in keeps.drain(..) {
        keep.snapshot.give_up(keep.prepared, keep.old);
    }
}

/// Reads each stretch of the origin once and writes it to every chunk that needs it. What a snapshot
/// keeps is complete when its own COW device has it: one that hangs holds up no publish of another.
///
/// # Errors
///
/// The origin cannot be read, or what an origin write has to be refused with.
pub(super) async fn copy_old<O: Device, C: Device>(
    origin: &Origin<O>,
    scratch: &Scratch,
    mut keeps: Vec<Keep<C>>,
) -> io::Result<()> {
    keeps.sort_by_key(|keep| keep.range.start);
    let lots = lots(pieces(keeps.iter().map(|keep| keep.range.clone()).collect()));
    let last = lots.len().saturating_sub(1);
    let mut copies = by_snapshot(keeps);
    for (n, pieces) in lots.into_iter().enumerate() {
        let share = match copies.as_slice() {
            // One whose device hangs takes only its own part.
            [only] => only.snapshot.share().clone(),
            _ => origin.share().clone(),
        };
        let memory = pieces.iter().map(|piece| piece.end - piece.start).sum();
        let _memory = scratch.take(&share, memory).await;
        let data = match read_lot(origin, pieces).await {
            Ok(data) => data,
            // That the origin cannot be read is an error: nobody could keep its old data then.
            Err(error) => {
                copies.iter_mut().for_each(|copy| give_up(&mut copy.keeps));
                return Err(error);
            }
        };
        // Every copy is driven to its end, also while another one fails.
        let together = planted(Planted::KeepsSettledTogether);
        let ends = copies.iter_mut().map(|copy| copy.take(&data, n == last && !together));
        let ended = join_all(ends).await;
        ended.into_iter().collect::<io::Result<()>>().inspect_err(|_| {
            copies.iter_mut().for_each(|copy| give_up(&mut copy.keeps));
        })?;
    }
    copies.iter_mut().for_each(CopyTo::complete);
    Ok(())
}

async fn read_lot<O: Device>(
    origin: &Origin<O>,
    pieces: Vec<Range<u64>>,
) -> io::Result<Vec<(Range<u64>, Bytes)>> {
    let reads = pieces.iter().map(|piece| async {
        let read = origin.read_old(piece.start, index(piece.end - piece.start)).await;
        read.map(|data| (piece.clone(), data.freeze()))
    });
    let reads = reads.map(FutureExt::boxed_local);
    let data = futures_util::stream::iter(reads).buffered(READS).collect::<Vec<_>>().await;
    data.into_iter().collect()
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
    /// Writes what it needs of the data, in large requests, since chunks were given out one after the
    /// other. Settles everything if that fails, or if this was the last of it. An error is what the origin
    /// write has to be refused with.
    async fn take(&mut self, data: &[(Range<u64>, Bytes)], is_last: bool) -> io::Result<()> {
        // Nothing keeps other writes out of these chunks once it is taken out: the data may be newer.
        if self.snapshot.standing().is_out() {
            give_up(&mut self.keeps);
            return Ok(());
        }
        let mut parts: Vec<_> = self.keeps.iter().flat_map(|keep| keep.parts(data)).collect();
        parts.sort_unstable_by_key(|(byte, _)| *byte);
        let cow = self.snapshot.cow_device();
        let writes = joined(parts, REQUEST_BYTES).into_iter();
        let writes = writes.map(|(byte, data, _)| cow.write_vectored(byte, data));
        let written = match all(WRITES, writes).await {
            Err(_) if planted(Planted::CowErrorKept) => Ok(()),
            written => written,
        };
        match written {
            Ok(()) if is_last => {
                self.complete();
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => {
                give_up(&mut self.keeps);
                if planted(Planted::CowErrorHarmsOrigin) {
                    return Err(io::ErrorKind::Other.into());
                }
                not_kept(&self.snapshot, &error).await
            }
        }
    }

    fn complete(&mut self) {
        for keep in self.keeps.drain(..) {
            self.snapshot.complete(keep.prepared, keep.old);
        }
    }
}

/// What becomes of an origin write, and of the snapshot, if its COW device would not take old data: the
/// snapshot is dropped, and the write goes on without it; unless there is no room below the device (a file
/// without all its blocks, on a full file system), and the snapshot's rule is another one.
///
/// # Errors
///
/// What the write is refused with.
pub(super) async fn not_kept<C: Device>(
    snapshot: &Snapshot<C>,
    error: &io::Error,
) -> io::Result<()> {
    match snapshot.options().on_full.refusal().filter(|_| is_no_room(error)) {
        Some(refusal) => Err(refusal.into()),
        None => {
            snapshot.stop_keeping().await;
            Ok(())
        }
    }
}

/// Puts ranges together that are looked after at once, and cuts those that are too long for that. The old
/// data of a group, in chunks of `chunk` bytes, is one lot if no range needs more by itself.
pub(super) fn groups(ranges: &[Range<u64>], chunk: u64) -> Vec<Vec<Range<u64>>> {
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
