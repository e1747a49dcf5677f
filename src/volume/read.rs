use std::io;
use std::ops::Range;

use dmsnap_format::OriginChunk;
use futures_util::future::try_join_all;

use super::Volume;
use super::event::Tracked;
use super::snapshot::Snapshot;
use super::window::index;
use crate::device::{Buffer, Device};

/// A stretch of a snapshot that comes from consecutive bytes of one device.
struct Stretch {
    /// Bytes of the snapshot.
    range: Range<u64>,
    /// First byte on the COW device; `None`: from the origin, where it lies at the same place.
    cow_byte: Option<u64>,
}

impl<O: Device, C: Device> Volume<O, C> {
    /// Reads a snapshot: what has an exception from the COW device, the rest from the origin.
    pub(super) async fn read_snapshot(
        &self,
        snapshot: &Snapshot<C>,
        at: u64,
        len: usize,
    ) -> io::Result<Buffer> {
        snapshot.usable()?;
        let range = at..at + len as u64;
        snapshot.trusted(&range)?;
        let read = self.read_pieces(snapshot, at, len).await?;
        // A flush may have failed since the read began.
        snapshot.trusted(&range)?;
        Ok(read)
    }

    async fn read_pieces(&self, snapshot: &Snapshot<C>, at: u64, len: usize) -> io::Result<Buffer> {
        let range = at..at + len as u64;
        // Looked up, and begun or held, in one go: nobody can write to the origin in between.
        let first = stretch(snapshot, range.clone());
        if first.range == range {
            let held = self.reads_of(snapshot, &first);
            return held.during(range, self.read_stretch(snapshot, &first)).await;
        }
        let mut stretches = vec![first];
        while let Some(Stretch { range: before, .. }) = stretches.last()
            && before.end < range.end
        {
            stretches.push(stretch(snapshot, before.end..range.end));
        }
        // Not all of them may be begun at once.
        let held = stretches.iter().map(|it| self.reads_of(snapshot, it).enter(it.range.clone()));
        let _held: Vec<_> = held.collect();
        let reads = stretches.iter().map(|stretch| self.read_stretch(snapshot, stretch));
        let parts = try_join_all(reads).await?;
        let mut whole = Buffer::recycled(len);
        for (stretch, part) in stretches.iter().zip(parts) {
            let start = index(stretch.range.start - at);
            whole[start..start + part.len()].copy_from_slice(&part);
        }
        Ok(whole)
    }

    /// Where reads of a stretch are counted. What counts there keeps others from changing those bytes.
    fn reads_of<'a>(&'a self, snapshot: &'a Snapshot<C>, stretch: &Stretch) -> &'a Tracked {
        match stretch.cow_byte {
            Some(_) => &snapshot.cow_reads,
            None => &self.origin_reads,
        }
    }

    async fn read_stretch(&self, snapshot: &Snapshot<C>, stretch: &Stretch) -> io::Result<Buffer> {
        let len = index(stretch.range.end - stretch.range.start);
        match stretch.cow_byte {
            Some(byte) => snapshot.store.device().read(byte, len).await,
            None => self.origin.read(stretch.range.start, len).await,
        }
    }
}

/// The first stretch of a range, which is not empty.
fn stretch<C: Device>(snapshot: &Snapshot<C>, range: Range<u64>) -> Stretch {
    let chunk = snapshot.chunk_size.bytes();
    let run = snapshot.table.borrow().next_run(OriginChunk::new(range.start / chunk));
    let begin = run.map_or(range.end, |run| (run.old.get() * chunk).min(range.end));
    match run {
        Some(run) if begin <= range.start => {
            let end = ((run.old.get() + run.len) * chunk).min(range.end);
            let byte = run.new.get() * chunk + (range.start - run.old.get() * chunk);
            Stretch { range: range.start..end, cow_byte: Some(byte) }
        }
        _ => Stretch { range: range.start..begin, cow_byte: None },
    }
}
