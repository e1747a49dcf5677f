use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmsnap::device::{ALIGNMENT, Allocation};
use dmsnap_nbd::{
    Chunk, Command, Errno, Facts, REQUEST_LEN, Reply, Request, SECTOR_BYTES, STATUS_EXTENTS,
};
use futures_util::future::select;

use super::Limits;
use super::budget::{Budget, Memory, Permit};
use super::exports::{Done, Slot, Work};
use super::handshake::Agreed;
use super::outbox::Outbox;
use super::reader::{PIECE_BYTES, Reader};
use super::together::Together;
use super::transport::Transport;
use dmsnap::sync::Event;

/// Serves requests until the client leaves or `stop` says so. Returns when every request that was
/// read whole is done, its reply sent (or the client found not to read it), and everything written
/// is durable.
pub(super) async fn transmission(
    mut reader: Reader,
    agreed: Agreed,
    (limits, memory): (Limits, &Rc<Memory>),
    stop: impl Future<Output = ()>,
) {
    let transport = reader.transport().clone();
    let sending_to = transport.clone();
    let session = Rc::new(Session {
        agreed,
        outbox: Outbox::default(),
        running: Cell::new(0),
        ended: Event::default(),
        receiving: Cell::new(false),
    });
    let sender = session.clone();
    let sending = compio::runtime::spawn(async move { sender.outbox.drain_to(&sending_to).await });
    {
        let of_export = session.agreed.lease.slot().in_flight.clone();
        let bytes = limits.in_flight_bytes();
        let budget = Budget::new(limits.requests, bytes, memory.clone(), of_export);
        let requests = pin!(read_requests(&mut reader, &session, &budget));
        let stalled = pin!(session.stalled(&transport, limits.stall, &budget));
        let removed = pin!(session.agreed.lease.slot().removed.wait());
        let stop = pin!(stop);
        let stopped = select(select(stop, removed), stalled);
        // What is dropped here waits for a socket or a permit, never for a device. An error means
        // that the client is gone or talks nonsense: there is nobody to tell.
        let _ = select(requests, stopped).await;
    }
    session.ended.until(|| (session.running.get() == 0).then_some(())).await;
    // A failure stays with the export: every later flush fails, too.
    let _ = session.agreed.lease.slot().flush_if_dirty().await;
    session.outbox.close();
    let _ = compio::time::timeout(limits.grace, sending).await;
}

/// One connection in transmission.
pub(super) struct Session {
    agreed: Agreed,
    outbox: Outbox,
    /// Requests that a device works on.
    running: Cell<usize>,
    ended: Event,
    /// The client has announced a payload that is not here yet.
    receiving: Cell<bool>,
}

/// A request, with all that it needs to be done and answered.
pub(super) struct Asked {
    running: Running,
    cookie: u64,
    command: Command,
    /// What a write brings.
    payload: Vec<Bytes>,
    permit: Permit,
}

impl Asked {
    /// What it writes, and where.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut at = match self.command {
            Command::Write { at, .. } => at,
            _ => 0,
        };
        self.payload.iter().map(move |piece| {
            let here = at;
            at += piece.len() as u64;
            (here, piece.clone())
        })
    }

    /// It has ended: counts it and queues its reply.
    pub(super) fn answer(self, begun: Instant, ended: io::Result<Vec<Chunk>>) {
        let Self { running, cookie, command, permit, .. } = self;
        let session = &running.0;
        session.slot().meter.count(command, begun.elapsed(), ended.is_err());
        let reply = match ended {
            Ok(chunks) => session.success(cookie, chunks),
            Err(error) => session.failure(cookie, Errno::from(&error), error.to_string()),
        };
        session.outbox.push(reply, permit);
    }
}

/// A request that a device works on.
struct Running(Rc<Session>);

