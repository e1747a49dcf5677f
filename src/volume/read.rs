use std::io;
use std::ops::Range;

use dmsnap_format::OriginChunk;
use futures_util::future::try_join_all;

use super::Volume;
use super::event::Track;
use super::snapshot::Snapshot;
use super::window::index;
use crate::device::{Buffer, Device};

/// A stretch of a snapshot that comes from consecutive bytes of one device. What it holds keeps
/// others from changing those bytes until it is dropped.
struct Stretch<'a> {
    /// Bytes of the snapshot.
    range: Range<u64>,
    /// First byte on the COW device; `None`: from the origin, where it lies at the same place.
    cow_byte: Option<u64>,
    _held: Track<'a>,
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
        // Looked up and held in one go: nobody can write to the origin in between.
        let stretches = self.stretches(snapshot, at..at + len as u64);
        if let [stretch] = &stretches[..] {
            return self.read_stretch(snapshot, stretch).await;
        }
        let reads = stretches.iter().map(|stretch| self.read_stretch(snapshot, stretch));
        let parts = try_join_all(reads).await?;
        let mut whole = Buffer::recycled(len);
        for (stretch, part) in stretches.iter().zip(parts) {
            let start = index(stretch.range.start - at);
            whole[start..start + part.len()].copy_from_slice(&part);
        }
        Ok(whole)
    }

    fn stretches<'a>(&'a self, snapshot: &'a Snapshot<C>, range: Range<u64>) -> Vec<Stretch<'a>> {
        let chunk = snapshot.chunk_size.bytes();
        let table = snapshot.table.borrow();
        let mut stretches = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let run = table.next_run(OriginChunk::new(position / chunk));
            let begin = run.map_or(range.end, |run| (run.old.get() * chunk).min(range.end));
            if position < begin {
                stretches.push(Stretch {
                    range: position..begin,
                    cow_byte: None,
                    _held: self.origin_reads.enter(position..begin),
                });
                position = begin;
            }
            let Some(run) = run.filter(|_| position < range.end) else { continue };
            let end = ((run.old.get() + run.len) * chunk).min(range.end);
            let offset = position - run.old.get() * chunk;
            stretches.push(Stretch {
                range: position..end,
                cow_byte: Some(run.new.get() * chunk + offset),
                _held: snapshot.cow_reads.enter(position..end),
            });
            position = end;
        }
        stretches
    }

    async fn read_stretch(
        &self,
        snapshot: &Snapshot<C>,
        stretch: &Stretch<'_>,
    ) -> io::Result<Buffer> {
        let len = index(stretch.range.end - stretch.range.start);
        match stretch.cow_byte {
            Some(byte) => snapshot.store.device().read(byte, len).await,
            None => self.origin.read(stretch.range.start, len).await,
        }
    }
}
