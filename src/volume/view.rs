use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join;

use super::error::to_io;
use super::layers::{Layer, Layers};
use super::merge_writes::MergeWrites;
use super::merging::Merging;
use super::payload::Payload;
use super::snapshot::Snapshot;
use super::volume::Volume;
use crate::device::{Allocation, Buffer, Device, within};
use crate::planted::{Planted, planted};
use crate::store::Store;
use crate::sync::{Gate, Inside, join_all};

/// The origin, or one snapshot, as a device.
///
/// While a snapshot merges, its view and the origin's are the same device.
#[derive(Debug)]
pub struct View<O, C> {
    volume: Rc<Volume<O, C>>,
    /// `None` for the origin.
    snapshot: Option<Rc<Snapshot<C>>>,
    /// Its requests wait for room no longer: what finds none fails at once.
    fails_at_once: Cell<bool>,
}

impl<O: Device, C: Device> View<O, C> {
    /// The origin of a volume: writing to it keeps the old data for every snapshot.
    pub fn origin(volume: &Rc<Volume<O, C>>) -> Self {
        Self { volume: volume.clone(), snapshot: None, fails_at_once: Cell::default() }
    }

    /// A snapshot of a volume.
    pub fn snapshot(volume: &Rc<Volume<O, C>>, snapshot: &Rc<Snapshot<C>>) -> Self {
        let (volume, snapshot) = (volume.clone(), Some(snapshot.clone()));
        Self { volume, snapshot, fails_at_once: Cell::default() }
    }

    /// From now on no request of this view waits for room in a store: such writes fail with "no space", also
    /// those that wait already. For an export that is taken away.
    pub fn stop_waiting_for_room(&self) {
        self.fails_at_once.set(true);
        self.volume.clock().look_again();
    }

    /// What holds a range: lengths in bytes, one after the other from the beginning of the range on, at most
    /// `most` of them (at least one), no two neighbours alike. Each was right at some moment of the call;
    /// what changed meanwhile may be called data.
    ///
    /// # Errors
    ///
    /// A range past the end; a snapshot that was dropped, before or meanwhile; an error of the origin.
    pub async fn layers(&self, range: Range<u64>, most: usize) -> io::Result<Vec<(u64, Layer)>> {
        self.within(range.start, range.end.saturating_sub(range.start))?;
        let saved = |at, end| self.saved(at, end);
        let layers = Layers::new(self.volume.origin(), self.volume.merges(), saved);
        let found = layers.list(range, most).await?;
        self.usable()?;
        Ok(found)
    }

    /// The merge that makes this device one with another, if there is one.
    fn merging(&self) -> Option<Rc<Merging<C>>> {
        self.volume.merges().with(self.snapshot.as_ref())
    }

    /// Tries something until there is room for it, as long as this view waits for that.
    async fn wait_for_room(&self, attempt: impl AsyncFn() -> io::Result<()>) -> io::Result<()> {
        self.volume.clock().wait_for_room(|| !self.fails_at_once.get(), attempt).await
    }

    /// Whose exceptions reads go by; `None` for the bare origin.
    fn seen(&self) -> Option<Rc<Snapshot<C>>> {
        match self.merging() {
            Some(merging) => Some(merging.snapshot().clone()),
            None => self.snapshot.clone(),
        }
    }

    async fn put(&self, at: u64, payload: Payload) -> io::Result<()> {
        self.within(at, payload.len())?;
        self.wait_for_room(async || self.put_once(at, payload.clone()).await).await
    }

    async fn put_once(&self, at: u64, payload: Payload) -> io::Result<()> {
        let volume = &self.volume;
        let _inside = self.enter().await;
        match (self.merging(), &self.snapshot) {
            (Some(merging), _) => {
                let origin_writes = volume.origin_writes();
                MergeWrites { merging: &merging, origin_writes }.write(at, payload).await
            }
            (None, Some(snapshot)) => volume.snapshot_writes(snapshot).write(at, payload).await,
            (None, None) => volume.origin_writes().accept(at, payload).await,
        }
    }

    /// A snapshot has a gate of its own, unless a merge makes it one device with the origin.
    fn gate(&self) -> &Gate {
        let own = self.snapshot.as_ref().filter(|_| self.merging().is_none());
        own.map_or(self.volume.gate(), |snapshot| snapshot.gate())
    }

