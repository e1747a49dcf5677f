//! One origin and its snapshots, live: every rule for reads, writes, flushes, discards,
//! copy-on-write, overflow and merging while all of that goes on.
//!
//! A volume lives on one thread and has no clock. Its devices are [`View`]s, which are
//! [`Device`]s themselves: a front end serves them, and a snapshot can be the origin of another
//! volume.
//!
//! # Rules
//!
//! - A write to a snapshot puts the data into a new chunk and lets reads see it at once; the next
//!   flush publishes everything written so far. A whole chunk is not copied, a part of one is
//!   written together with the rest of the old chunk.
//! - A write to the origin starts only when every snapshot has a *published* exception for every
//!   chunk it touches. The old data is read once, however many snapshots need it, and writes at the
//!   same time share a publish.
//! - A snapshot's read that went to the origin keeps origin writes to that stretch out until it is
//!   done.
//! - A merging snapshot and the origin are one device: reads take what still has an exception from
//!   the COW device, writes go to where the chunk is. It takes no new exceptions.
//!
//! A future that writes must be driven to its end, also when nobody wants its result any more.

mod error; // why a volume does not do something
mod payload; // data, or zeroes
mod scratch; // memory for copying, bounded
mod snapshot; // a snapshot's state
mod read; // reads of a snapshot
mod write; // writes to a snapshot
mod protect; // old data kept before origin writes
mod backlog; // origin writes that wait for others
mod patience; // waiting for room in a store
mod quiet; // nobody writes for a moment
mod removal; // a snapshot is taken out
mod online; // merging while clients go on
mod layers; // what holds a stretch: block status, changed blocks
mod view; // the devices of a volume

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use dmsnap_format::SECTOR_BYTES;
use futures_util::future::{join, join_all};

use crate::device::{Barrier, Buffer, Device};
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, Loaded, Persistent, Store, Transient, refuse_part_blocks};
use crate::table::Table;

use crate::sync::{Event, Gate, Tracked};
use backlog::Backlog;
use error::to_io;
use online::Merging;
use scratch::{Scratch, Share};

pub use crate::store::Strays;
pub use error::VolumeError;
pub use layers::Layer;
pub use online::MergeState;
pub use snapshot::{OnFull, Snapshot, SnapshotOptions, State};
pub use view::View;

/// An origin with its snapshots.
#[derive(Debug)]
pub struct Volume<O, C> {
    origin: O,
    origin_bytes: u64,
    origin_barrier: Barrier,
    /// Reads of the origin no longer see what the cache held before the volume.
    origin_forgotten: Cell<bool>,
    backlog: Backlog,
    snapshots: RefCell<Vec<Rc<Snapshot<C>>>>,
    /// Every request that changes the origin is inside; closed while a snapshot is added, and while a merge
    /// begins or is given up. Writes to a snapshot are inside its own, but for one that merges or has merged.
    gate: Gate,
    /// Reads of snapshots that went to the origin.
    origin_reads: Tracked,
    merging: RefCell<Option<Rc<Merging<C>>>>,
    scratch: Scratch,
    /// Of the memory for copying, the origin's.
    origin_share: Rc<Share>,
    /// How often exceptions went away, or a device became another one, by a merge.
    moved: Cell<u64>,
    /// How many snapshots were ever added.
    added: Cell<u64>,
    ticks: Cell<u64>,
    ticked: Event,
    /// Nobody waits for room any more.
    hurried: Cell<bool>,
}

impl<O: Device, C: Device> Volume<O, C> {
    /// A volume without snapshots: its origin is `origin`, and whole sectors. Where the last one is cut short
    /// its rest reads as zeroes.
    ///
    /// # Errors
    ///
    /// An error of the device when asked for its size.
    pub fn new(origin: O) -> Result<Self, VolumeError> {
        let len = origin.len_bytes().map_err(VolumeError::Device)?;
        let whole = len.checked_next_multiple_of(SECTOR_BYTES);
        Ok(Self {
            origin,
            origin_bytes: whole.unwrap_or(len - len % SECTOR_BYTES),
            origin_barrier: Barrier::default(),
            origin_forgotten: Cell::default(),
            backlog: Backlog::default(),
            snapshots: RefCell::default(),
            gate: Gate::default(),
            origin_reads: Tracked::default(),
            merging: RefCell::default(),
            scratch: Scratch::default(),
            origin_share: Rc::default(),
            moved: Cell::default(),
            added: Cell::default(),
            ticks: Cell::default(),
            ticked: Event::default(),
            hurried: Cell::default(),
        })
    }

