//! What an operator does: snapshots come and go, merges, restarts.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use dmsnap::copy::Observer;
use dmsnap::format::TagState;
use dmsnap::ops::{self, MergeOptions, Silent};
use dmsnap::volume::MergeState;

use crate::below::SimVolume;
use crate::machine::Machine;
use crate::model::{Change, Standing};
use crate::naive::SECTOR;
use crate::plan::Action;
use crate::scheduler::Scheduler;

/// Paces a merge by the scheduler and pauses it after some moves.
struct Pauses<'a> {
    scheduler: &'a Scheduler,
    volume: &'a Rc<SimVolume>,
    left: Cell<usize>,
}

impl Observer for Pauses<'_> {
    async fn pace(&self, _: u64) {
        self.scheduler.point().await;
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.volume.pause_merge();
        }
    }
}

impl Machine<'_> {
    /// What an operator does; one at a time.
    pub(crate) async fn operate(&self, action: &Action) {
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
        let of = self.slot(slot).way_back_of;
        let excused =
            [Some(slot), merged, of].iter().flatten().any(|it| self.cow_was_in_trouble(*it))
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

    /// The one of two partners that is not merged by itself takes the merge of the other back.
    async fn start_merge(&self, slot: usize) {
        let (Some(volume), Some(snapshot)) = (self.volume(), self.snapshot(slot)) else { return };
        let is_keeper = snapshot.tag().is_some_and(|it| it.state == TagState::Undo);
        let partner = volume.partner(&snapshot).filter(|_| is_keeper);
        let merging = self.model.borrow().merging();
        let other = partner.as_ref().and_then(|it| it.name().parse().ok());
        if !self.has(slot) || merging.is_some() && merging != other {
            return;
        }
        self.tell(Change::Merge { slot });
        let started = match &partner {
            Some(shown) => volume.exchange_merge(shown).await.map(drop),
            None => volume.start_merge(&snapshot).await,
        };
        let started = started.map_err(io::Error::from);
        // An exchange needs both disks.
        let excused = |error: &io::Error| other.is_some_and(|other| self.excused(other, error));
        if started.as_ref().is_err_and(|error| self.slot(slot).transient || excused(error)) {
            return self.tell(Change::Merging { slot, ok: false });
        }
        let ok = self.settle(slot, "the start of a merge", started).is_some();
        if ok && merging.is_some() {
            self.tell(Change::Cancelled);
        }
        self.tell(Change::Merging { slot, ok });
    }

    async fn run_merge(&self, window: u64, moves: usize) {
        let Some(volume) = self.volume() else { return };
        let Some(slot) = self.model.borrow().merging() else { return };
        // A discard that was asked for before the merge began does nothing, unless that has ended.
        if self.discards.get() > 0 {
            return;
        }
        let control =
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
