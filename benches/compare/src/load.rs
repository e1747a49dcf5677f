//! A window of requests on one connection. What may go out goes out in one system call, what has
//! come in is taken in one: the client costs little, and the same whatever the server is.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dmsnap_serve::nbd::codec::{Request, SIMPLE_REPLY_MAGIC, command};

use crate::order::Order;

/// Cookie of a flush; those of other requests are places in the window.
const FLUSH: u64 = u64::MAX;

/// Length of a simple reply without data, in bytes.
const REPLY_LEN: usize = 16;

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
    /// After so many requests all of them are waited for, and a flush follows; 0: never.
    pub flush_every: u64,
    /// A last flush belongs to the work: what was acknowledged from memory is written then.
    pub flush_last: bool,
    /// End after so many requests,
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
pub fn run(stream: &mut UnixStream, plan: &Plan) -> io::Result<Outcome> {
    let mut window = Window::new(*plan);
    let mut replies = Replies::new(plan.block_bytes);
    let begin = Instant::now();
    window.begin = begin;
    loop {
        window.send(stream)?;
        if window.in_flight == 0 {
            break;
        }
        window.take(&mut replies, stream)?;
    }
    window.outcome.elapsed = begin.elapsed();
    Ok(window.outcome)
}

/// One request in flight.
#[derive(Clone, Copy)]
struct Sent {
    offset: u64,
    at: Instant,
}

struct Window {
    plan: Plan,
    begin: Instant,
    sent: Vec<Sent>,
    free: VecDeque<usize>,
    payloads: Vec<Vec<u8>>,
    in_flight: usize,
    next: u64,
    unflushed: u64,
    flushing: bool,
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
            sent: vec![Sent { offset: 0, at: now }; plan.depth],
            free: (0..plan.depth).collect(),
            payloads: vec![payload; plan.depth],
            in_flight: 0,
            next: 0,
            unflushed: 0,
            flushing: false,
            outcome: Outcome::default(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.next >= self.plan.count
            || self.plan.time.is_some_and(|time| now.duration_since(self.begin) >= time)
    }

    /// Sends what the window has room for.
    fn send(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        let now = Instant::now();
        let mut requests = Vec::new();
        let mut places = Vec::new();
        while !self.flushing && !self.wants_flush() && !self.is_over(now) {
            let Some(place) = self.free.pop_front() else { break };
            requests.push(self.request(place, now).encode());
            places.push(place);
        }
        let last = self.plan.flush_last && self.unflushed > 0 && self.is_over(now);
        if (self.wants_flush() || last) && self.in_flight == 0 && !self.flushing {
            let flush =
                Request { flags: 0, command: command::FLUSH, cookie: FLUSH, offset: 0, len: 0 };
            requests.push(flush.encode());
            self.flushing = true;
            self.in_flight += 1;
        }
        let mut slices = Vec::with_capacity(2 * requests.len());
        for (index, request) in requests.iter().enumerate() {
            slices.push(IoSlice::new(request));
            if self.plan.kind == Kind::Write
                && let Some(place) = places.get(index)
            {
                slices.push(IoSlice::new(&self.payloads[*place]));
            }
        }
        write_all(stream, &mut slices)
    }

    fn wants_flush(&self) -> bool {
        self.plan.flush_every > 0 && self.unflushed >= self.plan.flush_every
    }

    fn request(&mut self, place: usize, now: Instant) -> Request {
        let plan = &self.plan;
        let len = plan.block_bytes;
        let blocks = plan.span_bytes / u64::from(len);
        let block = plan.order.block(plan.first + self.next, blocks, plan.seed);
        let offset = block * u64::from(len);
        if plan.kind == Kind::Write {
            self.payloads[place][..8].copy_from_slice(&stamp(offset));
        }
        let command = if plan.kind == Kind::Write { command::WRITE } else { command::READ };
        self.sent[place] = Sent { offset, at: now };
        self.next += 1;
        self.unflushed += 1;
        self.in_flight += 1;
        Request { flags: 0, command, cookie: place as u64, offset, len }
    }

    /// Waits for at least one answer and takes all that are there.
    fn take(&mut self, replies: &mut Replies, stream: &mut UnixStream) -> io::Result<()> {
        let reads = self.plan.kind != Kind::Write;
        loop {
            replies.receive(stream)?;
            let now = Instant::now();
            let mut taken = false;
            while let Some((cookie, data)) = replies.next(reads)? {
                taken = true;
                self.in_flight -= 1;
                if cookie == FLUSH {
                    self.flushing = false;
                    self.unflushed = 0;
                    self.outcome.flushes += 1;
                    continue;
                }
                let place = usize::try_from(cookie).unwrap_or(usize::MAX);
                let sent = self.sent.get(place).ok_or_else(|| wrong("a cookie never sent"))?;
                if self.plan.kind == Kind::Verify && data[..8] != stamp(sent.offset) {
                    return Err(wrong(&format!("wrong data at {}", sent.offset)));
                }
                let nanos = now.duration_since(sent.at).as_nanos();
                self.outcome.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
                self.outcome.requests += 1;
                self.free.push_back(place);
            }
            if taken {
                return Ok(());
            }
        }
    }
}

/// What the first bytes of the block at `offset` say.
pub fn stamp(offset: u64) -> [u8; 8] {
    (offset | 1 << 60).to_le_bytes()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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

/// Answers as they come in.
struct Replies {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    block_bytes: usize,
}

impl Replies {
    fn new(block_bytes: u32) -> Self {
        let block_bytes = block_bytes as usize;
        let room = (2 * (REPLY_LEN + block_bytes)).max(256 << 10);
        Self { buffer: vec![0; room], start: 0, end: 0, block_bytes }
    }

    fn receive(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < REPLY_LEN + self.block_bytes {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match stream.read(&mut self.buffer[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            received => {
                self.end += received;
                Ok(())
            }
        }
    }

    /// The next answer that is there as a whole: its cookie and its data.
    fn next(&mut self, reads: bool) -> io::Result<Option<(u64, &[u8])>> {
        let here = &self.buffer[self.start..self.end];
        let Some((head, rest)) = here.split_first_chunk::<REPLY_LEN>() else { return Ok(None) };
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| head[at + n]));
        if word(0) != SIMPLE_REPLY_MAGIC {
            return Err(wrong("no simple reply"));
        }
        if word(4) != 0 {
            return Err(wrong(&format!("the server answers error {}", word(4))));
        }
        let cookie = u64::from(word(8)) << 32 | u64::from(word(12));
        let len = if reads && cookie != FLUSH { self.block_bytes } else { 0 };
        if rest.len() < len {
            return Ok(None);
        }
        self.start += REPLY_LEN + len;
        Ok(Some((cookie, &rest[..len])))
    }
}
