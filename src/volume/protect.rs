use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::StreamExt;

use super::patience::NoRoom;
use super::payload::Payload;
use super::snapshot::{OnFull, Snapshot, State};
use super::window::{REQUEST_BYTES, all, index, joined};
use super::{Volume, to_io};
use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::{Prepared, StoreError};

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
    /// may be to try [again](Self::patiently). Those that may refuse the write are asked first; only
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
            snapshot.state() != State::Invalid
                && !merging.is_some_and(|it| Rc::ptr_eq(it, snapshot))
        });
        // None shall be dropped for a write that another one refuses.
        snapshots.sort_by_key(|it| it.options.on_full == OnFull::Invalidate && !it.is_read_only());
        if snapshots.is_empty() {
            self.all_marked().await;
            return Ok(());
        }
        for group in groups(ranges) {
            self.keep_old(&snapshots, &group).await?;
        }
        if planted(Planted::TrustVisible) {
            snapshots.clear();
        }
        let ended = join_all(snapshots.iter().map(|it| publish_ranges(it, ranges))).await;
        self.all_marked().await;
        ended.into_iter().collect()
    }

    /// Returns when no dropped snapshot waits for its mark: an origin write that goes on without it
    /// relies on the mark, whoever dropped it.
    async fn all_marked(&self) {
        let marking = || self.snapshots.borrow().iter().find(|it| it.is_marking()).cloned();
        while let Some(snapshot) = marking() {
            snapshot.marked().await;
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
            if let Err(error) = self.gather(snapshots, ranges, &mut keeps).await {
                // Nobody shall wait for chunks that wait for room themselves. Newest first, so that
                // they are given out again in step with their slots.
                for keep in keeps.into_iter().rev() {
                    keep.snapshot.give_up(keep.prepared, keep.old);
                }
                return Err(error);
            }
            if !keeps.is_empty() {
                self.copy_old(keeps).await?;
                continue;
            }
            match first_pending(snapshots, ranges) {
                Some((snapshot, old)) => snapshot.settled(old).await,
                None => return Ok(()),
            }
        }
    }

    /// Gets a chunk for everything that needs one; others may still be at work on some.
    async fn gather(
        &self,
        snapshots: &[Rc<Snapshot<C>>],
        ranges: &[Range<u64>],
        keeps: &mut Vec<Keep<C>>,
    ) -> io::Result<()> {
        for snapshot in snapshots {
            for old in ranges.iter().flat_map(|range| snapshot.chunks(range)) {
                if snapshot.state() == State::Invalid {
                    break;
                }
                if snapshot.has(old) || snapshot.is_pending(old) {
                    continue;
                }
                match (snapshot.begin(old).await, snapshot.options.on_full) {
                    (Ok(Some(prepared)), _) => {
                        let range = snapshot.chunk_range(old, self.origin_bytes);
                        let snapshot = snapshot.clone();
                        keeps.push(Keep { snapshot, old, prepared, range });
                    }
                    (Ok(None), _) => {}
                    (Err(StoreError::Full), _) if planted(Planted::FullLetsThrough) => {}
                    (Err(StoreError::Full), OnFull::Fail) => return Err(to_io(StoreError::Full)),
                    (Err(StoreError::Full), OnFull::Wait { ticks }) => {
                        return Err(NoRoom { ticks }.into());
                    }
                    (Err(StoreError::ReadOnly), _) => return Err(to_io(StoreError::ReadOnly)),
                    (Err(_), _) => drop_snapshot(snapshot).await,
                }
            }
        }
        Ok(())
    }

    /// Reads each stretch of the origin once and writes it to every chunk that needs it.
    async fn copy_old(&self, mut keeps: Vec<Keep<C>>) -> io::Result<()> {
        keeps.sort_by_key(|keep| keep.range.start);
        let mut failed: Vec<(Rc<Snapshot<C>>, io::Error)> = Vec::new();
        for pieces in lots(union(keeps.iter().map(|keep| keep.range.clone()).collect())) {
            match self.copy_lot(&keeps, pieces).await {
                Ok(_) if planted(Planted::CowErrorKept) => {}
                Ok(more) if planted(Planted::CowErrorHarmsOrigin) && !more.is_empty() => {
                    keeps.drain(..).for_each(|keep| keep.snapshot.give_up(keep.prepared, keep.old));
                    return Err(io::ErrorKind::Other.into());
                }
                Ok(more) => failed.extend(more),
                // That the origin cannot be read is an error: nobody could keep its old data then.
                Err(error) => {
                    keeps.sort_by_key(|keep| std::cmp::Reverse(keep.prepared.ticket()));
                    for keep in keeps {
                        keep.snapshot.give_up(keep.prepared, keep.old);
                    }
                    return Err(error);
                }
            }
        }
        for keep in keeps {
            match failed.iter().any(|(it, _)| Rc::ptr_eq(it, &keep.snapshot)) {
                false => keep.snapshot.complete(keep.prepared, keep.old),
                true => keep.snapshot.give_up(keep.prepared, keep.old),
            }
        }
        let mut ended = Ok(());
        for (snapshot, error) in failed {
            match refusal(&error, snapshot.options.on_full) {
                Some(refusal) => ended = ended.and(Err(refusal)),
                None => drop_snapshot(&snapshot).await,
            }
        }
        ended
    }

    /// Copies some stretches of the origin: read once, written to each COW device in large requests, since
    /// chunks were given out one behind the other. Returns the snapshots whose COW devices refused, and why.
    async fn copy_lot(
        &self,
        keeps: &[Keep<C>],
        pieces: Vec<Range<u64>>,
    ) -> io::Result<Vec<(Rc<Snapshot<C>>, io::Error)>> {
        let reads = pieces.iter().map(|piece| async {
            let read = self.origin.read(piece.start, index(piece.end - piece.start)).await;
            read.map(|data| (piece.clone(), data.freeze()))
        });
        let data = futures_util::stream::iter(reads).buffered(READS).collect::<Vec<_>>().await;
        let data = data.into_iter().collect::<io::Result<Vec<_>>>()?;
        let mut snapshots: Vec<&Rc<Snapshot<C>>> = Vec::new();
        for keep in keeps {
            if !snapshots.iter().any(|known| Rc::ptr_eq(known, &keep.snapshot)) {
                snapshots.push(&keep.snapshot);
            }
        }
        let copies = snapshots.into_iter().map(|snapshot| {
            let mine = keeps.iter().filter(|keep| Rc::ptr_eq(&keep.snapshot, snapshot));
            let mut parts: Vec<_> = mine.flat_map(|keep| parts(keep, &data)).collect();
            parts.sort_unstable_by_key(|(byte, _)| *byte);
            let cow = snapshot.store.device();
            let writes = joined(parts, REQUEST_BYTES).into_iter();
            let writes = writes.map(|(byte, data, _)| cow.write_vectored(byte, data));
            async move { (snapshot.clone(), all(WRITES, writes).await) }
        });
        // Every copy is driven to its end, also beside one that fails.
        let ended = join_all(copies).await;
        Ok(ended.into_iter().filter_map(|(it, ended)| Some((it, ended.err()?))).collect())
    }
}

