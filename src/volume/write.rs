use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join;

use super::error::to_io;
use super::origin::Origin;
use super::origin_writes::OriginWrites;
use super::payload::Payload;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use crate::copy::{REQUEST_BYTES, all, index, joined};
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Prepared, StoreError};
use crate::sync::join_all;

/// Whole chunks made at a time; also the most that is published late because of one write.
const CHUNKS_AT_ONCE: u64 = 1024;

/// Memory for exceptions that nobody has published is bounded: the write that makes more than this many
/// publishes them all, and other writes wait for it meanwhile.
const MAX_UNPUBLISHED: u64 = 262_144;

/// The most that writes of their own are joined to, in bytes: what the page cache takes at once.
const JOINED_BYTES: u64 = 128 << 10;

/// Pieces of one chunk that are copied at a time, where it is longer than a request.
const PIECES: usize = 4;

/// Where the next part of a write goes.
enum Next {
    /// Into chunks that are there: this byte of the COW device, this many bytes.
    InPlace(u64, u64),
    /// Into this many new chunks, whole ones.
    Whole(u64),
    /// Into a part of one new chunk, this many bytes.
    Part(u64),
    /// Another write makes an exception for this chunk: wait for it.
    Wait(u64),
}

/// Writes to a snapshot that does not merge.
pub(super) struct SnapshotWrites<'a, O, C> {
    pub(super) snapshot: &'a Snapshot<C>,
    /// Origin writes that came before may need the room.
    pub(super) origin_writes: OriginWrites<'a, O, C>,
}

