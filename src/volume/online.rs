use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::{Exception, OriginChunk};

use super::Volume;
use super::error::{VolumeError, to_io};
use super::payload::Payload;
use super::snapshot::{Snapshot, State};
use crate::copy::{Observer, Progress, Reader, Transfer, Write, all, index, union};
use crate::device::Device;
use crate::merge::window_start;
use crate::planted::{Planted, planted};
use crate::store::{Persistent, Store, StoreError};
use crate::sync::Event;

/// The most that one request brings: a client on the same thread may have to wait for it.
const LIVE_REQUEST_BYTES: u64 = 128 << 10;

/// Writes to the origin in flight.
const WRITES: usize = 64;

/// As few chunks written meanwhile are copied again with their writers held.
const FEW: usize = 8;

/// Rounds of copying again what was written meanwhile; then writers are held whatever is left.
const ROUNDS: u32 = 16;

/// How a merge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeState {
    /// Windows are merged.
    Running,
    /// No window is under way; origin and snapshot are one device as before.
    Paused,
    /// Nothing is left: the snapshot's device passes everything on to the origin.
    Finished,
    /// A device failed. The exceptions that are left are kept.
    Failed,
}

/// A merge of a volume.
#[derive(Debug)]
pub(super) struct Merging<C> {
    pub(super) snapshot: Rc<Snapshot<C>>,
    state: Cell<MergeState>,
    /// True while [`Volume::run_merge`] is at work: also after a pause was asked for, until its
    /// window has ended.
    at_work: Cell<bool>,
    window: RefCell<OpenWindow>,
    /// A window was closed.
    released: Event,
}

/// The window under way.
#[derive(Debug, Default)]
struct OpenWindow {
    /// Its chunks.
    olds: HashSet<u64>,
    /// Those written since their data was read.
    dirty: BTreeSet<u64>,
    /// True while writes to its chunks wait for it to end.
    held: bool,
}

/// A run of the merge is at work; over when dropped.
struct AtWork<'a>(&'a Cell<bool>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<C> Merging<C> {
    /// `None` while another run is at work: two of them would clear each other's slots.
    fn begin_work(&self) -> Option<AtWork<'_>> {
        (!self.at_work.replace(true)).then(|| AtWork(&self.at_work))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.get() == MergeState::Finished
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.get() == MergeState::Failed
    }

    fn open(&self, exceptions: &[Exception]) {
        let olds = exceptions.iter().map(|exception| exception.old.get()).collect();
        *self.window.borrow_mut() = OpenWindow { olds, ..OpenWindow::default() };
    }

    fn close(&self) {
        *self.window.borrow_mut() = OpenWindow::default();
        self.released.notify();
    }

    fn is_held(&self, old: u64) -> bool {
        let window = self.window.borrow();
        window.held && window.olds.contains(&old)
    }

    fn mark_dirty(&self, olds: Range<u64>) {
        let mut window = self.window.borrow_mut();
        if planted(Planted::ForgetDirty) {
            return;
        }
        let hit: Vec<u64> = olds.filter(|old| window.olds.contains(old)).collect();
        window.dirty.extend(hit);
    }

    fn take_dirty(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.window.borrow_mut().dirty)
    }
}

impl<O: Device, C: Device> Volume<O, C> {
    /// Makes origin and snapshot one device with the snapshot's content, from which
    /// [`run_merge`](Self::run_merge) then brings everything to the origin. Writes to both wait a moment; if
    /// a device hangs, only this call waits for it. With a snapshot that was opened for reading only, that
    /// device is for looking at, and stays so.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while another merge is not finished; [`VolumeError::Transient`];
    /// [`VolumeError::Invalid`]; [`VolumeError::TakenOut`]; an error of a device.
    pub async fn start_merge(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        if snapshot.store.persistent().is_none() {
            return Err(VolumeError::Transient);
        }
        let prepare = async || -> Result<(), VolumeError> {
            self.refuse_unfinished_merge()?;
            snapshot.usable()?;
            self.write_back().await?;
            snapshot.all_settled().await;
            Ok(self.flush_snapshot(snapshot).await?)
        };
        let _nobody_writes = self.quiet(&[&self.gate, &snapshot.gate], prepare).await?;
        // It may have been dropped or taken out meanwhile, or another merge begun.
        self.refuse_unfinished_merge()?;
        snapshot.usable()?;
        if !self.snapshots.borrow().iter().any(|it| Rc::ptr_eq(it, snapshot)) {
            return Err(VolumeError::TakenOut);
        }
        snapshot.set_overflowed(false);
        let merging = Merging {
            snapshot: snapshot.clone(),
            state: MergeState::Paused.into(),
            at_work: Cell::default(),
            window: RefCell::default(),
            released: Event::default(),
        };
        snapshot.was_merged.set(true);
        self.merging.replace(Some(Rc::new(merging)));
        self.has_moved();
        Ok(())
    }