    /// Comes in where requests of this device belong, also if that changes while this waits.
    async fn enter(&self) -> Inside<'_> {
        loop {
            let gate = self.gate();
            let inside = self.volume.clock().enter(gate).await;
            if ptr::eq(gate, self.gate()) {
                return inside;
            }
        }
    }

    async fn pass_down(&self, at: u64, len: u64) -> io::Result<()> {
        let volume = &self.volume;
        let _inside = volume.clock().enter(volume.gate()).await;
        // A merge may have begun since the discard was asked for, of this snapshot or another one.
        let merging = volume.merges().with(None);
        let is_under_way = merging.as_ref().is_some_and(|it| !it.is_finished());
        if is_under_way && !planted(Planted::DiscardWhileMerging) {
            return Ok(());
        }
        let finished = merging.as_ref().filter(|it| it.is_finished()).map(|it| it.snapshot());
        // A snapshot may be longer.
        let len = len.min(volume.len_bytes().saturating_sub(at));
        match len {
            0 => Ok(()),
            len => volume.origin_writes().discard(at, len, finished).await,
        }
    }

    fn len(&self) -> u64 {
        match &self.snapshot {
            Some(snapshot) => snapshot.len_bytes(),
            None => self.volume.len_bytes(),
        }
    }

    /// An error if the snapshot was dropped.
    fn usable(&self) -> io::Result<()> {
        self.snapshot.as_ref().map_or(Ok(()), |snapshot| snapshot.standing().usable())
    }

    /// The first stretch from `at` on that a COW device holds; empty, at `end`, if there is none before.
    fn saved(&self, at: u64, end: u64) -> io::Result<Range<u64>> {
        self.usable()?;
        let saved = self.seen().and_then(|snapshot| snapshot.map().next_saved(at));
        Ok(saved.map_or(end..end, |saved| saved.start.min(end)..saved.end.min(end)))
    }

    fn within(&self, at: u64, len: u64) -> io::Result<()> {
        within(at, len, self.len())
    }

    /// Zeroes the whole chunks of a range that have an exception; the edges, and everything else,
    /// stay as they are.
    async fn zero_whole_chunks(&self, snapshot: &Snapshot<C>, range: Range<u64>) -> io::Result<()> {
        let chunk = snapshot.map().chunk_bytes();
        let end = match range.end == snapshot.len_bytes() {
            true => range.end.div_ceil(chunk),
            false => range.end / chunk,
        };
        let mut old = match planted(Planted::DiscardTouchesEdges) {
            true => range.start / chunk,
            false => range.start.div_ceil(chunk),
        };
        while old < end {
            let run = snapshot.map().next_run(old);
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
        loop {
            let seen = self.seen();
            let read = match &seen {
                Some(snapshot) => self.volume.snapshot_reads(snapshot).read(at, len).await,
                None => self.volume.origin().read(at, len).await,
            };
            // A merge was given up or forgotten meanwhile. What becomes of its snapshot then is not an
            // error of the origin.
            match read {
                Err(_) if self.seen().as_ref().map(Rc::as_ptr) != seen.as_ref().map(Rc::as_ptr) => {
                }
                read => return read,
            }
        }
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.put(at, Payload::Data(data)).await
    }

    /// Several whole new chunks of a snapshot are one request of the COW device.
    async fn write_many(&self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
        if let Some(snapshot) = &self.snapshot {
            for (at, data) in &writes {
                self.within(*at, data.len() as u64)?;
            }
            let _inside = self.volume.clock().enter(snapshot.gate()).await;
            if self.merging().is_none() {
                return self.volume.snapshot_writes(snapshot).write_many(writes).await;
            }
        }
        let writes = writes.into_iter().map(|(at, data)| self.write(at, data));
        join_all(writes).await.into_iter().collect()
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.put(at, Payload::Zeroes(len, allocation)).await
    }

    /// On the origin a discard keeps the old data for every snapshot, like a write. On a snapshot
    /// it zeroes the whole chunks that have an exception, if its options say so, and is
    /// passed on to the origin, if they do. While a snapshot merges a discard does nothing; when the merge has
    /// finished it is one of the origin.
    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.within(at, len)?;
        let merging = self.merging();
        if len == 0 || merging.as_ref().is_some_and(|it| !it.is_finished()) {
            return Ok(());
        }
        if let Some(snapshot) = self.snapshot.as_ref().filter(|_| merging.is_none()) {
            snapshot.standing().usable()?;
            if snapshot.options().discard_zeroes {
                self.zero_whole_chunks(snapshot, at..at + len).await?;
            }
            // It is advice: where the origin is not for this volume alone, it is not taken.
            let passes_down = snapshot.options().discard_passdown;
            if !passes_down || self.volume.origin().claim().await.is_err() {
                return Ok(());
            }
        }
        self.wait_for_room(async || self.pass_down(at, len).await).await
    }

    async fn flush(&self) -> io::Result<()> {
        let volume = &self.volume;
        match (self.merging(), &self.snapshot) {
            // Nothing is left on the COW device.
            (Some(merging), _) if merging.is_finished() => volume.origin_writes().flush().await,
            (Some(merging), _) => {
                let cow = merging.snapshot().store().flush();
                if planted(Planted::FlushForgetsOrigin) {
                    return cow.await.map_err(to_io);
                }
                let writes = volume.origin_writes();
                let (cow, origin) = join(cow, writes.flush()).await;
                cow.map_err(to_io).and(origin)
            }
            (None, Some(snapshot)) => {
                snapshot.standing().usable()?;
                snapshot.standing().present()?;
                snapshot.flush().await
            }
            (None, None) => volume.origin_writes().flush().await,
        }
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let saved = |at, end| self.saved(at, end);
        let layers = Layers::new(self.volume.origin(), self.volume.merges(), saved);
        let found = layers.next_data(at, self.len()).await?;
        if found.is_none() {
            self.usable()?;
        }
        Ok(found)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    fn block_bytes(&self) -> u32 {
        let origin = self.volume.origin_device().block_bytes();
        match &self.snapshot {
            Some(snapshot) => origin.min(snapshot.cow_device().block_bytes()),
            None => origin,
        }
    }
}