impl<O: Device, C: Device> SnapshotWrites<'_, O, C> {
    fn origin(&self) -> &Origin<O> {
        self.origin_writes.protect.origin
    }

    /// Where the last chunk ends: with what it shows, and with what the origin has.
    fn chunks_end(&self) -> u64 {
        self.origin().len_bytes().max(self.snapshot.len_bytes())
    }

    fn scratch(&self) -> &Scratch {
        self.origin_writes.protect.scratch
    }

    /// Writes to the snapshot.
    ///
    /// # Ordering
    ///
    /// Data first, to a chunk that nobody sees; then the exception becomes visible, in memory. The
    /// next flush makes both durable. A crash before that leaves the snapshot as it was; a crash
    /// during the flush leaves any first part of the exceptions, each with its data.
    pub(super) async fn write(&self, at: u64, payload: Payload) -> io::Result<()> {
        let snapshot = self.snapshot;
        let end = at + payload.len();
        let mut position = at;
        while position < end {
            snapshot.writable()?;
            snapshot.standing().present()?;
            let part = |len| payload.part(position - at, len);
            position += match self.next(position..end) {
                Next::Wait(old) => {
                    snapshot.pending().wait_for(old).await;
                    0
                }
                Next::InPlace(byte, len) => {
                    snapshot.trusted(&(position..position + len))?;
                    let _held = snapshot.cow_writes().enter(position..position + len);
                    part(len).write_to(snapshot.cow_device(), byte).await?;
                    len
                }
                Next::Whole(chunks) => {
                    let begin = position;
                    let rest = payload.part(begin - at, end - begin);
                    self.write_whole(begin, chunks, &rest).await?
                }
                Next::Part(len) => self.write_part(position, part(len)).await?,
            };
        }
        self.bound_unpublished().await
    }

    async fn bound_unpublished(&self) -> io::Result<()> {
        if self.snapshot.is_publish_due() {
            self.origin().backlog().notify();
        }
        match self.snapshot.unpublished() > MAX_UNPUBLISHED {
            true => self.snapshot.flush().await,
            false => Ok(()),
        }
    }

    /// Several writes, each as by itself. What goes to whole new chunks is written together: those lie one
    /// after the other on the COW device, wherever they are written to.
    ///
    /// # Ordering
    ///
    /// As [`write`](Self::write).
    pub(super) async fn write_many(&self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
        let snapshot = self.snapshot;
        snapshot.writable()?;
        snapshot.standing().present()?;
        let mut together = Vec::with_capacity(writes.len());
        let mut taken = Vec::with_capacity(writes.len());
        let mut singly = Vec::new();
        for (at, data) in writes {
            let holds = !taken.is_empty();
            match self.take_whole(at..at + data.len() as u64, holds).await {
                Some((prepared, old)) => {
                    together.push((snapshot.map().cow_byte(prepared.chunk()), data));
                    taken.push((prepared, old));
                }
                None => singly.push(self.write(at, Payload::Data(data))),
            }
        }
        together.sort_unstable_by_key(|(byte, _)| *byte);
        let cow = snapshot.cow_device();
        let requests = joined(together, JOINED_BYTES).into_iter();
        let requests = requests.map(|(byte, pieces, _)| cow.write_vectored(byte, pieces));
        let together = async {
            let written = join_all(requests).await.into_iter().collect();
            settle(snapshot, taken, written)
        };
        // Each is driven to its end, also while another one fails, and some may wait for another.
        let (together, singly) = join(together, join_all(singly)).await;
        singly.into_iter().fold(together, io::Result::and)?;
        self.bound_unpublished().await
    }

    /// A new chunk for a write of exactly one that has no exception yet, if there is one.
    async fn take_whole(&self, range: Range<u64>, holds: bool) -> Option<(Prepared, u64)> {
        let chunks = self.snapshot.map().chunks(&range);
        match self.next(range) {
            Next::Whole(1) if chunks.end - chunks.start == 1 => {
                let begun = self.begin(chunks.start, holds).await.ok()?;
                begun.map(|prepared| (prepared, chunks.start))
            }
            _ => None,
        }
    }

    async fn begin(&self, old: u64, holds: bool) -> Result<Option<Prepared>, StoreError> {
        self.origin_writes.begin_own(self.snapshot, old, holds).await
    }

    fn next(&self, range: Range<u64>) -> Next {
        let (map, pending) = (self.snapshot.map(), self.snapshot.pending());
        let chunk = map.chunk_bytes();
        let old = range.start / chunk;
        let run = map.next_run(old);
        if let Some(run) = run.filter(|run| run.old.get() == old) {
            let offset = range.start - old * chunk;
            let len = (run.len * chunk - offset).min(range.end - range.start);
            return Next::InPlace(run.new.get() * chunk + offset, len);
        }
        if pending.contains(old) {
            return Next::Wait(old);
        }
        let whole = |old: u64| {
            let bytes = map.chunk_range(old, self.chunks_end());
            range.start <= bytes.start && bytes.end <= range.end
        };
        let before = run.map_or(u64::MAX, |run| run.old.get());
        let free = |old: u64| old < before && old * chunk < range.end && !pending.contains(old);
        let chunks = (old..old.saturating_add(CHUNKS_AT_ONCE))
            .take_while(|old| free(*old) && whole(*old))
            .count() as u64;
        match chunks {
            0 => Next::Part(((old + 1) * chunk).min(range.end) - range.start),
            _ => Next::Whole(chunks),
        }
    }

    /// Writes `chunks` whole chunks from `at` on, as many as there is room for: at least one, or an
    /// error. Returns how many bytes were written. Nothing is copied.
    async fn write_whole(&self, at: u64, chunks: u64, payload: &Payload) -> io::Result<u64> {
        let snapshot = self.snapshot;
        let chunk = snapshot.map().chunk_bytes();
        let first = at / chunk;
        let mut taken: Vec<(Prepared, u64)> = Vec::new();
        for old in first..first + chunks {
            match self.begin(old, !taken.is_empty()).await {
                Ok(Some(prepared)) => taken.push((prepared, old)),
                Ok(None) => break,
                Err(error) if taken.is_empty() => return Err(no_room(snapshot, error)),
                Err(_) => break,
            }
        }
        let len = |count: u64| (count * chunk).min(payload.len());
        let written = len(taken.len() as u64);
        let mut first = 0;
        let follows = |a: &(Prepared, u64), b: &(Prepared, u64)| a.0.chunk().plus(1) == b.0.chunk();
        let writes = taken.chunk_by(follows).map(|run| {
            let offset = first * chunk;
            first += run.len() as u64;
            let data = payload.part(offset, len(first) - offset);
            data.write_to(snapshot.cow_device(), snapshot.map().cow_byte(run[0].0.chunk()))
        });
        // Every write is driven to its end, also while another one fails.
        let ended = join_all(writes).await;
        settle(snapshot, taken, ended.into_iter().collect())?;
        Ok(written)
    }

    /// Writes a part of a chunk that has no exception: the old chunk with the new data over it goes to the
    /// COW device, in requests of at most [`REQUEST_BYTES`]. Returns how many bytes were written: none if
    /// somebody else came first.
    ///
    /// # Ordering
    ///
    /// All of the new chunk is written before the exception becomes visible. Until then the chunk is pending,
    /// which keeps writes to the origin out of it. A crash, or an error, leaves the snapshot as it was.
    async fn write_part(&self, at: u64, payload: Payload) -> io::Result<u64> {
        let snapshot = self.snapshot;
        let old = at / snapshot.map().chunk_bytes();
        let begun = self.begin(old, false).await;
        let begun = begun.map_err(|error| no_room(snapshot, error))?;
        let Some(prepared) = begun else { return Ok(0) };
        let byte = snapshot.map().cow_byte(prepared.chunk());
        let bytes = snapshot.map().chunk_range(old, self.chunks_end());
        let (payload, new) = (&payload, at..at + payload.len());
        let merged = async |piece: Range<u64>| {
            let len = piece.end - piece.start;
            let _memory = self.scratch().take(snapshot.share(), len).await;
            let mut data = self.origin().read_old(piece.start, index(len)).await?;
            if planted(Planted::PartWithoutRest) {
                data.fill(0);
            }
            let (from, to) = (new.start.max(piece.start), new.end.min(piece.end));
            if from < to {
                let over = &mut data[index(from - piece.start)..index(to - piece.start)];
                payload.part(from - new.start, to - from).lay_over(over);
            }
            let byte = byte + (piece.start - bytes.start);
            snapshot.cow_device().write(byte, data.freeze()).await
        };
        let written = match bytes.end - bytes.start <= REQUEST_BYTES {
            true => merged(bytes.clone()).await,
            false => {
                let starts = (bytes.start..bytes.end).step_by(index(REQUEST_BYTES));
                let pieces = starts.map(|start| start..(start + REQUEST_BYTES).min(bytes.end));
                all(PIECES, pieces.map(&merged)).await
            }
        };
        match written {
            Ok(()) => {
                snapshot.complete(prepared, old);
                snapshot.set_overflowed(false);
                Ok(payload.len())
            }
            Err(error) => {
                snapshot.give_up(prepared, old);
                Err(error)
            }
        }
    }
}

/// The data of new chunks was written, or could not be.
fn settle<C: Device>(
    snapshot: &Snapshot<C>,
    taken: Vec<(Prepared, u64)>,
    written: io::Result<()>,
) -> io::Result<()> {
    if written.is_err() {
        // Newest first, so that they are given out again in step with their slots.
        for (prepared, old) in taken.into_iter().rev() {
            snapshot.give_up(prepared, old);
        }
        return written;
    }
    let any = !taken.is_empty();
    for (prepared, old) in taken {
        snapshot.complete(prepared, old);
    }
    if any {
        snapshot.set_overflowed(false);
    }
    Ok(())
}

/// A snapshot write found no room: it fails, and the snapshot lives on.
fn no_room<C: Device>(snapshot: &Snapshot<C>, error: StoreError) -> io::Error {
    if matches!(error, StoreError::Full) {
        snapshot.set_overflowed(true);
    }
    to_io(error)
}
