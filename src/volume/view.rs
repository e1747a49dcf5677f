use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap_format::OriginChunk;
use futures_util::future::join_all;

use super::payload::Payload;
use super::snapshot::Snapshot;
use super::{Volume, to_io};
use crate::device::{Allocation, Buffer, Device};
use crate::planted::{Planted, planted};
use crate::store::Store;

/// The origin, or one snapshot, as a device.
///
/// While a snapshot merges, its view and the origin's are the same device.
#[derive(Debug)]
pub struct View<O, C> {
    volume: Rc<Volume<O, C>>,
    /// `None` for the origin.
    snapshot: Option<Rc<Snapshot<C>>>,
}

impl<O: Device, C: Device> View<O, C> {
    /// The origin of a volume: writing to it keeps the old data for every snapshot.
    pub fn origin(volume: &Rc<Volume<O, C>>) -> Self {
        Self { volume: volume.clone(), snapshot: None }
    }

    /// A snapshot of a volume.
    pub fn snapshot(volume: &Rc<Volume<O, C>>, snapshot: &Rc<Snapshot<C>>) -> Self {
        Self { volume: volume.clone(), snapshot: Some(snapshot.clone()) }
    }

    /// Whose exceptions reads go by; `None` for the bare origin.
    fn seen(&self) -> Option<Rc<Snapshot<C>>> {
        match self.volume.merging_with(self.snapshot.as_ref()) {
            Some(merging) => Some(merging.snapshot.clone()),
            None => self.snapshot.clone(),
        }
    }

    async fn put(&self, at: u64, payload: Payload) -> io::Result<()> {
        self.within(at, payload.len())?;
        self.volume.patiently(async || self.put_once(at, payload.clone()).await).await
    }

    async fn put_once(&self, at: u64, payload: Payload) -> io::Result<()> {
        let volume = &self.volume;
        let _inside = volume.gate.enter().await;
        match (volume.merging_with(self.snapshot.as_ref()), &self.snapshot) {
            (Some(merging), _) => volume.write_merging(&merging, at, payload).await,
            (None, Some(snapshot)) => volume.write_snapshot(snapshot, at, payload).await,
            (None, None) => volume.accept(at, payload).await,
        }
    }

    async fn pass_down(&self, at: u64, len: u64) -> io::Result<()> {
        let _inside = self.volume.gate.enter().await;
        // A merge may have begun since the discard was asked for, of this snapshot or another one.
        let merging = self.volume.merging_with(None).is_some();
        if merging && !planted(Planted::DiscardWhileMerging) {
            return Ok(());
        }
        self.volume.write_back_touching(&(at..at + len)).await;
        self.volume.protect(std::slice::from_ref(&(at..at + len)), None).await?;
        self.volume.origin_reads.wait_clear(at..at + len).await;
        self.volume.origin.discard(at, len).await
    }

    fn within(&self, at: u64, len: u64) -> io::Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.volume.origin_bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Zeroes the whole chunks of a range that have an exception; the edges, and everything else,
    /// stay as they are.
    async fn zero_whole_chunks(&self, snapshot: &Snapshot<C>, range: Range<u64>) -> io::Result<()> {
        let chunk = snapshot.chunk_size().bytes();
        let end = match range.end == self.volume.origin_bytes {
            true => range.end.div_ceil(chunk),
            false => range.end / chunk,
        };
        let mut old = match planted(Planted::DiscardTouchesEdges) {
            true => range.start / chunk,
            false => range.start.div_ceil(chunk),
        };
        while old < end {
            let run = snapshot.table.borrow().next_run(OriginChunk::new(old));
            let Some(run) = run.filter(|run| run.old.get() < end) else { return Ok(()) };
            old = (run.old.get() + run.len).min(end);
            let at = run.old.get() * chunk;
            let len = (old * chunk).min(range.end) - at;
            self.put(at, Payload::Zeroes(len, Allocation::Keep)).await?;
        }
        Ok(())
    }
}

impl<O: Device, C: Device> Device for View<O, C> {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.within(at, len as u64)?;
        match self.seen() {
            Some(snapshot) => self.volume.read_snapshot(&snapshot, at, len).await,
            None => self.volume.read_origin(at, len).await,
        }
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.put(at, Payload::Data(data)).await
    }

    /// Several whole new chunks of a snapshot are one request of the COW device.
    async fn write_many(&self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
        let volume = &self.volume;
        let is_merging = || volume.merging_with(self.snapshot.as_ref()).is_some();
        if let Some(snapshot) = &self.snapshot {
            for (at, data) in &writes {
                self.within(*at, data.len() as u64)?;
            }
            let _inside = volume.gate.enter().await;
            if !is_merging() {
                return volume.write_snapshot_many(snapshot, writes).await;
            }
        }
        let writes = writes.into_iter().map(|(at, data)| self.write(at, data));
        join_all(writes).await.into_iter().collect()
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.put(at, Payload::Zeroes(len, allocation)).await
    }

    /// On the origin a discard keeps the old data for every snapshot, like a write. On a snapshot
    /// it zeroes the whole chunks that have an exception, if the snapshot is so disposed, and is
    /// passed on to the origin, if it is. While a snapshot merges a discard does nothing.
    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.within(at, len)?;
        if len == 0 || self.volume.merging_with(self.snapshot.as_ref()).is_some() {
            return Ok(());
        }
        if let Some(snapshot) = &self.snapshot {
            snapshot.usable()?;
            if snapshot.options.discard_zeroes {
                self.zero_whole_chunks(snapshot, at..at + len).await?;
            }
            if !snapshot.options.discard_passdown {
                return Ok(());
            }
        }
        self.volume.patiently(async || self.pass_down(at, len).await).await
    }

    async fn flush(&self) -> io::Result<()> {
        let volume = &self.volume;
        match (volume.merging_with(self.snapshot.as_ref()), &self.snapshot) {
            (Some(merging), _) => {
                let cow = merging.snapshot.store.flush();
                if planted(Planted::FlushForgetsOrigin) {
                    return cow.await.map_err(to_io);
                }
                let (cow, origin) = futures_util::future::join(cow, volume.flush_origin()).await;
                cow.map_err(to_io).and(origin)
            }
            (None, Some(snapshot)) => {
                snapshot.usable()?;
                volume.flush_snapshot(snapshot).await
            }
            (None, None) => volume.flush_origin().await,
        }
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let Some(snapshot) = self.seen() else { return self.volume.next_origin_data(at).await };
        let chunk = snapshot.chunk_size().bytes();
        let end = self.volume.origin_bytes;
        let run = snapshot.table.borrow().next_run(OriginChunk::new(at / chunk));
        let saved = run.map_or(end..end, |run| {
            (run.old.get() * chunk).max(at)..((run.old.get() + run.len) * chunk).min(end)
        });
        if at >= end || saved.start == at {
            return Ok((at < end).then_some(saved));
        }
        let found = self.volume.origin.next_data(at).await?;
        Ok(match found.filter(|data| data.start < saved.start) {
            Some(data) => Some(data.start..data.end.min(saved.start)),
            None => (saved.start < end).then_some(saved),
        })
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.volume.origin_bytes)
    }

    fn block_bytes(&self) -> u32 {
        let origin = self.volume.origin.block_bytes();
        match &self.snapshot {
            Some(snapshot) => origin.min(snapshot.store.device().block_bytes()),
            None => origin,
        }
    }
}