    /// Lets writes to the origin that some snapshot has to keep old data for wait in memory, up to
    /// `most_bytes` of it, so that many share a publish. Reads of the origin see them, and a flush writes
    /// them back first. See [`run_write_back`](Self::run_write_back).
    ///
    /// A write does not wait while a snapshot is there that could make it fail
    /// ([`OnFull::Fail`], [`OnFull::Wait`]), nor while one merges.
    pub fn allow_backlog(&self, most_bytes: u64) {
        self.backlog.allow(most_bytes);
    }

    /// The most memory, in bytes, that the volume's own copying takes: old data for snapshots, the rest of
    /// chunks that are written in part, reads that are put together. 64 MiB without this call. What needs
    /// more waits for others to end.
    pub fn limit_copying(&self, most_bytes: u64) {
        self.scratch.limit(most_bytes);
    }

    /// The size of the origin, in bytes. A snapshot may be smaller: [`Snapshot::len_bytes`].
    pub fn len_bytes(&self) -> u64 {
        self.origin_bytes
    }

    /// The device below.
    pub fn origin_device(&self) -> &O {
        &self.origin
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Rc<Snapshot<C>>> {
        self.snapshots.borrow().clone()
    }

    /// The snapshot with this name.
    pub fn snapshot(&self, name: &str) -> Option<Rc<Snapshot<C>>> {
        self.snapshots.borrow().iter().find(|snapshot| snapshot.name == name).cloned()
    }

    /// Adds a snapshot with the exceptions its store has: an empty store makes one of this
    /// moment. Writes to the origin that are under way are waited for, and the origin is flushed; new ones
    /// wait a moment. If a device hangs, only this call waits for it.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NameTaken`]; [`VolumeError::Duplicate`]; as [`snapshot_bytes`](Self::snapshot_bytes);
    /// [`VolumeError::Merging`] while a merge is not finished: the origin is half merged then, and a snapshot
    /// of it would be one of nothing; an error of a device.
    pub async fn add(
        &self,
        name: &str,
        store: AnyStore<C>,
        exceptions: Vec<dmsnap_format::Exception>,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let len_bytes = self.snapshot_bytes(&options)?;
        let table = Table::from_exceptions(exceptions)?;
        // What the snapshot shows of the origin must not be lost to it by a power cut. After a flush that
        // failed a system may keep what was lost in its cache, as if all were well, and the next to open the
        // file believes it: what a snapshot shows shall be what the medium has. Inside the gate it is flushed
        // once more, unless nobody was there since before the first flush.
        let flushed = Cell::new(None);
        let prepare = async || -> Result<(), VolumeError> {
            let empty_since = self.gate.empty_since();
            if empty_since.is_some() && flushed.get() == empty_since {
                return Ok(());
            }
            match planted(Planted::AddWithoutFlush) {
                true => self.write_back().await?,
                false => self.flush_origin().await?,
            }
            flushed.set(empty_since);
            self.forget_cached().await
        };
        if !planted(Planted::BelieveCache) {
            store.device().forget_cached().await?;
        }
        let _nobody_writes = match planted(Planted::AddBesideWrites) {
            true => prepare().await.map(|()| Vec::new())?,
            false => self.quiet(&[&self.gate], prepare).await?,
        };
        if self.snapshot(name).is_some() {
            return Err(VolumeError::NameTaken { name: name.into() });
        }
        self.refuse_unfinished_merge()?;
        let snapshot =
            Snapshot::new(name.into(), self.added.get(), len_bytes, store, table, options);
        let snapshot = Rc::new(snapshot);
        self.added.set(self.added.get() + 1);
        self.snapshots.borrow_mut().push(snapshot.clone());
        Ok(snapshot)
    }

    /// Drops what the system's cache holds of the origin, once: after a flush that failed it may keep what was
    /// lost as if all were well, and the next to open the file would believe it. The first snapshot
    /// that is added does so too; an origin that is served before it has one needs this first.
    ///
    /// # Errors
    ///
    /// As [`Device::forget_cached`].
    pub async fn forget_cached(&self) -> Result<(), VolumeError> {
        match planted(Planted::BelieveCache) || self.origin_forgotten.replace(true) {
            true => Ok(()),
            false => Ok(self.origin.forget_cached().await?),
        }
    }

    /// The size of a snapshot with these options, in bytes.
    ///
    /// # Errors
    ///
    /// [`VolumeError::SizeNotWhole`], [`VolumeError::SizeTooLarge`].
    pub fn snapshot_bytes(&self, options: &SnapshotOptions) -> Result<u64, VolumeError> {
        let (origin, found) = (self.origin_bytes, options.len_bytes.unwrap_or(self.origin_bytes));
        match found {
            _ if !found.is_multiple_of(SECTOR_BYTES) => Err(VolumeError::SizeNotWhole { found }),
            _ if found > origin => Err(VolumeError::SizeTooLarge { found, origin }),
            _ => Ok(found),
        }
    }

    /// Opens the store on `cow` and adds it as a snapshot. What lies after the end of its list is zeroed; but a
    /// store that has lost exceptions to an unaligned discard in a kernel is refused, because that would wipe
    /// what is left of them ([`SnapshotOptions::strays`]).
    ///
    /// # Ordering
    ///
    /// Everything is read and judged, then [`Loaded::into_writable`] is called.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Store`] if the store cannot be opened, or contradicts the devices or itself. Or as
    /// [`add`](Self::add).
    pub async fn open(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let mut exceptions = Vec::new();
        let len_bytes = self.snapshot_bytes(&options)?;
        let loaded = Loaded::read(cow, Some(len_bytes), |it| exceptions.push(it));
        let loaded = loaded.await.map_err(VolumeError::Store)?;
        let chunk_size = loaded.layout().chunk_size();
        refuse_part_blocks(chunk_size, loaded.device()).map_err(VolumeError::Store)?;
        refuse_part_blocks(chunk_size, &self.origin).map_err(VolumeError::Store)?;
        let store = loaded.into_writable(options.strays).await.map_err(VolumeError::Store)?;
        let store = AnyStore::Persistent(store);
        self.add(name, store, exceptions, options).await
    }

    /// The same, for looking at: the snapshot refuses every write, and nothing is ever written to `cow`.
    /// Writes to the origin that it would have to keep old data of are refused as well.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_read_only(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let mut exceptions = Vec::new();
        let len_bytes = self.snapshot_bytes(&options)?;
        let store = Persistent::open_read_only(cow, Some(len_bytes), |it| exceptions.push(it));
        let store = AnyStore::Persistent(store.await.map_err(VolumeError::Store)?);
        self.add(name, store, exceptions, options).await
    }

