use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};
use dmsnap_nbd::MAX_PAYLOAD_BYTES;
use futures_util::future::LocalBoxFuture;

use super::export::{is_askable, tidied};
use super::meter::Meter;
use super::{Context, Counts, Export, Extent, Kind};
use dmsnap::sync::{Event, Signal};

/// What a server serves. A clone is the same set; exports come and go while it is being served.
#[derive(Clone, Default)]
pub struct Exports(Rc<RefCell<Vec<Rc<Slot>>>>);

/// There is an export of that name, or no client could ask for it.
#[derive(Debug, PartialEq, Eq)]
pub struct DuplicateName;

impl std::fmt::Display for DuplicateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an export of that name is being served, or the name is not possible")
    }
}

impl std::error::Error for DuplicateName {}

impl Exports {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `export` from now on. The first one is also the default: clients get it that ask for
    /// the empty name, unless some export has that name.
    ///
    /// # Errors
    ///
    /// [`DuplicateName`]
    pub fn add<E: Export>(&self, export: E) -> Result<(), DuplicateName> {
        let mut exports = self.0.borrow_mut();
        let name = export.name();
        if !is_askable(name) || exports.iter().any(|slot| slot.target.name() == name) {
            return Err(DuplicateName);
        }
        exports.push(Rc::new(Slot::new(export)));
        Ok(())
    }

    /// Stops serving the export of that name. New clients no longer find it, at once; its
    /// connections are closed after the requests already read, with a flush. Returns when the last
    /// one is closed and the export dropped; false if there was none of that name.
    pub async fn remove(&self, name: &str) -> bool {
        let slot = {
            let mut exports = self.0.borrow_mut();
            match exports.iter().position(|slot| slot.target.name() == name) {
                Some(place) => exports.remove(place),
                None => return false,
            }
        };
        slot.removed.raise();
        slot.target.hurry();
        slot.left.until(|| (slot.users.get() == 0).then_some(())).await;
        true
    }

    /// The names in the order they were added.
    pub fn names(&self) -> Vec<String> {
        self.all().iter().map(|slot| slot.target.name().to_owned()).collect()
    }

    /// How each export is used, in the order they were added.
    pub fn uses(&self) -> Vec<Use> {
        let used = |slot: &Rc<Slot>| Use {
            name: slot.target.name().to_owned(),
            connections: slot.users.get(),
            counts: slot.meter.counts(),
        };
        self.0.borrow().iter().map(used).collect()
    }

    pub(super) fn all(&self) -> Vec<Rc<Slot>> {
        self.0.borrow().clone()
    }

    pub(super) fn find(&self, name: &str) -> Option<Rc<Slot>> {
        let exports = self.0.borrow();
        let named = exports.iter().find(|slot| slot.target.name() == name);
        let default = || exports.first().filter(|_| name.is_empty());
        named.or_else(default).cloned()
    }
}

/// How an export is used.
#[derive(Clone, Debug)]
pub struct Use {
    /// The export's name.
    pub name: String,
    /// Clients that have it now.
    pub connections: usize,
    /// What was asked of it since it was added, kind by kind as in [`Kind::ALL`].
    pub counts: [Counts; Kind::ALL.len()],
}

/// One export and what the server knows of it.
pub(super) struct Slot {
    pub(super) target: Box<dyn Target>,
    /// No longer served: connections end.
    pub(super) removed: Signal,
    pub(super) meter: Meter,
    /// Memory that requests of its clients have, in bytes.
    pub(super) in_flight: Rc<Cell<usize>>,
    users: Cell<usize>,
    left: Event,
    /// Something was written since the last flush began.
    dirty: Cell<bool>,
    /// A flush failed. What it should have made durable may be lost, and a later flush would
    /// succeed without saying so: so none may, unless the export sees to that itself.
    flush_failed: Cell<bool>,
}

impl Slot {
    fn new<E: Export>(export: E) -> Self {
        Self {
            target: Box::new(export),
            removed: Signal::default(),
            meter: Meter::default(),
            in_flight: Rc::default(),
            users: Cell::new(0),
            left: Event::default(),
            dirty: Cell::new(false),
            flush_failed: Cell::new(false),
        }
    }

    /// The size as it is told to clients.
    pub(super) fn size_bytes(&self) -> io::Result<u64> {
        self.target.len_bytes()
    }