    /// How the merge is, if one was started, and how many exceptions are left.
    pub fn merge_state(&self) -> Option<(MergeState, u64)> {
        let merging = self.merging.borrow();
        merging.as_ref().map(|it| (it.state.get(), it.snapshot.store.published()))
    }

    /// Merges window by window until nothing is left, [`pause_merge`](Self::pause_merge) is called
    /// or a device fails. The observer may ask it to pause between two windows. Of the progress the total is
    /// in whole chunks.
    ///
    /// # Ordering
    ///
    /// For each window:
    ///
    /// 1. every other snapshot gets published exceptions for its chunks
    /// 2. its data goes to the origin; what clients write to its chunks meanwhile goes to the COW
    ///    device and is copied again, the last few with their writers held
    /// 3. flush the origin            - the merged data is durable
    /// 4. zero the window's slots, flush the COW device
    /// 5. reads and writes of its chunks go to the origin
    ///
    /// A crash before 4 leaves the window's exceptions in place, with the newest data in the COW
    /// device; after it, the window is done.
    ///
    /// # Errors
    ///
    /// An error of a device, or [`VolumeError::NoRoom`] of another snapshot: the merge is failed then, and
    /// calling again goes on. [`VolumeError::MergeRunning`] while another call has not returned;
    /// [`VolumeError::NotMerging`].
    pub async fn run_merge(
        &self,
        window_bytes: u64,
        observer: &impl Observer,
    ) -> Result<MergeState, VolumeError> {
        let Some(merging) = self.merging.borrow().clone() else {
            return Err(VolumeError::NotMerging);
        };
        let store = merging.snapshot.store.persistent().ok_or(VolumeError::Transient)?;
        merging.snapshot.writable()?;
        let Some(_at_work) = merging.begin_work() else {
            return Err(VolumeError::MergeRunning);
        };
        merging.state.set(MergeState::Running);
        let done = Cell::new(0);
        while merging.state.get() == MergeState::Running {
            if store.published() == 0 {
                merging.state.set(MergeState::Finished);
                break;
            }
            if observer.stop_requested() {
                merging.state.set(MergeState::Paused);
                break;
            }
            let ended = self.merge_window(&merging, store, window_bytes, observer, &done).await;
            merging.close();
            if let Err(error) = ended {
                let waited = VolumeError::patience_of(&error).is_some();
                if merging.state.get() == MergeState::Paused && waited {
                    break;
                }
                merging.state.set(MergeState::Failed);
                return Err(error.into());
            }
        }
        Ok(merging.state.get())
    }

    /// Asks [`run_merge`](Self::run_merge) to return after the window under way, or, if that waits for
    /// another snapshot's room, without it.
    pub fn pause_merge(&self) {
        let merging = self.merging.borrow();
        if let Some(merging) = merging.as_ref().filter(|it| it.state.get() == MergeState::Running) {
            merging.state.set(MergeState::Paused);
            self.ticked.notify();
        }
    }