    /// Adds a snapshot of this moment that is gone with the process. Whatever lies on `cow` is
    /// overwritten.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub async fn open_transient(
        &self,
        name: &str,
        cow: C,
        chunk_size: dmsnap_format::ChunkSize,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let store = AnyStore::Transient(Transient::new(cow, chunk_size));
        self.add(name, store, Vec::new(), options).await
    }

    /// Publishes what was written to a snapshot, as a flush of its device does.
    ///
    /// # Errors
    ///
    /// An error of the COW device.
    pub async fn publish(&self, snapshot: &Snapshot<C>) -> Result<(), VolumeError> {
        snapshot.present()?;
        Ok(self.flush_snapshot(snapshot).await?)
    }

    /// Drops a snapshot, durably and for good. Nobody waits for it but who relies on it: see
    /// `protect`.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while it merges: clients would lose what they see on the origin.
    /// An error of its COW device: then it is dropped in memory only.
    pub async fn invalidate(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        self.refuse_merging(snapshot)?;
        snapshot.present()?;
        Ok(snapshot.invalidate().await?)
    }

    /// To be called about once a second: whoever waits for room in a store looks again, and its
    /// patience is counted in these calls.
    pub fn tick(&self) {
        Buffer::give_back_idle();
        self.ticks.set(self.ticks.get() + 1);
        self.ticked.notify();
        self.backlog.notify();
    }

    /// From now on nobody waits for room in a store: such writes fail with "no space", also those
    /// that wait already. For the end of a server, whose clients wait for answers.
    pub fn hurry(&self) {
        self.hurried.set(true);
        self.ticked.notify();
        self.backlog.notify();
    }

    /// Tries again to mark the stores of dropped snapshots whose COW devices have not taken the mark. To
    /// be called now and then as long as one [is unmarked](Snapshot::is_unmarked). One that hangs keeps no
    /// other from being marked.
    ///
    /// # Errors
    ///
    /// The first [`VolumeError::MarkFailed`]: that store is valid on disk and wrong.
    pub async fn mark_dropped(&self) -> Result<(), VolumeError> {
        let unmarked = self.snapshots().into_iter().filter(|it| it.is_unmarked());
        let unmarked = unmarked.filter(|_| !planted(Planted::MarkedOnce));
        let marks = unmarked.map(|snapshot| async move {
            let marked = snapshot.mark_again().await;
            let name = || snapshot.name.clone();
            marked.map_err(|source| VolumeError::MarkFailed { snapshot: name(), source })
        });
        join_all(marks).await.into_iter().collect()
    }

    /// Publishes and flushes everything: what was acknowledged before is durable afterwards, and so are
    /// the marks of dropped snapshots. A device that hangs keeps no other from being flushed.
    ///
    /// # Errors
    ///
    /// The first error; the others are flushed all the same.
    pub async fn flush_all(&self) -> Result<(), VolumeError> {
        let valid = self.snapshots().into_iter().filter(|it| it.state() != State::Invalid);
        let snapshots = valid.map(|it| async move {
            let flushed = self.flush_snapshot(&it).await;
            match it.state() {
                // What waited in memory has dropped it meanwhile: the mark is what counts then.
                State::Invalid => self.last_flush(&it).await,
                State::Active | State::Overflowed => flushed,
            }
        });
        let origin = async {
            // What is dropped by what waited in memory is marked as well.
            let flushed = self.flush_origin().await.map_err(VolumeError::from);
            flushed.and(self.mark_dropped().await)
        };
        let (origin, snapshots) = join(origin, join_all(snapshots)).await;
        snapshots.into_iter().fold(origin, |ended, one| ended.and(one.map_err(VolumeError::from)))
    }

    /// The text of a status line behind the target's name, as the kernel prints it.
    pub fn status(&self, snapshot: &Rc<Snapshot<C>>) -> String {
        let failed = self.merging_of(snapshot).is_some_and(|merging| merging.has_failed());
        match (snapshot.state(), snapshot.usage()) {
            (State::Invalid, _) | (_, None) => "Invalid".into(),
            _ if failed => "Merge failed".into(),
            (State::Overflowed, _) => "Overflow".into(),
            (State::Active, Some(usage)) => usage.to_string(),
        }
    }

    /// A merge has taken exceptions away, or made a device another one.
    fn has_moved(&self) {
        self.moved.set(self.moved.get() + 1);
    }

    fn refuse_merging(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        match self.merging_of(snapshot) {
            Some(_) => self.refuse_unfinished_merge(),
            None => Ok(()),
        }
    }

    fn refuse_unfinished_merge(&self) -> Result<(), VolumeError> {
        match self.merging.borrow().as_ref().filter(|merging| !merging.is_finished()) {
            Some(it) => Err(VolumeError::Merging { snapshot: it.snapshot.name.clone() }),
            None => Ok(()),
        }
    }

    /// The merge of this snapshot, if one was started.
    fn merging_of(&self, snapshot: &Rc<Snapshot<C>>) -> Option<Rc<Merging<C>>> {
        let merging = self.merging.borrow().clone();
        merging.filter(|merging| Rc::ptr_eq(&merging.snapshot, snapshot))
    }

    /// Everything written to the origin is durable afterwards. Once that has failed it always does: a
    /// merge must not forget exceptions whose data a client's flush was told to be lost.
    async fn flush_origin(&self) -> io::Result<()> {
        if !planted(Planted::BacklogNotFlushed) {
            self.write_back().await?;
        }
        if planted(Planted::OriginFlushForgotten) {
            return self.origin.flush().await;
        }
        self.origin_barrier.flush(&self.origin).await
    }

    /// Everything acknowledged on a snapshot is durable afterwards.
    async fn flush_snapshot(&self, snapshot: &Snapshot<C>) -> io::Result<()> {
        let newest = snapshot.newest_ticket().filter(|_| !planted(Planted::FlushWithoutPublish));
        let flushed = match newest {
            Some(ticket) => snapshot.publish_through(ticket).await.map_err(to_io)?,
            None => false,
        };
        match flushed {
            true => Ok(()),
            // Writes in place, or another publish had begun before this call.
            false => snapshot.store.flush().await.map_err(to_io),
        }
    }
}