    /// Makes everything durable that was written through this server.
    pub(super) async fn flush(&self) -> io::Result<()> {
        if self.flush_failed.get() {
            return Err(io::Error::other("an earlier flush failed: writes may be lost"));
        }
        self.dirty.set(false);
        let flushed = self.target.run(Work::Flush).await;
        if flushed.is_err() {
            self.dirty.set(true);
            self.flush_failed.set(!self.target.remembers_failed_flushes());
        }
        flushed.map(|_| ())
    }

    /// As [`flush`](Self::flush), if there is anything to flush.
    pub(super) async fn flush_if_dirty(&self) -> io::Result<()> {
        if self.dirty.get() || self.flush_failed.get() {
            return self.flush().await;
        }
        Ok(())
    }

    /// Does something that changes the device.
    pub(super) async fn change(&self, work: Work, fua: bool) -> io::Result<()> {
        let done = self.target.run(work).await;
        self.dirty.set(true);
        done?;
        if fua { self.flush().await } else { Ok(()) }
    }
}

/// The use of an export by one connection.
pub(super) struct Lease(Rc<Slot>);

impl Lease {
    pub(super) fn new(slot: Rc<Slot>) -> Self {
        slot.users.set(slot.users.get() + 1);
        Self(slot)
    }

    pub(super) fn slot(&self) -> &Rc<Slot> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.set(self.0.users.get() - 1);
        self.0.left.notify();
    }
}

/// What an export can be asked to do.
pub(super) enum Work {
    Read { at: u64, len: usize },
    Write { at: u64, pieces: Vec<Bytes> },
    WriteMany(Vec<(u64, Bytes)>),
    Discard { at: u64, len: u64 },
    Zero { at: u64, len: u64, allocation: Allocation },
    Flush,
    Status { context: Context, range: Range<u64>, most: usize },
}

/// What came of it.
pub(super) enum Done {
    Nothing,
    Data(Buffer),
    Extents(Vec<Extent>),
}

/// Any [`Export`]: one set can hold exports of different types.
pub(super) trait Target {
    fn name(&self) -> &str;
    fn hurry(&self);
    fn description(&self) -> Option<String>;
    fn read_only(&self) -> bool;
    fn has_fast_zeroes(&self) -> bool;
    fn remembers_failed_flushes(&self) -> bool;
    fn joins_writes(&self) -> bool;
    fn contexts(&self) -> Vec<Context>;
    fn len_bytes(&self) -> io::Result<u64>;
    fn preferred_block_bytes(&self) -> u32;
    fn run(&self, work: Work) -> LocalBoxFuture<'_, io::Result<Done>>;
}

impl<E: Export> Target for E {
    fn name(&self) -> &str {
        Export::name(self)
    }

    fn hurry(&self) {
        Export::hurry(self);
    }

    fn description(&self) -> Option<String> {
        Export::description(self)
    }

    fn read_only(&self) -> bool {
        Export::read_only(self)
    }

    fn has_fast_zeroes(&self) -> bool {
        Export::has_fast_zeroes(self)
    }

    fn remembers_failed_flushes(&self) -> bool {
        Export::remembers_failed_flushes(self)
    }

    fn joins_writes(&self) -> bool {
        Export::joins_writes(self)
    }

    fn contexts(&self) -> Vec<Context> {
        Export::contexts(self)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.device().len_bytes()
    }

    fn preferred_block_bytes(&self) -> u32 {
        Export::preferred_block_bytes(self).clamp(4096, MAX_PAYLOAD_BYTES)
    }

    fn run(&self, work: Work) -> LocalBoxFuture<'_, io::Result<Done>> {
        Box::pin(async move {
            let device = self.device();
            match work {
                Work::Read { at, len } => return device.read(at, len).await.map(Done::Data),
                Work::Write { at, mut pieces } => match pieces.pop() {
                    Some(only) if pieces.is_empty() => device.write(at, only).await?,
                    last => {
                        pieces.extend(last);
                        device.write_vectored(at, pieces).await?;
                    }
                },
                Work::WriteMany(writes) => device.write_many(writes).await?,
                Work::Discard { at, len } => match device.discard(at, len).await {
                    // A client only says that it no longer needs the range.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                    other => other?,
                },
                Work::Zero { at, len, allocation } => {
                    device.write_zeroes(at, len, allocation).await?;
                }
                Work::Flush => device.flush().await?,
                Work::Status { context, range, most } => {
                    let extents = self.block_status(&context, range.clone(), most).await?;
                    return tidied(extents, &range, most).map(Done::Extents);
                }
            }
            Ok(Done::Nothing)
        })
    }
}