    /// Gives a paused or failed merge up: the snapshot is a plain one again, with the same content.
    /// The origin alone is then neither its old self nor the snapshot.
    ///
    /// # Errors
    ///
    /// [`VolumeError::MergeRunning`], also for a window that a pause lets end; an error of the origin, and
    /// then it is not given up; a store whose clear failed: which exceptions it still has is known when it
    /// is opened anew, and until then the origin must not be written as if it had them all.
    pub async fn cancel_merge(&self) -> Result<(), VolumeError> {
        let Some(merging) = self.merging.borrow().clone() else { return Ok(()) };
        let snapshot = &merging.snapshot;
        let prepare = async || {
            if merging.at_work.get() {
                return Err(VolumeError::MergeRunning);
            }
            if snapshot.store.is_broken() && !planted(Planted::CancelBroken) {
                return Err(StoreError::Broken.into());
            }
            // A read that hangs is waited for while others may write.
            snapshot.cow_reads.wait_clear(0..self.origin_bytes).await;
            // The origin holds what was written to chunks without an exception, and a flush of the
            // plain snapshot will not ask it.
            match planted(Planted::CancelWithoutFlush) {
                true => Ok(()),
                false => Ok(self.flush_origin().await?),
            }
        };
        let nobody_writes = self.quiet(&[&self.gate, &snapshot.gate], prepare).await?;
        if merging.at_work.get() {
            return Err(VolumeError::MergeRunning);
        }
        if let Some(merging) = self.merging.take() {
            self.has_moved();
            // Chunks that were cleared may now be given out again. That is a matter of the snapshot's own
            // writes, and of what origin writes keep for it.
            merging.snapshot.cow_reads.wait_clear(0..self.origin_bytes).await;
        }
        drop(nobody_writes);
        Ok(())
    }

    async fn merge_window(
        &self,
        merging: &Merging<C>,
        store: &Persistent<C>,
        window_bytes: u64,
        observer: &impl Observer,
        done: &Cell<u64>,
    ) -> io::Result<()> {
        let (layout, end) = (store.layout(), store.published());
        let total = done.get() + end * layout.chunk_size().bytes();
        let most = window_bytes / layout.chunk_size().bytes();
        let first = window_start(layout, store.unit_slots(), end, most);
        let (cow, origin_bytes) = (store.device(), merging.snapshot.len_bytes());
        let reader = Reader { cow, layout, origin_bytes, request_bytes: LIVE_REQUEST_BYTES };
        let exceptions = reader.slots(first..end).await.map_err(to_io)?;
        merging.open(&exceptions);
        let chunk_range = |it: &Exception| merging.snapshot.chunk_range(it.old.get(), origin_bytes);
        let ranges = union(exceptions.iter().map(chunk_range).collect());
        let wanted = || merging.state.get() == MergeState::Running;
        let attempt = async || self.protect(&ranges, Some(&merging.snapshot)).await;
        if !planted(Planted::MergeUnprotected) {
            self.patiently_while(wanted, attempt).await?;
        }

        let write = async |at, len, pieces| {
            observer.pace(len).await;
            observer.give_way().await;
            if !planted(Planted::MergeOverReads) {
                self.origin_reads.wait_clear(at..at + len).await;
            }
            self.origin.write_vectored(at, pieces).await?;
            done.set(done.get() + len);
            observer.progress(Progress { done: done.get(), total });
            Ok::<(), io::Error>(())
        };
        let (write, reader) = (&write, &reader);
        if layout.chunk_size().bytes() >= LIVE_REQUEST_BYTES {
            // Each request is one stretch of both devices in any case: nothing is gained by having more of
            // them in memory, and a chunk may have a gibibyte.
            let runs = reader.runs(exceptions.clone()).into_iter();
            let pieces = runs.flat_map(|run| run.pieces(LIVE_REQUEST_BYTES));
            let copies = pieces.map(|Transfer { at, len, from }| async move {
                observer.give_way().await;
                let data = reader.read_bytes(from, len).await.map_err(to_io)?;
                write(at, len, vec![data]).await
            });
            all(WRITES, copies).await?;
        } else {
            let give_way = async || observer.give_way().await;
            let read = reader.read(exceptions.clone(), give_way).await.map_err(to_io)?;
            let writes = read.into_iter();
            let writes = writes.map(|Write { at, len, pieces }| write(at, len, pieces));
            all(WRITES, writes).await?;
        }

        for _ in 0..ROUNDS {
            if merging.window.borrow().dirty.len() <= FEW {
                break;
            }
            self.copy_again(merging, merging.take_dirty()).await?;
        }
        merging.window.borrow_mut().held = !planted(Planted::HoldNobody);
        merging.snapshot.cow_writes.wait_clear(0..self.origin_bytes).await;
        self.copy_again(merging, merging.take_dirty()).await?;

        if !planted(Planted::ClearBeforeOriginFlush) {
            self.flush_origin().await?;
        }
        store.clear(end - first).await.map_err(to_io)?;
        let mut table = merging.snapshot.table.borrow_mut();
        for exception in exceptions {
            table.remove(exception.old);
        }
        self.has_moved();
        Ok(())
    }

