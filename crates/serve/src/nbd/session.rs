use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dmsnap::device::Allocation;
use dmsnap::sync::Event;
use dmsnap_nbd::{Chunk, Command, Errno, Facts, Reply, SECTOR_BYTES, STATUS_EXTENTS};

use super::contexts;
use super::limits::{len_usize, memory_of};
use super::outbox::Outbox;
use super::transport::Transport;
use crate::budget::{Budget, Permit};
use crate::export::{self, Lease, Slot, StatusKind};

/// What server and client agreed on.
pub(super) struct Agreed {
    pub(super) lease: Lease,
    /// The size that the client was given, in bytes.
    pub(super) promised_bytes: u64,
    /// Structured replies.
    pub(super) structured: bool,
    /// Metadata contexts the client wants to hear about, and what stands for them in replies.
    pub(super) contexts: Vec<(u32, StatusKind)>,
}

/// One connection in transmission.
pub(super) struct Session {
    agreed: Agreed,
    pub(super) outbox: Outbox,
    /// Requests that a device works on.
    running: Cell<usize>,
    ended: Event,
    /// The client has announced a payload that is not here yet.
    pub(super) receiving: Cell<bool>,
}

impl Session {
    pub(super) fn new(agreed: Agreed) -> Rc<Self> {
        Rc::new(Self {
            agreed,
            outbox: Outbox::default(),
            running: Cell::new(0),
            ended: Event::default(),
            receiving: Cell::new(false),
        })
    }

    pub(super) fn slot(&self) -> &Rc<Slot> {
        self.agreed.lease.slot()
    }

    /// What a request has to fit.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            size_bytes: self.agreed.promised_bytes,
            read_only: self.agreed.lease.read_only(),
            structured: self.agreed.structured,
            has_contexts: !self.agreed.contexts.is_empty(),
        }
    }

    /// The memory a request may take, in bytes.
    pub(super) fn cost(&self, command: Command) -> usize {
        match command {
            Command::Read { len, .. } | Command::Write { len, .. } => memory_of(len),
            Command::BlockStatus { one: false, .. } => {
                // Once in the export's answer, once in the reply. Never more than one payload.
                let most = len_usize(dmsnap_nbd::MAX_PAYLOAD_BYTES);
                (self.agreed.contexts.len() * STATUS_EXTENTS * (16 + 8)).min(most)
            }
            _ => 0,
        }
    }

    /// Returns when the client has kept others waiting for memory for too long, by not sending what it
    /// announced or not receiving what it asked for.
    pub(super) async fn stalled(&self, transport: &Transport, stall: Duration, budget: &Budget) {
        let is_idle = || self.receiving.get() || self.outbox.is_waiting();
        loop {
            let before = transport.moved_bytes();
            let was_idle = is_idle();
            compio::time::sleep(stall).await;
            if was_idle
                && is_idle()
                && transport.moved_bytes() == before
                && budget.keeps_others_waiting()
            {
                return;
            }
        }
    }

    /// Returns when no device works on a request any more.
    pub(super) async fn all_ended(&self) {
        self.ended.wait_until(|| self.running.get() == 0).await;
    }

    /// Does a request. What comes back is to be told besides success.
    pub(super) async fn run(
        &self,
        command: Command,
        payload: Vec<Bytes>,
    ) -> io::Result<Vec<Chunk>> {
        let request = match command {
            Command::Read { at, len } if len > 0 => {
                let read = export::Request::Read { at, len: len_usize(len) };
                return Ok(match self.slot().run(read).await? {
                    export::Reply::Data(data) => vec![Chunk::Data { at, data: data.freeze() }],
                    _ => Vec::new(),
                });
            }
            Command::Write { at, len, fua } if len > 0 => {
                export::Request::Write { at, pieces: payload, durable: fua }
            }
            Command::Trim { at, len, fua } => {
                // A sector is given back whole or not at all.
                let end = at + u64::from(len);
                let (at, whole) =
                    (at.next_multiple_of(SECTOR_BYTES), end / SECTOR_BYTES * SECTOR_BYTES);
                let end = if end == self.agreed.promised_bytes { end } else { whole };
                if at >= end {
                    return Ok(Vec::new());
                }
                export::Request::Discard { at, len: end - at, durable: fua }
            }
            Command::WriteZeroes { fast: true, .. } => {
                let why = "zeroing may be as slow as writing";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            Command::WriteZeroes { at, len, fua, keep, .. } if len > 0 => {
                let allocation = if keep { Allocation::Keep } else { Allocation::MayPunch };
                export::Request::WriteZeroes { at, len: len.into(), allocation, durable: fua }
            }
            Command::Flush => export::Request::Flush,
            Command::BlockStatus { at, len, one } => return self.status(at, len, one).await,
            _ => return Ok(Vec::new()),
        };
        self.slot().run(request).await.map(|_| Vec::new())
    }

    async fn status(&self, at: u64, len: u32, one: bool) -> io::Result<Vec<Chunk>> {
        let most = if one { 1 } else { STATUS_EXTENTS };
        let mut chunks = Vec::new();
        for (id, kind) in &self.agreed.contexts {
            let range = at..at + u64::from(len);
            let request = export::Request::Status { kind: kind.clone(), range, most };
            if let export::Reply::Extents(extents) = self.slot().run(request).await? {
                chunks.push(Chunk::Status { context: *id, extents: contexts::told(extents) });
            }
        }
        Ok(chunks)
    }

    /// Queues the reply to a request that went well.
    pub(super) fn succeed(&self, cookie: u64, mut chunks: Vec<Chunk>, permit: Permit) {
        let reply = if self.agreed.structured {
            if chunks.is_empty() {
                chunks.push(Chunk::None);
            }
            Reply::structured(cookie, chunks)
        } else {
            let data = match chunks.pop() {
                Some(Chunk::Data { data, .. }) => Some(data),
                _ => None,
            };
            Reply::simple(cookie, None, data)
        };
        self.outbox.push(reply, permit);
    }

    /// Queues the reply to a request that did not.
    pub(super) fn fail(&self, cookie: u64, errno: Errno, why: String, permit: Permit) {
        let reply = match self.agreed.structured {
            true => Reply::structured(cookie, vec![Chunk::Error(errno, why)]),
            false => Reply::simple(cookie, Some(errno), None),
        };
        self.outbox.push(reply, permit);
    }
}

/// A request that a device works on.
pub(super) struct Running(Rc<Session>);

impl Running {
    pub(super) fn new(session: &Rc<Session>) -> Self {
        session.running.set(session.running.get() + 1);
        Self(session.clone())
    }

    pub(super) fn session(&self) -> &Rc<Session> {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify();
    }
}
