use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

use crate::delays::Delays;
use crate::fault::RequestFault;
use crate::holes::Holes;
use crate::medium::Medium;
use crate::naive::SECTOR;
use crate::power::Power;
use crate::reboots::Reboots;
use crate::record::Event;
use crate::scheduler::Scheduler;
use crate::traffic::{Counts, Operation, Traffic};

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
    holes: Holes,
    next_write: Cell<u64>,
    /// A failed flush has lost what the cache still shows.
    keeps: Cell<bool>,
    /// Writes that have taken effect but not completed.
    open: RefCell<Vec<u64>>,
    gone: Cell<bool>,
    grows_to: Cell<u64>,
    traffic: Traffic,
    delays: Delays,
}

impl Disk {
    /// A disk with this durable content, all of which has its place. Writes are torn between blocks of
    /// `block_bytes`.
    pub fn new(content: Vec<u8>, block_bytes: u32, power: &Power) -> Self {
        let disk = Self::scheduled(content, block_bytes, power, &Scheduler::in_order());
        disk.holes.fill();
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
            holes: Holes::of(&content),
            seen: content.clone().into(),
            medium: Medium::new(content, block_bytes as usize).into(),
            next_write: Cell::default(),
            keeps: Cell::default(),
            open: RefCell::default(),
            gone: Cell::default(),
            grows_to: Cell::default(),
            traffic: Traffic::default(),
            delays: Delays::default(),
        }
    }

    /// From now on requests take effect at different moments before they complete, and complete in
    /// any order, on any executor: each waits a number of turns that `seed` decides, before and
    /// after. 0 ends that.
    pub fn delay(&self, seed: u64) {
        self.delays.seed(seed);
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
        self.holes.grow(len);
        self.medium.borrow_mut().grow(len, durable);
        self.power.tell(|| Event::Grown { disk: self.number, len, durable });
    }

    /// What reads see now.
    pub fn content(&self) -> Vec<u8> {
        self.seen.borrow().clone()
    }

    /// Every write and flush so far.
    pub fn log(&self) -> Vec<Operation> {
        self.traffic.log()
    }

    /// How much was asked so far.
    pub fn counts(&self) -> Counts {
        self.traffic.counts()
    }

    /// Every content the disk can have if the power is cut now: each volatile block is old or any
    /// of its later versions. Where that is too many, a choice that holds none, all, each one
    /// alone, each one missing, and some drawn with `seed`.
    pub fn reboots(&self, seed: u64) -> Reboots {
        Reboots::new(self.medium.borrow().clone(), seed)
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
    async fn arrive(&self) -> Option<RequestFault> {
        self.delays.turns().await;
        self.scheduler.point().await;
        let fault = self.power.request(self.number);
        self.power.answers(self.number).await;
        match fault {
            Some(RequestFault::Gone) => self.gone.set(true),
            Some(RequestFault::Hangs | RequestFault::Full) if !self.gone.get() => return None,
            other if !self.gone.get() => return other,
            _ => {}
        }
        Some(RequestFault::Gone)
    }

    /// The same for what needs room below the disk.
    async fn arrive_to_write(&self) -> Option<RequestFault> {
        match self.arrive().await {
            None if self.power.is_full(self.number) => Some(RequestFault::NoSpace),
            other => other,
        }
    }

    /// Waits for the moment the request completes.
    async fn leave(&self, fault: Option<RequestFault>) -> io::Result<()> {
        self.delays.turns().await;
        match fault {
            Some(RequestFault::Slow) => self.scheduler.late().await,
            _ => self.scheduler.point().await,
        }
        match fault {
            None | Some(RequestFault::Slow) => Ok(()),
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
        self.traffic.read(len);
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
        self.traffic.write(at, data.len());
        self.seen.borrow_mut()[range.clone()].copy_from_slice(&data);
        self.holes.mark(&range, punches);
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

    /// The volatile writes may be lost now; reads may see them all the same.
    fn after_failed_flush(&self, fault: Option<RequestFault>) {
        match fault {
            Some(RequestFault::DropsWrites) => self.medium.borrow_mut().lose(),
            Some(RequestFault::KeepsPages) => {
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
        self.holes.see(&self.seen.borrow());
    }
}

fn has_effect(fault: Option<RequestFault>) -> bool {
    matches!(fault, None | Some(RequestFault::Slow | RequestFault::FailsDone))
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
        self.traffic.flush();
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
        let found = self.holes.next(at_byte / SECTOR, false).map(|first| {
            let end =
                self.holes.next(first, true).map_or(self.seen.borrow().len(), |end| end * SECTOR);
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