    async fn copy_again(&self, merging: &Merging<C>, olds: BTreeSet<u64>) -> io::Result<()> {
        let snapshot = &merging.snapshot;
        let pieces = olds.into_iter().flat_map(|old| {
            let Range { start, end } = snapshot.chunk_range(old, snapshot.len_bytes());
            let starts = (start..end).step_by(index(LIVE_REQUEST_BYTES));
            starts.map(move |at| (old, at - start, at..(at + LIVE_REQUEST_BYTES).min(end)))
        });
        let copies = pieces.map(|(old, offset, piece)| async move {
            let new = snapshot.table.borrow().get(OriginChunk::new(old));
            let Some(new) = new else { return Ok(()) };
            let byte = new.get() * snapshot.chunk_size.bytes() + offset;
            let data = snapshot.store.device().read(byte, index(piece.end - piece.start)).await?;
            self.origin.write(piece.start, data.freeze()).await
        });
        all(WRITES, copies).await
    }

    /// Writes to the one device that origin and merging snapshot are.
    pub(super) async fn write_merging(
        &self,
        merging: &Merging<C>,
        at: u64,
        payload: Payload,
    ) -> io::Result<()> {
        let snapshot = &merging.snapshot;
        snapshot.writable()?;
        let chunk = snapshot.chunk_size.bytes();
        let end = at + payload.len();
        let mut position = at;
        while position < end {
            let old = position / chunk;
            if merging.is_held(old) {
                merging.released.wait_until(|| !merging.is_held(old)).await;
                continue;
            }
            let saved = snapshot.next_stored(position);
            let begin = saved.as_ref().map_or(u64::MAX, |(saved, _)| saved.start);
            let Some((saved, byte)) = saved.filter(|_| begin == position) else {
                let len = begin.min(end) - position;
                let part = payload.part(position - at, len);
                let merging = Some(snapshot).filter(|_| !planted(Planted::MergingTakesExceptions));
                self.write_origin(position, part, merging).await?;
                position += len;
                continue;
            };
            let run_end = saved.end.min(end);
            let free = snapshot.chunks(&(position..run_end)).take_while(|it| !merging.is_held(*it));
            let part_end = ((old + free.count() as u64) * chunk).min(run_end);
            let part = payload.part(position - at, part_end - position);
            let olds = snapshot.chunks(&(position..part_end));
            if planted(Planted::DirtyBeforeWrite) {
                merging.mark_dirty(olds.clone());
            }
            let held = snapshot.cow_writes.enter(position..part_end);
            let written = part.write_to(snapshot.store.device(), byte).await;
            // Whatever window is open now has read the chunk before this write ended.
            if !planted(Planted::DirtyBeforeWrite) {
                merging.mark_dirty(olds);
            }
            drop(held);
            written?;
            position = part_end;
        }
        Ok(())
    }

    /// The merge that makes this device (the origin, if `None`) one with another, if there is one.
    pub(super) fn merging_with(
        &self,
        snapshot: Option<&Rc<Snapshot<C>>>,
    ) -> Option<Rc<Merging<C>>> {
        let merging = self.merging.borrow().clone()?;
        let same = snapshot.is_none_or(|snapshot| Rc::ptr_eq(snapshot, &merging.snapshot));
        (same && merging.snapshot.state() != State::Invalid).then_some(merging)
    }
}
