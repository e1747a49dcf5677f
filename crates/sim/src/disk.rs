use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

use crate::medium::Medium;
use crate::naive::SECTOR;
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
    /// The sectors that have no place on the medium, and so read as zeroes.
    holes: RefCell<Vec<bool>>,
    next_write: Cell<u64>,
    /// A failed flush has lost what the cache still shows.
    keeps: Cell<bool>,
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
    /// A disk with this durable content, all of which has its place. Writes are torn between blocks of
    /// `block_bytes`.
    pub fn new(content: Vec<u8>, block_bytes: u32, power: &Power) -> Self {
        let disk = Self::scheduled(content, block_bytes, power, &Scheduler::in_order());
        disk.holes.borrow_mut().fill(false);
        disk
    }

    /// A disk whose requests wait for their turn. Sectors of zeroes are holes.
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
            holes: content
                .chunks(SECTOR)
                .map(|it| it.iter().all(|it| *it == 0))
                .collect::<Vec<_>>()
                .into(),
            seen: content.clone().into(),
            medium: Medium::new(content, block_bytes as usize).into(),
            next_write: Cell::default(),
            keeps: Cell::default(),
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
        self.holes.borrow_mut().resize(len.div_ceil(SECTOR), true);
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
        let fault = self.power.request(self.number);
        self.power.answers(self.number).await;
        match fault {
            Some(Fault::Gone) => self.gone.set(true),
            Some(Fault::Hangs | Fault::Full) if !self.gone.get() => return None,
            other if !self.gone.get() => return other,
            _ => {}
        }
        Some(Fault::Gone)
    }

    /// The same for what needs room below the disk.
    async fn arrive_to_write(&self) -> Option<Fault> {
        match self.arrive().await {
            None if self.power.is_full(self.number) => Some(Fault::NoSpace),
            other => other,
        }
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

    async fn get(
        &self,
        at: u64,
        len: usize,
        find: impl FnOnce(Range<usize>) -> Buffer,
    ) -> io::Result<Buffer> {
        let fault = self.arrive().await;
        if !self.power.is_on() {
            return Err(io::Error::other("the power is off"));
        }
        let range = self.range(at, len)?;
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += len as u64;
        });
        let read = find(range);
        self.leave(fault).await?;
        Ok(read)
    }

    async fn put(&self, at: u64, data: Bytes, punches: bool) -> io::Result<()> {
        let fault = self.arrive_to_write().await;
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
        self.mark(&range, punches);
        let id = self.next_write.get();
        self.next_write.set(id + 1);
        self.open.borrow_mut().push(id);
        let (at, data) = self.reaching_the_medium(range, data);
        self.power.tell(|| Event::Write { disk: self.number, id, at, data: data.clone() });
        self.medium.borrow_mut().write(id, at, data);
        let ended = self.leave(fault).await;
        self.open.borrow_mut().retain(|other| *other != id);
        ended
    }

    /// Where the cache has what the medium has not, whole sectors of it are written, as systems write whole
    /// pages.
    fn reaching_the_medium(&self, range: Range<usize>, data: Bytes) -> (usize, Bytes) {
        if !self.keeps.get() {
            return (range.start, data);
        }
        let start = range.start / SECTOR * SECTOR;
        let seen = self.seen.borrow();
        let end = range.end.next_multiple_of(SECTOR).min(seen.len());
        (start, Bytes::copy_from_slice(&seen[start..end]))
    }

    /// A write fills the holes it meets; one that punches makes holes of the whole sectors it covers.
    fn mark(&self, range: &Range<usize>, punches: bool) {
        let sectors = match punches {
            true => range.start.div_ceil(SECTOR)..range.end / SECTOR,
            false => range.start / SECTOR..range.end.div_ceil(SECTOR),
        };
        if let Some(holes) = self.holes.borrow_mut().get_mut(sectors) {
            holes.fill(punches);
        }
    }

    /// The first sector from `sector` on that is a hole, or is none.
    fn next(&self, sector: usize, hole: bool) -> Option<usize> {
        let holes = self.holes.borrow();
        let found = holes.get(sector..)?.iter().position(|it| *it == hole);
        found.map(|n| sector + n)
    }

    /// The volatile writes may be lost now; reads may see them all the same.
    fn after_failed_flush(&self, fault: Option<Fault>) {
        match fault {
            Some(Fault::DropsWrites) => self.medium.borrow_mut().lose(),
            Some(Fault::KeepsPages) => {
                self.medium.borrow_mut().lose();
                self.keeps.set(true);
                return self.power.lost(self.number);
            }
            _ => return,
        }
        self.forget();
        self.power.lost(self.number);
    }

    /// Reads see what the medium has, and what is on its way there.
    fn forget(&self) {
        *self.seen.borrow_mut() = self.medium.borrow().seen();
        // What lost its place has one again.
        let seen = self.seen.borrow();
        for (hole, sector) in self.holes.borrow_mut().iter_mut().zip(seen.chunks(SECTOR)) {
            *hole &= sector.iter().all(|byte| *byte == 0);
        }
    }
}

fn has_effect(fault: Option<Fault>) -> bool {
    matches!(fault, None | Some(Fault::Slow | Fault::FailsDone))
}

impl Device for Disk {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.get(at, len, |range| Buffer::copy_of(&self.seen.borrow()[range])).await
    }

    /// What a failed flush has lost is not there, whatever other reads find.
    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.get(at, len, |range| Buffer::copy_of(&self.medium.borrow().seen()[range])).await
    }

    async fn forget_cached(&self) -> io::Result<()> {
        let before = self.content();
        self.forget();
        // Pages that a failed flush had left are found no more.
        if *self.seen.borrow() != before {
            self.power.changed(self.number);
        }
        Ok(())
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.put(at, data, false).await
    }

    /// One request, as files take it.
    async fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        self.write(at, pieces.concat().into()).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.put(at, Bytes::from(vec![0; len]), allocation == Allocation::MayPunch).await
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
            // Told at once: nothing else happens in between.
            self.after_failed_flush(fault);
            return ended;
        }
        if let Err((error, fault)) = self.power.spend() {
            self.after_failed_flush(fault);
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

    /// Others change the disk while it looks: the answer is of one moment between.
    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        self.scheduler.think().await;
        let fault = self.arrive().await;
        let at_byte = usize::try_from(at).map_err(io::Error::other)?;
        let found = self.next(at_byte / SECTOR, false).map(|first| {
            let end = self.next(first, true).map_or(self.seen.borrow().len(), |end| end * SECTOR);
            at.max((first * SECTOR) as u64)..end as u64
        });
        self.leave(fault).await?;
        Ok(found)
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
        let fault = self.arrive_to_write().await;
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
