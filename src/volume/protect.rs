use std::io;
use std::ops::Range;
use std::rc::Rc;

use futures_util::future::join_all;
use futures_util::stream::StreamExt;

use super::patience::NoRoom;
use super::payload::Payload;
use super::snapshot::{OnFull, Snapshot, State};
use super::window::index;
use super::{Volume, to_io};
use crate::device::Device;
use crate::store::{Prepared, StoreError};

/// Old data in memory at a time, for one origin write.
const SLICE_BYTES: u64 = 4 << 20;

/// Read from the origin in one request.
const PIECE_BYTES: u64 = 1 << 20;

/// A chunk that a snapshot needs the old data of.
struct Keep<C> {
    snapshot: Rc<Snapshot<C>>,
    old: u64,
    prepared: Prepared,
    /// Bytes of the origin.
    range: Range<u64>,
    /// Set when its copy failed: the snapshot will be dropped.
    failed: bool,
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
        self.origin_reads.wait_clear(range).await;
        payload.write_to(&self.origin, at).await
    }

    /// Gives every snapshot but `merging` published exceptions for these ranges of the origin.
    /// A snapshot whose COW device fails is dropped; one without room follows its own rule, which
    /// may be to try [again](Self::patiently).
    ///
    /// Whatever snapshot was dropped, by this call or another, is durably marked when it returns.
    pub(super) async fn protect(
        &self,
        ranges: &[Range<u64>],
        merging: Option<&Rc<Snapshot<C>>>,
    ) -> io::Result<()> {
        let mut snapshots = self.snapshots();
        snapshots.retain(|snapshot| {
            snapshot.state() != State::Invalid
                && !merging.is_some_and(|it| Rc::ptr_eq(it, snapshot))
        });
        if snapshots.is_empty() {
            self.all_marked().await;
            return Ok(());
        }
        for range in ranges {
            for start in (range.start..range.end).step_by(index(SLICE_BYTES)) {
                let slice = start..(start + SLICE_BYTES).min(range.end);
                self.keep_old(&snapshots, slice).await?;
            }
        }
        join_all(snapshots.iter().map(|snapshot| publish_ranges(snapshot, ranges))).await;
        self.all_marked().await;
        Ok(())
    }

    /// Returns when no dropped snapshot waits for its mark: an origin write that goes on without it
    /// relies on the mark, whoever dropped it.
    async fn all_marked(&self) {
        let marking = || self.snapshots.borrow().iter().find(|it| it.is_marking()).cloned();
        while let Some(snapshot) = marking() {
            snapshot.marked().await;
        }
    }

    /// Copies the old data of every chunk of `range` to every snapshot that has no exception for
    /// it yet, reading the origin once.
    async fn keep_old(&self, snapshots: &[Rc<Snapshot<C>>], range: Range<u64>) -> io::Result<()> {
        loop {
            let mut keeps = Vec::new();
            if let Err(error) = self.gather(snapshots, &range, &mut keeps).await {
                // Nobody shall wait for chunks that wait for room themselves.
                for keep in keeps {
                    keep.snapshot.give_up(keep.prepared, keep.old);
                }
                return Err(error);
            }
            if !keeps.is_empty() {
                self.copy_old(keeps).await?;
                continue;
            }
            match first_pending(snapshots, &range) {
                Some((snapshot, old)) => snapshot.settled(old).await,
                None => return Ok(()),
            }
        }
    }

    /// Gets a chunk for everything that needs one; others may still be at work on some.
    async fn gather(
        &self,
        snapshots: &[Rc<Snapshot<C>>],
        range: &Range<u64>,
        keeps: &mut Vec<Keep<C>>,
    ) -> io::Result<()> {
        for snapshot in snapshots {
            for old in snapshot.chunks(range) {
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
                        keeps.push(Keep { snapshot, old, prepared, range, failed: false });
                    }
                    (Ok(None), _) => {}
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
        let pieces = union(keeps.iter().map(|keep| keep.range.clone()).collect());
        let copies = pieces.into_iter().map(|piece| self.copy_piece(&keeps, piece));
        // Every copy is driven to its end, also beside one that fails: its chunk is given back then.
        let copied: Vec<_> = futures_util::stream::iter(copies).buffer_unordered(8).collect().await;
        let failed = match copied.into_iter().collect::<io::Result<Vec<Vec<usize>>>>() {
            Ok(failed) => failed,
            Err(error) => {
                for keep in keeps {
                    keep.snapshot.give_up(keep.prepared, keep.old);
                }
                return Err(error);
            }
        };
        for n in failed.into_iter().flatten() {
            keeps[n].failed = true;
        }
        let mut lost = Vec::new();
        for keep in keeps {
            match keep.failed {
                false => keep.snapshot.complete(keep.prepared, keep.old),
                true => {
                    keep.snapshot.give_up(keep.prepared, keep.old);
                    lost.push(keep.snapshot);
                }
            }
        }
        for snapshot in lost {
            drop_snapshot(&snapshot).await;
        }
        Ok(())
    }

    /// Copies one stretch of the origin. Returns which copies the COW devices refused; that the
    /// origin cannot be read is an error, since nobody could keep its old data then.
    async fn copy_piece(&self, keeps: &[Keep<C>], piece: Range<u64>) -> io::Result<Vec<usize>> {
        let data = self.origin.read(piece.start, index(piece.end - piece.start)).await?.freeze();
        let writes = keeps.iter().enumerate().filter_map(|(n, keep)| {
            let start = piece.start.max(keep.range.start);
            let end = piece.end.min(keep.range.end);
            (start < end).then(|| {
                let part = data.slice(index(start - piece.start)..index(end - piece.start));
                let chunk = keep.prepared.chunk().get() * keep.snapshot.chunk_size.bytes();
                let byte = chunk + (start - keep.range.start);
                async move { (n, keep.snapshot.store.device().write(byte, part).await) }
            })
        });
        let ended = join_all(writes).await;
        Ok(ended.into_iter().filter(|(_, ended)| ended.is_err()).map(|(n, _)| n).collect())
    }
}

/// Makes the exceptions for these ranges durable. A snapshot where that fails is dropped: the
/// origin write goes on without it.
async fn publish_ranges<C: Device>(snapshot: &Snapshot<C>, ranges: &[Range<u64>]) {
    if snapshot.state() == State::Invalid {
        return;
    }
    let chunks = ranges.iter().flat_map(|range| snapshot.chunks(range));
    let Some(ticket) = chunks.filter_map(|old| snapshot.ticket_of(old)).max() else { return };
    if snapshot.publish_through(ticket).await.is_err() {
        drop_snapshot(snapshot).await;
    }
}

/// Drops a snapshot that cannot keep old data any more. If not even the mark can be written, its
/// COW device is gone, and with it everything that could be done: the origin goes on.
async fn drop_snapshot<C: Device>(snapshot: &Snapshot<C>) {
    let _in_memory_at_least = snapshot.invalidate().await;
}

fn first_pending<'s, C: Device>(
    snapshots: &'s [Rc<Snapshot<C>>],
    range: &Range<u64>,
) -> Option<(&'s Snapshot<C>, u64)> {
    snapshots
        .iter()
        .filter(|snapshot| snapshot.state() != State::Invalid)
        .find_map(|it| Some((&**it, it.chunks(range).find(|old| it.is_pending(*old))?)))
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
