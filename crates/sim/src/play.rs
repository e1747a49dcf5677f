//! What clients and operators do, on the code that is tested.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::Observer;
use dmsnap::device::{Allocation, Device};
use dmsnap::ops::{self, MergeOptions, Silent};
use dmsnap::volume::MergeState;
use futures_util::future::{join_all, join4};
use futures_util::lock::Mutex;

use crate::below::{Bare, Below, Stacked};
use crate::model::{Change, Model, Standing};
use crate::naive::{self, SECTOR};
use crate::plan::{Action, Plan, Start, Step};
use crate::power::Power;
use crate::record::Event;
use crate::scheduler::Scheduler;
use crate::world::{Sim, World};

/// Seconds that pass while nothing else happens before a machine counts as stuck.
const PATIENCE: usize = 64;

/// Seconds after which everybody has ended that no disk holds up.
const LONG: usize = 24;

/// How a machine ran.
#[derive(Debug)]
pub struct Played {
    /// Everything that happened, in order.
    pub record: Vec<Event>,
    /// The first promise that was broken, in words.
    pub broken: Option<String>,
    /// Requests of all disks.
    pub requests: u64,
    /// For each step, how many requests there were before it.
    pub steps: Vec<u64>,
    /// What clients know in the end.
    pub model: Model,
}

/// Runs a machine from where it begins, on the code that is tested, and compares what clients find
/// with what they know.
pub fn play(plan: &Plan, start: &Start) -> Played {
    match plan.setup.stacked {
        true => play_on::<Stacked>(plan, start),
        false => play_on::<Bare>(plan, start),
    }
}

fn play_on<B: Below>(plan: &Plan, start: &Start) -> Played {
    let power = Power::recording();
    let world = World::<B>::new(&plan.setup, start, &power);
    if let Err(error) = world.wait_for(world.open()) {
        world.break_promise(format!("cannot be opened: {error}"));
    }
    let mut steps = Vec::new();
    for step in &plan.steps {
        if world.broken.borrow().is_some() || world.over.get() {
            break;
        }
        let before = power.requests();
        steps.push(before);
        step.faults.iter().for_each(|(n, fault)| power.fail_request(before + n, *fault));
        world.step(step);
    }
    let broken = world.broken.take();
    let model = world.model.borrow().clone();
    Played { record: power.take_record(), broken, requests: power.requests(), steps, model }
}

/// Paces a merge by the scheduler and pauses it after some moves.
struct Pauses<'a, B: Below> {
    scheduler: &'a Scheduler,
    volume: &'a Rc<Sim<B>>,
    left: Cell<usize>,
}

impl<B: Below> Observer for Pauses<'_, B> {
    async fn pace(&self, _: u64) {
        self.scheduler.point().await;
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.volume.pause_merge();
        }
    }
}

