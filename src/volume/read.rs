use std::io;
use std::ops::Range;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::origin::Origin;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use crate::copy::{REQUEST_BYTES, index};
use crate::device::{ALIGNMENT, Buffer, Device};
use crate::sync::Tracked;

/// Parts of a read that are in memory besides what is put together, at most.
const PARTS: usize = 32;

/// A stretch of a snapshot that comes from consecutive bytes of one device.
struct Stretch {
    /// Bytes of the snapshot.
    range: Range<u64>,
    /// First byte on the COW device; `None`: from the origin, where it lies at the same place.
    cow_byte: Option<u64>,
}

impl Stretch {
    /// The same in pieces of one request each.
    fn pieces(&self) -> impl Iterator<Item = Self> {
        let (Range { start, end }, cow_byte) = (self.range.clone(), self.cow_byte);
        (start..end).step_by(index(REQUEST_BYTES)).map(move |at| Self {
            range: at..(at + REQUEST_BYTES).min(end),
            cow_byte: cow_byte.map(|byte| byte + (at - start)),
        })
    }
}

/// Reads of a snapshot: what has an exception from the COW device, the rest from the origin.
pub(super) struct SnapshotReads<'a, O, C> {
    pub(super) snapshot: &'a Snapshot<C>,
    pub(super) origin: &'a Origin<O>,
    pub(super) scratch: &'a Scratch,
}

impl<O: Device, C: Device> SnapshotReads<'_, O, C> {
    pub(super) async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.snapshot.standing().usable()?;
        let range = at..at + len as u64;
        self.snapshot.trusted(&range)?;
        let read = self.read_pieces(at, len).await?;
        // A flush may have failed since the read began, or the snapshot was dropped and its chunks given
        // back.
        self.snapshot.standing().usable()?;
        self.snapshot.trusted(&range)?;
        Ok(read)
    }

    async fn read_pieces(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let range = at..at + len as u64;
        // Looked up, and begun or held, in one go: nobody can write to the origin in between.
        let first = self.stretch(range.clone());
        if first.range == range {
            let held = self.reads_of(&first);
            return held.during(range, self.read_stretch(&first)).await;
        }
        let mut stretches = vec![first];
        while let Some(Stretch { range: before, .. }) = stretches.last()
            && before.end < range.end
        {
            stretches.push(self.stretch(before.end..range.end));
        }
        // Not all of them may be begun at once.
        let held = stretches.iter().map(|it| self.reads_of(it).enter(it.range.clone()));
        let _held: Vec<_> = held.collect();
        let mut whole = Buffer::recycled(len);
        let mut put = |stretch: &Stretch, part: &Buffer| {
            let start = index(stretch.range.start - at);
            whole[start..start + part.len()].copy_from_slice(part);
        };
        if len as u64 <= REQUEST_BYTES && stretches.len() <= PARTS {
            let memory = (len + stretches.len() * ALIGNMENT) as u64;
            let _memory = self.scratch.take(self.snapshot.share(), memory).await;
            let reads = stretches.iter().map(|stretch| self.read_stretch(stretch));
            let parts = try_join_all(reads.map(FutureExt::boxed_local)).await?;
            stretches.iter().zip(&parts).for_each(|(stretch, part)| put(stretch, part));
            return Ok(whole);
        }
        let reads = stretches.iter().flat_map(Stretch::pieces).map(|piece| async move {
            let memory = piece.range.end - piece.range.start + ALIGNMENT as u64;
            let memory = self.scratch.take(self.snapshot.share(), memory).await;
            let part = self.read_stretch(&piece).await?;
            io::Result::Ok((piece, part, memory))
        });
        let reads = reads.map(FutureExt::boxed_local);
        let mut reads = std::pin::pin!(stream::iter(reads).buffer_unordered(PARTS));
        while let Some((piece, part, _memory)) = reads.try_next().await? {
            put(&piece, &part);
        }
        Ok(whole)
    }

    /// The first stretch of a range, which is not empty.
    fn stretch(&self, range: Range<u64>) -> Stretch {
        match self.snapshot.map().next_stored(range.start) {
            Some((saved, byte)) if saved.start == range.start => {
                Stretch { range: saved.start..saved.end.min(range.end), cow_byte: Some(byte) }
            }
            Some((saved, _)) => {
                Stretch { range: range.start..saved.start.min(range.end), cow_byte: None }
            }
            None => Stretch { range, cow_byte: None },
        }
    }

    /// Where reads of a stretch are counted. What counts there keeps others from changing those bytes.
    fn reads_of(&self, stretch: &Stretch) -> &Tracked {
        match stretch.cow_byte {
            Some(_) => self.snapshot.cow_reads(),
            None => self.origin.reads(),
        }
    }

    async fn read_stretch(&self, stretch: &Stretch) -> io::Result<Buffer> {
        let len = index(stretch.range.end - stretch.range.start);
        match stretch.cow_byte {
            Some(byte) => self.snapshot.cow_device().read(byte, len).await,
            None => self.origin.read_old(stretch.range.start, len).await,
        }
    }
}
