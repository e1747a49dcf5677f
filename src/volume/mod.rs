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

mod event; // waiting for things on one thread
mod payload; // data, or zeroes
mod snapshot; // a snapshot's state
mod read; // reads of a snapshot
mod write; // writes to a snapshot
mod protect; // old data kept before origin writes
mod backlog; // origin writes that wait for others
mod patience; // waiting for room in a store
pub(crate) mod window; // a merge's unit of work
mod online; // merging while clients go on
mod view; // the devices of a volume

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::device::{Barrier, Device};
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, Persistent, Store, StoreError, Transient};
use crate::table::Table;

use backlog::Backlog;
use event::{Event, Gate, Tracked};
use online::Merging;

pub use online::{MergeControl, MergeState};
pub use snapshot::{OnFull, Snapshot, SnapshotOptions, State};
pub use view::View;

/// An origin with its snapshots.
#[derive(Debug)]
pub struct Volume<O, C> {
    origin: O,
    origin_bytes: u64,
    origin_barrier: Barrier,
    backlog: Backlog,
    snapshots: RefCell<Vec<Rc<Snapshot<C>>>>,
    /// Every write is inside; closed while snapshots come, go, or begin to merge.
    gate: Gate,
    /// Reads of snapshots that went to the origin.
    origin_reads: Tracked,
    merging: RefCell<Option<Rc<Merging<C>>>>,
    ticks: Cell<u64>,
    ticked: Event,
    /// Nobody waits for room any more.
    hurried: Cell<bool>,
}

impl<O: Device, C: Device> Volume<O, C> {
    /// A volume without snapshots: its origin is `origin`, as far as it has whole sectors.
    ///
    /// # Errors
    ///
    /// An error of the device when asked for its size.
    pub fn new(origin: O) -> io::Result<Self> {
        let len = origin.len_bytes()?;
        Ok(Self {
            origin,
            origin_bytes: len - len % dmsnap_format::SECTOR_BYTES,
            origin_barrier: Barrier::default(),
            backlog: Backlog::default(),
            snapshots: RefCell::default(),
            gate: Gate::default(),
            origin_reads: Tracked::default(),
            merging: RefCell::default(),
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

    /// The size of the origin and of every snapshot, in bytes.
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
    /// moment. Writes wait meanwhile, those under way are waited for, and the origin is flushed.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] for a name in use; [`io::ErrorKind::InvalidData`] for
    /// exceptions that repeat themselves; [`io::ErrorKind::ResourceBusy`] while a merge is not
    /// finished: the origin is half merged then, and a snapshot of it would be one of nothing.
    pub async fn add(
        &self,
        name: &str,
        store: AnyStore<C>,
        exceptions: Vec<dmsnap_format::Exception>,
        options: SnapshotOptions,
    ) -> io::Result<Rc<Snapshot<C>>> {
        let table = Table::from_exceptions(exceptions)
            .map_err(|twice| io::Error::new(io::ErrorKind::InvalidData, twice.to_string()))?;
        let _nobody_writes = match planted(Planted::AddBesideWrites) {
            true => None,
            false => Some(self.gate.close().await),
        };
        if self.snapshot(name).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("snapshot {name}")));
        }
        if self.merge_is_unfinished() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a snapshot is merging"));
        }
        // What the snapshot shows of the origin must not be lost to it by a power cut.
        match planted(Planted::AddWithoutFlush) {
            true => self.write_back().await,
            false => self.flush_origin().await?,
        }
        let snapshot = Rc::new(Snapshot::new(name.into(), store, table, options));
        self.snapshots.borrow_mut().push(snapshot.clone());
        Ok(snapshot)
    }

    /// Opens the store on `cow` and adds it as a snapshot.
    ///
    /// # Errors
    ///
    /// Why the store cannot be opened, or contradicts the devices or itself; or as
    /// [`add`](Self::add).
    pub async fn open(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> io::Result<Rc<Snapshot<C>>> {
        let mut exceptions = Vec::new();
        let store = Persistent::open(cow, Some(self.origin_bytes), |it| exceptions.push(it));
        let store = AnyStore::Persistent(store.await.map_err(to_io)?);
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
    ) -> io::Result<Rc<Snapshot<C>>> {
        let mut exceptions = Vec::new();
        let store =
            Persistent::open_read_only(cow, Some(self.origin_bytes), |it| exceptions.push(it));
        let store = AnyStore::Persistent(store.await.map_err(to_io)?);
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
    ) -> io::Result<Rc<Snapshot<C>>> {
        let store = AnyStore::Transient(Transient::new(cow, chunk_size));
        self.add(name, store, Vec::new(), options).await
    }

    /// Publishes what was written to a snapshot, as a flush of its device does.
    ///
    /// # Errors
    ///
    /// An error of the COW device.
    pub async fn publish(&self, snapshot: &Snapshot<C>) -> io::Result<()> {
        self.flush_snapshot(snapshot).await
    }

    /// Takes a snapshot out: everything written to it is published first, and origin writes no
    /// longer keep old data for it. Its store stays as it is.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] while it merges; an error of its COW device, and then it is
    /// out all the same.
    pub async fn remove(&self, snapshot: &Rc<Snapshot<C>>) -> io::Result<()> {
        self.refuse_merging(snapshot)?;
        let _nobody_writes = self.gate.close().await;
        self.write_back().await;
        self.snapshots.borrow_mut().retain(|other| !Rc::ptr_eq(other, snapshot));
        if self.merging_of(snapshot).is_some() {
            self.merging.take();
        }
        match snapshot.state() {
            State::Invalid => Ok(()),
            _ => self.flush_snapshot(snapshot).await,
        }
    }

    /// Drops a snapshot, durably and for good.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] while it merges: clients would lose what they see on the origin.
    /// An error of its COW device: then it is dropped in memory only.
    pub async fn invalidate(&self, snapshot: &Rc<Snapshot<C>>) -> io::Result<()> {
        let _nobody_writes = self.gate.close().await;
        self.refuse_merging(snapshot)?;
        snapshot.invalidate().await.map_err(to_io)
    }

    /// To be called about once a second: whoever waits for room in a store looks again, and its
    /// patience is counted in these calls.
    pub fn tick(&self) {
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

    /// Publishes and flushes everything: what was acknowledged before is durable afterwards.
    ///
    /// # Errors
    ///
    /// The first error; the others are flushed all the same.
    pub async fn flush_all(&self) -> io::Result<()> {
        let mut ended = self.flush_origin().await;
        for snapshot in self.snapshots() {
            if snapshot.state() != State::Invalid {
                ended = ended.and(self.flush_snapshot(&snapshot).await);
            }
        }
        ended
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

    fn refuse_merging(&self, snapshot: &Rc<Snapshot<C>>) -> io::Result<()> {
        match self.merging_of(snapshot).is_some_and(|merging| !merging.is_finished()) {
            true => Err(io::Error::new(io::ErrorKind::ResourceBusy, "the snapshot is merging")),
            false => Ok(()),
        }
    }

    fn merge_is_unfinished(&self) -> bool {
        self.merging.borrow().as_ref().is_some_and(|merging| !merging.is_finished())
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
            self.write_back().await;
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

/// What a client is told of a store's error.
fn to_io(error: StoreError) -> io::Error {
    match error {
        StoreError::Io { doing, source } => {
            io::Error::new(source.kind(), format!("{doing}: {source}"))
        }
        StoreError::ReadOnly => io::Error::new(io::ErrorKind::PermissionDenied, error.to_string()),
        StoreError::Full => io::Error::new(io::ErrorKind::StorageFull, "the store is full"),
        other => io::Error::other(other.to_string()),
    }
}