/// What becomes of an origin write if a COW device would not take its old data, because there is no room
/// below it (a file without all its blocks, on a full file system) and the snapshot is not to be dropped
/// for that.
fn refusal(error: &io::Error, on_full: OnFull) -> Option<io::Error> {
    match on_full {
        OnFull::Fail if is_no_room(error) => Some(to_io(StoreError::Full)),
        OnFull::Wait { ticks } if is_no_room(error) => Some(NoRoom { ticks }.into()),
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
    if snapshot.state() == State::Invalid {
        return Ok(());
    }
    let chunks = ranges.iter().flat_map(|range| snapshot.chunks(range));
    let Some(ticket) = chunks.filter_map(|old| snapshot.ticket_of(old)).max() else {
        return Ok(());
    };
    let Err(error) = snapshot.publish_through(ticket).await.map_err(to_io) else { return Ok(()) };
    match refusal(&error, snapshot.options.on_full) {
        Some(refusal) => return Err(refusal),
        None => drop_snapshot(snapshot).await,
    }
    Ok(())
}

/// Drops a snapshot that cannot keep old data any more. If not even the mark can be written, its
/// COW device is gone, and with it everything that could be done: the origin goes on.
async fn drop_snapshot<C: Device>(snapshot: &Snapshot<C>) {
    let _in_memory_at_least = snapshot.invalidate().await;
}

fn first_pending<'s, C: Device>(
    snapshots: &'s [Rc<Snapshot<C>>],
    ranges: &[Range<u64>],
) -> Option<(&'s Snapshot<C>, u64)> {
    snapshots.iter().filter(|snapshot| snapshot.state() != State::Invalid).find_map(|it| {
        let mut chunks = ranges.iter().flat_map(|range| it.chunks(range));
        Some((&**it, chunks.find(|old| it.is_pending(*old))?))
    })
}

/// Puts ranges together that are looked after at once, and cuts those that are too long for that.
fn groups(ranges: &[Range<u64>]) -> Vec<Vec<Range<u64>>> {
    let slices = ranges.iter().flat_map(|range| {
        let starts = (range.start..range.end).step_by(index(LOT_BYTES));
        starts.map(|start| start..(start + LOT_BYTES).min(range.end))
    });
    lots(slices.collect())
}

/// Puts ranges together that have [`LOT_BYTES`] in all; none is longer.
fn lots(ranges: Vec<Range<u64>>) -> Vec<Vec<Range<u64>>> {
    let mut lots: Vec<Vec<Range<u64>>> = Vec::new();
    let mut room = 0;
    for range in ranges {
        let len = range.end - range.start;
        if len > room {
            lots.push(Vec::new());
            room = LOT_BYTES;
        }
        room -= len;
        if let Some(lot) = lots.last_mut() {
            lot.push(range);
        }
    }
    lots
}

/// The bytes in any of these ranges, in pieces of one read each.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match whole.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => whole.push(range),
        }
    }
    let cut = |range: Range<u64>| {
        let starts = (range.start..range.end).step_by(index(PIECE_BYTES));
        starts.map(move |start| start..(start + PIECE_BYTES).min(range.end))
    };
    whole.into_iter().flat_map(cut).collect()
}
