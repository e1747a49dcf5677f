use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

use crate::medium::Medium;
use crate::power::{Fault, Power};
use crate::random::Random;
use crate::reboots::Reboots;
use crate::record::Event;
use crate::scheduler::Scheduler;

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
///
/// A request takes effect at one moment and completes at a later one; its [`Scheduler`] decides
/// when. A flush makes those writes durable that had completed when it was asked for, and no others.
#[derive(Debug)]
pub struct Disk {
    number: usize,
    block_bytes: u32,
    power: Power,
    scheduler: Scheduler,
    medium: RefCell<Medium>,
    /// What reads see: everything written.
    seen: RefCell<Vec<u8>>,
    next_write: Cell<u64>,
    /// Writes that have taken effect but not completed.
    open: RefCell<Vec<u64>>,
    gone: Cell<bool>,
    grows_to: Cell<u64>,
    log: RefCell<Vec<Operation>>,
    counts: Cell<Counts>,
    /// Decides how long requests are put off where no scheduler does; `None`: not at all.
    delays: RefCell<Option<Random>>,
}

impl Disk {
    /// A disk with this durable content. Writes are torn between blocks of `block_bytes`.
    pub fn new(content: Vec<u8>, block_bytes: u32, power: &Power) -> Self {
        Self::scheduled(content, block_bytes, power, &Scheduler::in_order())
    }

    /// A disk whose requests wait for their turn.
    pub fn scheduled(
        content: Vec<u8>,
        block_bytes: u32,
        power: &Power,
        scheduler: &Scheduler,
    ) -> Self {
        assert!(content.len().is_multiple_of(block_bytes as usize), "whole blocks only");
        Self {
            number: power.plug_in(),
            block_bytes,
            power: power.clone(),
            scheduler: scheduler.clone(),
            seen: content.clone().into(),
            medium: Medium::new(content, block_bytes as usize).into(),
            next_write: Cell::default(),
            open: RefCell::default(),
            gone: Cell::default(),
            grows_to: Cell::default(),
            log: RefCell::default(),
            counts: Cell::default(),
            delays: RefCell::default(),
        }
    }

    /// From now on requests take effect at different moments before they complete, and complete in
    /// any order, on any executor: each waits a number of turns that `seed` decides, before and
    /// after. 0 ends that.
    pub fn delay(&self, seed: u64) {
        self.delays.replace((seed != 0).then(|| Random::new(seed)));
    }

    async fn turns(&self) {
        let mut left = match self.delays.borrow_mut().as_mut() {
            None => return,
            // Now and then one is very late: races between a slow request and a chain of others.
            Some(random) => match random.chance(1, 32) {
                true => random.below(1024),
                false => random.below(8),
            },
        };
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

    /// Which disk of its machine it is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Lets [`Device::grow`] work up to this many bytes.
    pub fn may_grow_to(&self, len_bytes: u64) {
        self.grows_to.set(len_bytes);
    }

    /// Somebody makes the disk longer from below; what is new reads as zeroes, and stays.
    pub fn lengthen(&self, len_bytes: usize) {
        if len_bytes > self.seen.borrow().len() {
            self.grown(len_bytes, true);
        }
    }

    fn grown(&self, len: usize, durable: bool) {
        self.seen.borrow_mut().resize(len, 0);
        self.medium.borrow_mut().grow(len, durable);
        self.power.tell(|| Event::Grown { disk: self.number, len, durable });
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
        Reboots::new(self.medium.borrow().clone(), seed)
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

    /// Waits for the moment the request takes effect, and says what becomes of it.
    async fn arrive(&self) -> Option<Fault> {
        self.turns().await;
        self.scheduler.point().await;
        match self.power.request(self.number) {
            Some(Fault::Gone) => self.gone.set(true),
            other if !self.gone.get() => return other,
            _ => {}
        }
        Some(Fault::Gone)
    }

    /// Waits for the moment the request completes.
    async fn leave(&self, fault: Option<Fault>) -> io::Result<()> {
        self.turns().await;
        match fault {
            Some(Fault::Slow) => self.scheduler.late().await,
            _ => self.scheduler.point().await,
        }
        match fault {
            None | Some(Fault::Slow) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    /// The volatile writes are lost: reads see what is durable.
    fn lose(&self) {
        let mut medium = self.medium.borrow_mut();
        medium.lose();
        *self.seen.borrow_mut() = medium.seen();
        drop(medium);
        self.power.lost(self.number);
    }
}

fn has_effect(fault: Option<Fault>) -> bool {
    matches!(fault, None | Some(Fault::Slow | Fault::FailsDone))
}

impl Device for Disk {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let fault = self.arrive().await;
        if !self.power.is_on() {
            return Err(io::Error::other("the power is off"));
        }
        let range = self.range(at, len)?;
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += len as u64;
        });
        let read = Buffer::copy_of(&self.seen.borrow()[range]);
        self.leave(fault).await?;
        Ok(read)
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        let fault = self.arrive().await;
        if !has_effect(fault) {
            return self.leave(fault).await;
        }
        let range = self.range(at, data.len())?;
        self.power.spend().map_err(|(error, _)| error)?;
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += data.len() as u64;
        });
        self.log.borrow_mut().push(Operation::Write(at..at + data.len() as u64));
        self.seen.borrow_mut()[range.clone()].copy_from_slice(&data);
        let id = self.next_write.get();
        self.next_write.set(id + 1);
        self.open.borrow_mut().push(id);
        self.power.tell(|| {
            let data = data.clone();
            Event::Write { disk: self.number, id, at: range.start, data }
        });
        self.medium.borrow_mut().write(id, range.start, data);
        let ended = self.leave(fault).await;
        self.open.borrow_mut().retain(|other| *other != id);
        ended
    }

    /// One request, as files take it.
    async fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        self.write(at, pieces.concat().into()).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.write(at, Bytes::from(vec![0; len])).await
    }

    /// What was discarded reads as zeroes here.
    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(at, len, Allocation::MayPunch).await
    }

    async fn flush(&self) -> io::Result<()> {
        // What is under way now, and what comes later, is not asked for.
        let asked = self.next_write.get();
        let mut open = self.open.borrow().clone();
        let fault = self.arrive().await;
        if !has_effect(fault) {
            let ended = self.leave(fault).await;
            if fault == Some(Fault::DropsWrites) {
                // Told at once: nothing else happens in between.
                self.lose();
            }
            return ended;
        }
        if let Err((error, fault)) = self.power.spend() {
            if fault == Some(Fault::DropsWrites) {
                self.lose();
            }
            return Err(error);
        }
        self.count(|counts| counts.flushes += 1);
        self.log.borrow_mut().push(Operation::Flush);
        {
            let mut medium = self.medium.borrow_mut();
            open.extend(medium.volatile().filter(|id| *id >= asked));
            medium.flush(&open);
        }
        self.power.tell(|| Event::Flush { disk: self.number, open });
        self.leave(fault).await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.seen.borrow().len() as u64)
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if self.len_bytes()? >= len_bytes {
            return Ok(());
        }
        if len_bytes > self.grows_to.get() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let fault = self.arrive().await;
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        if has_effect(fault) && len > self.seen.borrow().len() {
            self.grown(len, false);
        }
        self.leave(fault).await
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }
}
