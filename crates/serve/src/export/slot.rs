use std::cell::Cell;
use std::io;
use std::rc::Rc;

use dmsnap::sync::{Event, Signal};

use super::interface::Export;
use super::meter::Meter;
use super::request::{Reply, Request};
use super::target::Target;

/// One export and what is known of its use.
pub(crate) struct Slot {
    pub(crate) target: Box<dyn Target>,
    pub(crate) read_only: bool,
    /// No longer served: connections end.
    pub(crate) removed: Signal,
    pub(crate) meter: Meter,
    /// Memory that requests of its clients have, in bytes.
    pub(crate) in_flight: Rc<Cell<usize>>,
    users: Cell<usize>,
    left: Event,
    /// Something was written since the last flush began, or since one that failed.
    dirty: Cell<bool>,
}

impl Slot {
    pub(super) fn new<E: Export>(export: E) -> Self {
        Self {
            read_only: export.read_only(),
            target: Box::new(export),
            removed: Signal::default(),
            meter: Meter::default(),
            in_flight: Rc::default(),
            users: Cell::new(0),
            left: Event::default(),
            dirty: Cell::new(false),
        }
    }

    /// The size that clients are given.
    pub(crate) fn size_bytes(&self) -> io::Result<u64> {
        self.target.len_bytes()
    }

    /// Clients that have it now.
    pub(super) fn users(&self) -> usize {
        self.users.get()
    }

    /// Makes everything durable that was written through this export, if there is anything.
    pub(crate) async fn flush_if_dirty(&self) -> io::Result<()> {
        if self.dirty.get() { self.flush().await } else { Ok(()) }
    }

    /// Does what is asked. What changes the export must be driven to its end.
    pub(crate) async fn run(&self, request: Request) -> io::Result<Reply> {
        let durable = match request {
            Request::Read { .. } | Request::Status { .. } => return self.target.run(request).await,
            // A client that may not write has nothing to flush.
            Request::Flush if self.read_only => return Ok(Reply::Done),
            Request::Flush => return self.flush().await.map(|()| Reply::Done),
            _ if self.read_only => return Err(io::ErrorKind::PermissionDenied.into()),
            Request::Write { durable, .. }
            | Request::Discard { durable, .. }
            | Request::WriteZeroes { durable, .. } => durable,
            Request::WriteMany(_) => false,
        };
        let done = self.target.run(request).await;
        self.dirty.set(true);
        if durable && done.is_ok() {
            self.flush().await?;
        }
        done
    }

    async fn flush(&self) -> io::Result<()> {
        self.dirty.set(false);
        let flushed = self.target.run(Request::Flush).await;
        if flushed.is_err() {
            self.dirty.set(true);
        }
        flushed.map(|_| ())
    }

    /// Takes it away. Returns when nobody has it any more.
    pub(super) async fn remove(&self) {
        self.removed.raise();
        self.target.stop_waiting_for_room();
        self.left.wait_until(|| self.users.get() == 0).await;
    }
}

/// The use of an export by one client; it ends when dropped.
pub struct Lease(Rc<Slot>);

impl Lease {
    pub(crate) fn new(slot: Rc<Slot>) -> Self {
        slot.users.set(slot.users.get() + 1);
        Self(slot)
    }

    pub(crate) fn slot(&self) -> &Rc<Slot> {
        &self.0
    }

    /// The export's name.
    pub fn name(&self) -> &str {
        self.0.target.name()
    }

    /// Are writes refused?
    pub fn read_only(&self) -> bool {
        self.0.read_only
    }

    /// The export's size.
    ///
    /// # Errors
    ///
    /// An error of the device when asked for its size.
    pub fn size_bytes(&self) -> io::Result<u64> {
        self.0.size_bytes()
    }

    /// Does what is asked. The future of a request that changes something must be driven to its end.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] for a change of an export that is read-only; any error of the
    /// device.
    pub async fn run(&self, request: Request) -> io::Result<Reply> {
        self.0.run(request).await
    }

    /// Returns when the export is no longer served: the client has to be sent away and the lease dropped.
    pub async fn removed(&self) {
        self.0.removed.wait().await;
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.name()).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.set(self.0.users.get() - 1);
        self.0.left.notify();
    }
}