impl Running {
    fn new(session: &Rc<Session>) -> Self {
        session.running.set(session.running.get() + 1);
        Self(session.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify();
    }
}

/// Reads requests and sets them going; returns when the client leaves.
async fn read_requests(
    reader: &mut Reader,
    session: &Rc<Session>,
    budget: &Rc<Budget>,
) -> io::Result<()> {
    let agreed = &session.agreed;
    let facts = Facts {
        size_bytes: agreed.size_bytes,
        read_only: agreed.lease.slot().target.read_only(),
        structured: agreed.structured,
        has_contexts: !agreed.contexts.is_empty(),
    };
    let mut together = Together::new(session);
    loop {
        if !reader.has(REQUEST_LEN) {
            // Nothing more to do at once: what is done leaves in one call.
            together.begin();
            session.outbox.send_now(reader.transport());
        }
        let Some(bytes) = reader.message().await? else { return Ok(()) };
        let Some(request) = Request::decode(bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no request magic"));
        };
        let command = match request.understand(facts) {
            Ok(Command::Disconnect) => return Ok(()),
            Ok(command) => command,
            Err((errno, why)) => {
                together.begin();
                reader.skip(request.payload_bytes().into()).await?;
                let permit = budget.take(0).await;
                session.outbox.push(session.failure(request.cookie, errno, why.into()), permit);
                continue;
            }
        };
        let cost = session.cost(command);
        let is_small_write = together.takes(command);
        // What is held back for company waits for nothing else.
        let is_here = matches!(command, Command::Write { len, .. } if reader.has(len_usize(len)));
        if !is_small_write || !is_here || !budget.has(cost) {
            together.begin();
        }
        let permit = budget.take(cost).await;
        let payload = match command {
            Command::Write { len, .. } => {
                session.receiving.set(true);
                let payload = reader.payload(len_usize(len)).await?;
                session.receiving.set(false);
                payload
            }
            _ => Vec::new(),
        };
        let running = Running::new(session);
        let asked = Asked { running, cookie: request.cookie, command, payload, permit };
        match is_small_write {
            true => together.push(asked),
            false => begin(serve(asked)),
        }
    }
}

/// Begins a request. Most are done at once, out of memory; the others go on as tasks.
pub(super) fn begin(request: impl Future<Output = ()> + 'static) {
    let mut request = Box::pin(request);
    // Nobody is woken by this first look: the task takes a second one in any case.
    let mut context = Context::from_waker(Waker::noop());
    if request.as_mut().poll(&mut context).is_pending() {
        // Detached: what writes goes on whatever becomes of the connection.
        compio::runtime::spawn(request).detach();
    }
}

/// Does one request and queues the reply.
pub(super) async fn serve(mut asked: Asked) {
    let begun = Instant::now();
    let payload = std::mem::take(&mut asked.payload);
    let ended = asked.running.0.run(asked.command, payload).await;
    asked.answer(begun, ended);
}

impl Session {
    pub(super) fn slot(&self) -> &Rc<Slot> {
        self.agreed.lease.slot()
    }

    /// The memory a request may take, in bytes.
    fn cost(&self, command: Command) -> usize {
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
    async fn stalled(&self, transport: &Transport, stall: Duration, budget: &Budget) {
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

    /// What there is to tell besides success.
    async fn run(&self, command: Command, payload: Vec<Bytes>) -> io::Result<Vec<Chunk>> {
        let slot = self.slot();
        match command {
            Command::Read { at, len } if len > 0 => {
                let read = Work::Read { at, len: len_usize(len) };
                if let Done::Data(data) = slot.target.run(read).await? {
                    return Ok(vec![Chunk::Data { at, data: data.freeze() }]);
                }
            }
            Command::Write { at, len, fua } if len > 0 => {
                slot.change(Work::Write { at, pieces: payload }, fua).await?;
            }
            Command::Trim { at, len, fua } => {
                // A sector is given back whole or not at all.
                let end = at + u64::from(len);
                let (at, whole) =
                    (at.next_multiple_of(SECTOR_BYTES), end / SECTOR_BYTES * SECTOR_BYTES);
                let end = if end == self.agreed.size_bytes { end } else { whole };
                if at < end {
                    slot.change(Work::Discard { at, len: end - at }, fua).await?;
                }
            }
            Command::WriteZeroes { fast: true, .. } if !slot.target.has_fast_zeroes() => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "zeroing may be as slow as writing",
                ));
            }
            Command::WriteZeroes { at, len, fua, keep, .. } if len > 0 => {
                let allocation = if keep { Allocation::Keep } else { Allocation::MayPunch };
                slot.change(Work::Zero { at, len: len.into(), allocation }, fua).await?;
            }
            // Whoever may not write has nothing to flush.
            Command::Flush if !slot.target.read_only() => slot.flush().await?,
            Command::BlockStatus { at, len, one } => return self.status(at, len, one).await,
            _ => {}
        }
        Ok(Vec::new())
    }

    async fn status(&self, at: u64, len: u32, one: bool) -> io::Result<Vec<Chunk>> {
        let most = if one { 1 } else { STATUS_EXTENTS };
        let mut chunks = Vec::new();
        for (id, context) in &self.agreed.contexts {
            let range = at..at + u64::from(len);
            let work = Work::Status { context: context.clone(), range, most };
            if let Done::Extents(extents) = self.slot().target.run(work).await? {
                chunks.push(Chunk::Status { context: *id, extents });
            }
        }
        Ok(chunks)
    }

    fn success(&self, cookie: u64, mut chunks: Vec<Chunk>) -> Reply {
        if self.agreed.structured {
            if chunks.is_empty() {
                chunks.push(Chunk::None);
            }
            return Reply::structured(cookie, chunks);
        }
        let data = match chunks.pop() {
            Some(Chunk::Data { data, .. }) => Some(data),
            _ => None,
        };
        Reply::simple(cookie, None, data)
    }

    fn failure(&self, cookie: u64, errno: Errno, why: String) -> Reply {
        match self.agreed.structured {
            true => Reply::structured(cookie, vec![Chunk::Error(errno, why)]),
            false => Reply::simple(cookie, Some(errno), None),
        }
    }
}

/// The memory that a payload takes, in bytes: it lies in pieces that are aligned for direct I/O.
pub(super) fn memory_of(len: u32) -> usize {
    let len = len_usize(len);
    len + len.div_ceil(PIECE_BYTES) * ALIGNMENT
}

fn len_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
