//! A window of requests on one connection. What may go out goes out in one system call, what has
//! come in is taken in one: the client costs little, and the same whatever the server is.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dmsnap_nbd::client::{Event, RequestId};
use dmsnap_nbd::{Command, REQUEST_LEN};

use crate::client::{Connection, invalid};
use crate::order::Order;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Read blocks.
    Read,
    /// Write blocks; each begins with its own position.
    Write,
    /// Read blocks that were written so, and look whether they were.
    Verify,
}

/// Which requests, how many at a time.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What each request does.
    pub kind: Kind,
    /// Where the next one goes.
    pub order: Order,
    /// Which of the orders.
    pub seed: u64,
    /// The first block of the order that is used.
    pub first: u64,
    /// Blocks lie below this, in bytes.
    pub span_bytes: u64,
    /// Of every request, in bytes.
    pub block_bytes: u32,
    /// Most in flight.
    pub depth: usize,
    /// After this many requests all of them are waited for, and a flush follows; 0: never.
    pub flush_every: u64,
    /// A last flush belongs to the work: what was acknowledged from memory is written then.
    pub flush_last: bool,
    /// End after this many requests,
    pub count: u64,
    /// or after this time.
    pub time: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests answered, without flushes.
    pub requests: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of each request, in nanoseconds, from being sent to being answered.
    pub latencies: Vec<u32>,
}

/// Sends it all and waits for all answers.
///
/// # Errors
///
/// What the connection says, an error the server answers, or wrong data.
pub fn run(connection: &mut Connection, plan: &Plan) -> io::Result<Outcome> {
    let mut window = Window::new(*plan);
    let begin = Instant::now();
    window.begin = begin;
    loop {
        window.send(connection)?;
        if connection.requests.in_flight() == 0 {
            break;
        }
        window.take(connection)?;
    }
    window.outcome.elapsed = begin.elapsed();
    Ok(window.outcome)
}

/// One request in flight.
#[derive(Clone, Copy)]
struct Sent {
    offset: u64,
    at: Instant,
    /// What the block that was read begins with.
    begin: [u8; 8],
}

impl Sent {
    /// Some of the block has come.
    fn see(&mut self, at: u64, bytes: &[u8]) {
        let skipped = usize::try_from(at - self.offset).unwrap_or(usize::MAX);
        let left = self.begin.get_mut(skipped..).unwrap_or_default();
        let len = left.len().min(bytes.len());
        left[..len].copy_from_slice(&bytes[..len]);
    }
}

struct Window {
    plan: Plan,
    begin: Instant,
    /// By the slots of the requests, as the payloads.
    sent: Vec<Sent>,
    payloads: Vec<Vec<u8>>,
    next: u64,
    unflushed: u64,
    flushing: Option<RequestId>,
    outcome: Outcome,
}

impl Window {
    fn new(plan: Plan) -> Self {
        let now = Instant::now();
        let payload = match plan.kind {
            Kind::Write => vec![0xA5; plan.block_bytes as usize],
            _ => Vec::new(),
        };
        Self {
            plan,
            begin: now,
            sent: vec![Sent { offset: 0, at: now, begin: [0; 8] }; plan.depth],
            payloads: vec![payload; plan.depth],
            next: 0,
            unflushed: 0,
            flushing: None,
            outcome: Outcome::default(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.next >= self.plan.count
            || self.plan.time.is_some_and(|time| now.duration_since(self.begin) >= time)
    }

    /// Sends what the window has room for.
    fn send(&mut self, connection: &mut Connection) -> io::Result<()> {
        let now = Instant::now();
        let mut headers = Vec::new();
        let mut places = Vec::new();
        let depth = self.plan.depth;
        while self.flushing.is_none()
            && !self.wants_flush()
            && !self.is_over(now)
            && connection.requests.in_flight() < depth
        {
            let (id, header) = self.request(connection, now)?;
            headers.push(header);
            places.push(id.slot());
        }
        let last = self.plan.flush_last && self.unflushed > 0 && self.is_over(now);
        if (self.wants_flush() || last) && connection.requests.in_flight() == 0 {
            let (id, header) = connection.requests.begin(Command::Flush).map_err(invalid)?;
            headers.push(header);
            self.flushing = Some(id);
        }
        let mut slices = Vec::with_capacity(2 * headers.len());
        for (index, header) in headers.iter().enumerate() {
            slices.push(IoSlice::new(header));
            if self.plan.kind == Kind::Write
                && let Some(place) = places.get(index)
            {
                slices.push(IoSlice::new(&self.payloads[*place]));
            }
        }
        write_all(&mut connection.stream, &mut slices)
    }

    fn wants_flush(&self) -> bool {
        self.plan.flush_every > 0 && self.unflushed >= self.plan.flush_every
    }

    fn request(
        &mut self,
        connection: &mut Connection,
        now: Instant,
    ) -> io::Result<(RequestId, [u8; REQUEST_LEN])> {
        let plan = &self.plan;
        let len = plan.block_bytes;
        let blocks = plan.span_bytes / u64::from(len);
        let block = plan.order.block(plan.first + self.next, blocks, plan.seed);
        let at = block * u64::from(len);
        let command = match plan.kind {
            Kind::Write => Command::Write { at, len, fua: false },
            Kind::Read | Kind::Verify => Command::Read { at, len },
        };
        let (id, header) = connection.requests.begin(command).map_err(invalid)?;
        if plan.kind == Kind::Write {
            self.payloads[id.slot()][..8].copy_from_slice(&stamp(at));
        }
        self.sent[id.slot()] = Sent { offset: at, at: now, begin: [0; 8] };
        self.next += 1;
        self.unflushed += 1;
        Ok((id, header))
    }

    /// Waits for at least one answer and takes all that are there.
    fn take(&mut self, connection: &mut Connection) -> io::Result<()> {
        loop {
            connection.receive()?;
            let now = Instant::now();
            let mut taken = false;
            while let Some(event) = connection.requests.next().map_err(invalid)? {
                match event {
                    Event::Data { id, at, bytes } if self.plan.kind == Kind::Verify => {
                        self.sent[id.slot()].see(at, bytes);
                    }
                    Event::Done { id, result } => {
                        result.map_err(invalid)?;
                        self.done(id, now)?;
                        taken = true;
                    }
                    _ => {}
                }
            }
            if taken {
                return Ok(());
            }
        }
    }

    fn done(&mut self, id: RequestId, now: Instant) -> io::Result<()> {
        if self.flushing.take_if(|flush| *flush == id).is_some() {
            self.unflushed = 0;
            self.outcome.flushes += 1;
            return Ok(());
        }
        let sent = self.sent[id.slot()];
        if self.plan.kind == Kind::Verify && sent.begin != stamp(sent.offset) {
            return Err(invalid(format!("wrong data at {}", sent.offset)));
        }
        let nanos = now.duration_since(sent.at).as_nanos();
        self.outcome.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
        self.outcome.requests += 1;
        Ok(())
    }
}

/// What the first bytes of the block at `offset` say.
pub fn stamp(offset: u64) -> [u8; 8] {
    (offset | 1 << 60).to_le_bytes()
}

fn write_all(stream: &mut UnixStream, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        // The system takes no more pieces than this at a time.
        let most = slices.len().min(1024);
        let sent = stream.write_vectored(&slices[..most])?;
        IoSlice::advance_slices(&mut slices, sent);
    }
    Ok(())
}