impl<B: Below> World<'_, B> {
    /// Drives a task; seconds pass when nothing else happens.
    fn wait_for<T>(&self, task: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut left = PATIENCE;
        let ended = self.scheduler.run(task, || {
            left -= 1;
            self.second();
            if left < PATIENCE - LONG && !self.power.hung().is_empty() {
                self.hold_to_liveness();
                self.power.heal();
                left = PATIENCE;
            }
            left > 0
        });
        match ended {
            Ok(ended) => ended,
            Err(_) => {
                self.break_promise("everybody waits, and nothing will ever happen".into());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    fn step(&self, step: &Step) {
        let clients = step.clients.iter().map(|actions| async move {
            for action in actions {
                if self.broken.borrow().is_some() || self.over.get() {
                    return;
                }
                self.act(action).await;
            }
        });
        let clients = join_all(clients);
        self.clock.start();
        self.tasks.start();
        let at_work = Mutex::new(());
        let ended = self.wait_for(async {
            let busy = at_work.lock().await;
            let volume = self.volume();
            let write_back = async {
                if let Some(volume) = volume.filter(|_| self.setup.backlog > 0) {
                    volume.run_write_back(async { drop(at_work.lock().await) }).await;
                }
            };
            let work = async {
                clients.await;
                // Disks that hang or have no room do no longer; what was put off is done then.
                if self.power.heal() {
                    self.clock.wait(2).await;
                }
                drop(busy);
                self.clock.stop();
                self.tasks.stop();
            };
            join4(work, write_back, self.keep(), self.tasks.drive()).await;
            self.notice_drops(true);
            self.verify().await;
            Ok(())
        });
        if ended.is_err() {
            self.over.set(true);
        }
    }

    async fn act(&self, action: &Action) {
        let id = self.fresh_id();
        self.running.borrow_mut().push((id, action.clone()));
        self.carry_out(action).await;
        self.running.borrow_mut().retain(|(other, _)| *other != id);
        self.notice_drops(false);
    }

    async fn carry_out(&self, action: &Action) {
        match *action {
            Action::Read { device, at, len } => self.read(device, at, len).await,
            Action::Write { device, at, len } => self.put(device, at, len, None).await,
            Action::Fua { device, at, len } => {
                self.put(device, at, len, None).await;
                self.flush(device).await;
            }
            Action::Zero { device, at, len, keep } => {
                let allocation = if keep { Allocation::Keep } else { Allocation::MayPunch };
                self.put(device, at, len, Some(allocation)).await;
            }
            Action::Discard { device, at, len } => self.discard(device, at, len).await,
            Action::Flush { device } => self.flush(device).await,
            Action::Status { device, asked, at, len } => {
                self.status(device, asked, at..at + len).await;
            }
            Action::Lengthen { slot, chunks } => {
                self.cow(slot).lengthen(chunks * self.slot(slot).chunk * SECTOR);
            }
            Action::Tick => {
                if let Some(volume) = self.volume() {
                    volume.tick();
                }
            }
            Action::Find { slot } => {
                if self.is_dropped(slot) && self.power.fired().is_empty() {
                    self.break_promise(format!("snapshot {slot} was dropped, and had room"));
                }
            }
            _ => self.operate(action).await,
        }
    }

    /// True if clients have this device now.
    pub(crate) fn has(&self, device: usize) -> bool {
        let there = device == 0 || self.model.borrow().standing(device) == Standing::Present;
        there && !self.leaving.borrow().contains(&device) && self.volume().is_some()
    }

    pub(crate) fn enter(&self, device: usize) {
        self.busy.borrow_mut()[device] += 1;
    }

    pub(crate) fn leave(&self, device: usize) {
        self.busy.borrow_mut()[device] -= 1;
    }

    /// Says whether a request succeeded, and complains if it had no reason to fail.
    pub(crate) fn settle<T>(&self, device: usize, what: &str, ended: io::Result<T>) -> Option<T> {
        match ended {
            Ok(value) => Some(value),
            Err(error) => {
                if !self.excused(device, &error) {
                    self.break_promise(format!("{what} of device {device} failed: {error}"));
                }
                None
            }
        }
    }

    async fn read(&self, device: usize, at: usize, len: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        self.enter(device);
        // Whole sectors are compared; the ends of an odd request are left out.
        let (first, end) = (at.next_multiple_of(SECTOR), (at + len) / SECTOR * SECTOR);
        let reading = (first < end).then(|| self.model.borrow().read(device, first, end - first));
        let parting = self.parting.get();
        let ended = view.read(at as u64, len).await;
        let reading = reading.filter(|_| !parting && !self.parting.get());
        if let (Some(bytes), Some(reading)) = (self.settle(device, "a read", ended), reading) {
            self.take_in(&reading, &bytes[first - at..end - at]);
        }
        self.leave(device);
    }

    /// True if nobody could say what a write there leaves behind.
    fn is_unclear(&self, device: usize, at: usize, len: usize) -> bool {
        let model = self.model.borrow();
        let mut odd = [at, at + len].into_iter().filter(|edge| !edge.is_multiple_of(SECTOR));
        odd.any(|edge| !model.known(device, edge / SECTOR)) || model.clashes(device, at, len)
    }

    async fn put(&self, device: usize, at: usize, len: usize, zeroes: Option<Allocation>) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        if self.is_unclear(device, at, len) {
            return;
        }
        self.enter(device);
        let id = self.fresh_id();
        let tag = u32::try_from(id).unwrap_or(0);
        let data = match zeroes {
            Some(_) => vec![0; len].into(),
            None => naive::content(tag, at, len),
        };
        self.tell(Change::Write { id, device, at, data: data.clone() });
        let ended = match zeroes {
            Some(allocation) => view.write_zeroes(at as u64, len as u64, allocation).await,
            None if id.is_multiple_of(2) => view.write(at as u64, data).await,
            // The same as writes of their own, as they come in from a client that sends many.
            None => view.write_many(self.by_chunk(device, at, &data)).await,
        };
        let ok = self.settle(device, "a write", ended).is_some();
        self.tell(Change::Written { id, ok });
        self.leave(device);
    }

    /// A write cut at the bounds of a snapshot's chunks.
    fn by_chunk(&self, device: usize, at: usize, data: &Bytes) -> Vec<(u64, Bytes)> {
        let chunk = if device > 0 { self.slot(device).chunk * SECTOR } else { SECTOR };
        let mut writes = Vec::new();
        let mut from = 0;
        while from < data.len() {
            let to = (from + chunk - (at + from) % chunk).min(data.len());
            writes.push(((at + from) as u64, data.slice(from..to)));
            from = to;
        }
        writes
    }

    async fn discard(&self, device: usize, at: usize, len: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        if self.model.borrow().clashes(device, at, len) {
            return;
        }
        self.enter(device);
        // What is under way when a merge begins or ends belongs to either side.
        let options = device.checked_sub(1).map(|n| self.setup.slots[n].options.clone());
        let chunk = (device > 0).then(|| self.slot(device).chunk * SECTOR);
        let passes = options.as_ref().is_none_or(|options| options.discard_passdown);
        let merging = self.model.borrow().merging().is_some();
        if merging || passes && self.model.borrow().clashes(0, at, len) {
            return self.leave(device);
        }
        let (id, below) = (self.fresh_id(), self.fresh_id());
        if chunk.is_some() {
            self.tell(Change::Discard { id, device, at, len, chunk });
        }
        if passes {
            self.tell(Change::Discard { id: below, device: 0, at, len, chunk: None });
        }
        let passed = usize::from(passes);
        self.discards.set(self.discards.get() + passed);
        let ended = view.discard(at as u64, len as u64).await;
        self.discards.set(self.discards.get() - passed);
        let blamed = if passes { 0 } else { device };
        let ok = match ended {
            Err(error) if self.excused(device, &error) => false,
            ended => self.settle(blamed, "a discard", ended).is_some(),
        };
        self.tell(Change::Written { id, ok });
        self.tell(Change::Written { id: below, ok });
        self.leave(device);
    }

    async fn flush(&self, device: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        self.enter(device);
        let id = self.fresh_id();
        self.tell(Change::Flush { id, device });
        let parting = self.parting.get();
        let ok = self.settle(device, "a flush", view.flush().await).is_some();
        self.tell(Change::Flushed { id, ok: ok && !parting && !self.parting.get() });
        self.leave(device);
    }

    /// What an operator does; one at a time.
    async fn operate(&self, action: &Action) {
        if self.operator.replace(true) {
            return;
        }
        match *action {
            Action::Add { slot } => self.add(slot).await,
            Action::Remove { slot } => self.remove(slot).await,
            Action::Drop { slot } => self.drop_snapshot(slot).await,
            Action::StartMerge { slot } => self.start_merge(slot).await,
            Action::RunMerge { window, moves } => self.run_merge(window, moves).await,
            Action::CancelMerge => self.cancel_merge().await,
            Action::Reopen => self.reopen(None).await,
            Action::OfflineMerge { slot, window } => self.reopen(Some((slot, window))).await,
            _ => {}
        }
        self.operator.set(false);
    }

    async fn add(&self, slot: usize) {
        // Nothing is made on a disk that is still being let go.
        let absent = self.model.borrow().standing(slot) == Standing::Absent
            && !self.leaving.borrow().contains(&slot);
        if !absent || self.model.borrow().merging().is_some() || self.cow_is_bad(slot) {
            return;
        }
        self.tell(Change::Add { slot });
        let made = self.make(slot).await;
        let merged = self.merged.get();
        let excused = [Some(slot), merged].iter().flatten().any(|it| self.cow_was_in_trouble(*it))
            || self.origin_is_bad()
            || self.origin_was_full()
            || self.origin_is_held();
        if let Some(error) = made.as_ref().err().filter(|_| !excused) {
            self.break_promise(format!("snapshot {slot} cannot be made: {error}"));
        }
        self.tell(Change::Added { slot, ok: made.is_ok() });
    }

    async fn remove(&self, slot: usize) {
        let (Some(volume), Some(snapshot)) = (self.volume(), self.snapshot(slot)) else { return };
        if self.busy.borrow()[slot] > 0 || !self.has(slot) {
            return;
        }
        let merging = self.model.borrow().merging();
        let unfinished = volume.merge_state().is_some_and(|it| it.0 != MergeState::Finished);
        if merging == Some(slot) && (unfinished || self.busy.borrow()[0] > 0) {
            return;
        }
        self.leaving.borrow_mut().push(slot);
        let len = self.setup.origin * SECTOR;
        let reading = |device| self.model.borrow().read(device, 0, len);
        let (own, origin) = (reading(slot), reading(0));
        let mut removing = pin!(volume.remove(&snapshot));
        let mut told = merging == Some(slot);
        let removed = poll_fn(|context| {
            let polled = removing.as_mut().poll(context);
            // From the moment it is out, origin writes keep no old data for it.
            if !told && volume.snapshot(&slot.to_string()).is_none() {
                told = true;
                self.tell(Change::Remove { slot });
            }
            polled
        })
        .await;
        if self.settle(slot, "the removal", removed).is_some() {
            self.judge_removed(slot, &own, &origin);
        }
        if merging == Some(slot) || !told {
            self.tell(Change::Remove { slot });
        }
        self.snapshots.borrow_mut()[slot - 1] = None;
        self.leaving.borrow_mut().retain(|other| *other != slot);
    }

    async fn drop_snapshot(&self, slot: usize) {
        let (Some(volume), Some(snapshot)) = (self.volume(), self.snapshot(slot)) else { return };
        if !self.has(slot) || self.model.borrow().merging() == Some(slot) {
            return;
        }
        self.tell(Change::Drop { slot });
        let dropped = volume.invalidate(&snapshot).await;
        if self.settle(slot, "the drop", dropped).is_some() {
            self.tell(Change::Dropped { slot });
        }
    }

    async fn start_merge(&self, slot: usize) {
        let (Some(volume), Some(snapshot)) = (self.volume(), self.snapshot(slot)) else { return };
        if !self.has(slot) || self.model.borrow().merging().is_some() {
            return;
        }
        self.tell(Change::Merge { slot });
        let started = volume.start_merge(&snapshot).await;
        if started.is_err() && self.slot(slot).transient {
            return self.tell(Change::Merging { slot, ok: false });
        }
        let ok = self.settle(slot, "the start of a merge", started).is_some();
        self.tell(Change::Merging { slot, ok });
    }

    async fn run_merge(&self, window: u64, moves: usize) {
        let Some(volume) = self.volume() else { return };
        let Some(slot) = self.model.borrow().merging() else { return };
        // A discard that was asked for before the merge began does nothing, unless that has ended.
        if self.discards.get() > 0 {
            return;
        }
        let control: Pauses<'_, B> =
            Pauses { scheduler: &self.scheduler, volume: &volume, left: Cell::new(moves.max(1)) };
        let ran = volume.run_merge(window, &control).await;
        self.settle(slot, "a merge", ran);
    }

    async fn cancel_merge(&self) {
        let Some(volume) = self.volume() else { return };
        let finished = volume.merge_state().is_none_or(|it| it.0 == MergeState::Finished);
        if finished || self.model.borrow().merging().is_none() {
            return;
        }
        self.parting.set(true);
        let cancelled = volume.cancel_merge().await;
        self.parting.set(false);
        if self.settle(0, "giving a merge up", cancelled).is_some() {
            self.tell(Change::Cancelled);
        }
    }

    /// Closes everything, merges perhaps, and opens everything again.
    async fn reopen(&self, merge: Option<(usize, u64)>) {
        let Some(volume) = self.volume() else { return };
        if self.busy.borrow().iter().any(|busy| *busy > 0) {
            return;
        }
        // The process ends: nothing goes on in the background.
        self.tasks.rest().await;
        let there: Vec<usize> = (1..=self.setup.slots.len())
            .filter(|slot| self.model.borrow().standing(*slot) == Standing::Present)
            .collect();
        for (device, id) in there.iter().copied().chain([0]).zip(0..) {
            self.tell(Change::Flush { id, device });
        }
        let flushed = volume.flush_all().await;
        let bad = self.was_in_trouble();
        let ok = flushed.is_ok();
        if let Some(error) = flushed.err().filter(|_| !bad) {
            self.break_promise(format!("closing failed: {error}"));
        }
        (0..=there.len() as u64).for_each(|id| self.tell(Change::Flushed { id, ok }));
        // Origin writes that waited may have dropped one that was full.
        self.notice_drops(true);
        drop(volume);
        self.close();
        if self.model.borrow().merging().is_some() {
            self.tell(Change::Cancelled);
        }
        for slot in &there {
            if self.slot(*slot).transient {
                self.tell(Change::Remove { slot: *slot });
            }
        }
        if !ok {
            // What was only in memory is gone.
            for device in there.iter().copied().chain([0]) {
                self.tell(Change::Shaken { device });
            }
        }
        let present = |slot| self.model.borrow().standing(slot) == Standing::Present;
        let alone = |slot| ok && there == [slot] && present(slot);
        if let Some((slot, window)) = merge.filter(|(slot, _)| alone(*slot)) {
            self.merge_offline(slot, window).await;
        }
        if let Err(error) = self.open().await {
            let bad = self.was_in_trouble();
            if !bad {
                self.break_promise(format!("cannot be opened again: {error}"));
            }
            self.over.set(true);
        }
    }

    async fn merge_offline(&self, slot: usize, window: u64) {
        if self.setup.stacked || self.slot(slot).transient {
            return;
        }
        self.tell(Change::Merge { slot });
        self.tell(Change::Merging { slot, ok: true });
        // Both ways to move a window.
        let long_run_bytes = if (window / 512).is_multiple_of(2) { 0 } else { u64::MAX };
        let options =
            MergeOptions { window_bytes: window, long_run_bytes, ..MergeOptions::default() };
        let merged = ops::merge(&*self.cow(slot).clone(), &*self.disks[0], options, &Silent).await;
        match self.settle(0, "a merge offline", merged.map_err(io::Error::other)) {
            Some(_) => self.tell(Change::Remove { slot }),
            None => self.tell(Change::Cancelled),
        }
    }
}
