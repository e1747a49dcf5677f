use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

use crate::power::{Fault, Power};
use crate::reboots::Reboots;

/// What reached a disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write or zeroing of these bytes.
    Write(Range<u64>),
    /// A flush.
    Flush,
}

/// How often what was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes and zeroings.
    pub writes: u64,
    /// Bytes written and zeroed.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// A disk whose writes are volatile until they are flushed.
#[derive(Debug)]
pub struct Disk {
    block_bytes: u32,
    power: Power,
    durable: RefCell<Vec<u8>>,
    /// Since the last flush, in order.
    volatile: RefCell<Vec<(u64, Bytes)>>,
    /// What reads see: everything written.
    seen: RefCell<Vec<u8>>,
    log: RefCell<Vec<Operation>>,
    counts: Cell<Counts>,
    /// State of the generator that delays requests; 0: none is delayed.
    delays: Cell<u64>,
}

impl Disk {
    /// A disk with this durable content. Writes are torn between blocks of `block_bytes`.
    pub fn new(content: Vec<u8>, block_bytes: u32, power: &Power) -> Self {
        assert!(content.len().is_multiple_of(block_bytes as usize), "whole blocks only");
        Self {
            block_bytes,
            power: power.clone(),
            seen: content.clone().into(),
            durable: content.into(),
            volatile: RefCell::default(),
            log: RefCell::default(),
            counts: Cell::default(),
            delays: Cell::default(),
        }
    }

    /// From now on requests take effect at different moments before they complete, and complete in
    /// any order: each waits a number of turns that `seed` decides, before and after.
    pub fn delay(&self, seed: u64) {
        self.delays.set(seed | 1);
    }

    async fn turns(&self) {
        let mut state = self.delays.get();
        if state == 0 {
            return;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.delays.set(state);
        // Now and then one is very late: races between a slow request and a chain of others.
        let mut left = if state >> 44 & 31 == 0 { state >> 33 & 0x3FF } else { state >> 33 & 7 };
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// What reads see now.
    pub fn content(&self) -> Vec<u8> {
        self.seen.borrow().clone()
    }

    /// Every write and flush so far.
    pub fn log(&self) -> Vec<Operation> {
        self.log.borrow().clone()
    }

    /// How much was asked so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Every content the disk can have if the power is cut now: each volatile block is old or any
    /// of its later versions. Where that is too many, a choice that holds none, all, each one
    /// alone, each one missing, and some drawn with `seed`.
    pub fn reboots(&self, seed: u64) -> Reboots {
        let durable = self.durable.borrow().clone();
        Reboots::new(durable, &self.volatile.borrow(), self.block_bytes as usize, seed)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn range(&self, at: u64, len: usize) -> io::Result<Range<usize>> {
        let start = usize::try_from(at).map_err(io::Error::other)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        match end <= self.seen.borrow().len() {
            true => Ok(start..end),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Device for Disk {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.turns().await;
        if !self.power.is_on() {
            return Err(io::Error::other("the power is off"));
        }
        let range = self.range(at, len)?;
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += len as u64;
        });
        let read = Buffer::copy_of(&self.seen.borrow()[range]);
        self.turns().await;
        Ok(read)
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        let range = self.range(at, data.len())?;
        self.turns().await;
        self.power.spend().map_err(|(error, _)| error)?;
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += data.len() as u64;
        });
        self.log.borrow_mut().push(Operation::Write(at..at + data.len() as u64));
        self.seen.borrow_mut()[range].copy_from_slice(&data);
        self.volatile.borrow_mut().push((at, data));
        self.turns().await;
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.write(at, Bytes::from(vec![0; len])).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(at, len, Allocation::MayPunch).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.turns().await;
        if let Err((error, fault)) = self.power.spend() {
            if fault == Some(Fault::DropsWrites) {
                self.volatile.borrow_mut().clear();
                *self.seen.borrow_mut() = self.durable.borrow().clone();
            }
            return Err(error);
        }
        self.count(|counts| counts.flushes += 1);
        self.log.borrow_mut().push(Operation::Flush);
        self.volatile.borrow_mut().clear();
        *self.durable.borrow_mut() = self.seen.borrow().clone();
        self.turns().await;
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.seen.borrow().len() as u64)
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }
}
