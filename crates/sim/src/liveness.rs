use std::cell::Cell;
use std::ops::Range;

use dmsnap::sync::Event;

use crate::below::Below;
use crate::naive::SECTOR;
use crate::plan::{Action, Asked};
use crate::world::World;

/// Seconds that pass when nothing else happens.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Cell<u64>,
    /// Until when somebody has looked after the volume.
    kept: Cell<u64>,
    stopped: Cell<bool>,
    changed: Event,
}

impl Clock {
    /// Returns after this many seconds.
    pub(crate) async fn wait(&self, seconds: u64) {
        let until = self.now.get() + seconds;
        self.until(|| self.now.get() >= until).await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        self.changed.wait_until(reached).await;
    }

    /// From now on seconds count.
    pub(crate) fn start(&self) {
        self.stopped.set(false);
        self.kept.set(self.now.get());
    }

    /// Nobody waits for the next second any more.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.changed.notify();
    }
}

impl<B: Below> World<'_, B> {
    /// A second passes.
    pub(crate) fn second(&self) {
        self.clock.now.set(self.clock.now.get() + 1);
        self.clock.changed.notify();
    }

    /// Looks after the volume, second by second, until the clock is stopped.
    pub(crate) async fn keep(&self) {
        let clock = &self.clock;
        loop {
            clock.until(|| clock.stopped.get() || clock.now.get() > clock.kept.get()).await;
            if clock.stopped.get() {
                return;
            }
            if let Some(keeper) = self.keeper.borrow_mut().as_mut() {
                keeper.tick();
            }
            clock.kept.set(clock.kept.get() + 1);
        }
    }

    /// Every request that still waits needs a disk that hangs, and time passes for everyone.
    pub(crate) fn hold_to_liveness(&self) {
        if self.setup.stacked {
            return;
        }
        let hung = self.power.hung();
        for (_, action) in self.running.borrow().iter() {
            if !hung.iter().any(|disk| self.may_need(action, *disk)) {
                let what = format!("disk {} hangs, and so does: {action}", hung[0]);
                self.break_promise(what);
            }
        }
        let stands = self.clock.now.get() > self.clock.kept.get() + 2;
        if stands && !self.clock.stopped.get() {
            self.break_promise(format!("disk {} hangs, and no time passes any more", hung[0]));
        }
    }

    /// True if a snapshot's store was there with exceptions for all of this range when the machine began.
    fn had_from_the_beginning(&self, slot: usize, range: Range<usize>) -> bool {
        let (setup, kept) = (self.slot(slot), &self.kept[slot - 1]);
        let chunk = setup.chunk * SECTOR;
        !setup.transient
            && !self.made.borrow().contains(&slot)
            && self.merged.get().is_none()
            && (range.start / chunk..range.end.div_ceil(chunk))
                .all(|old| kept.contains(&(old as u64)))
    }

    /// True if something may take as long as this disk does.
    fn may_need(&self, action: &Action, disk: usize) -> bool {
        // What was asked while a merge was under way may end after it.
        let merging = self.model.borrow().merging().or(self.merged.get());
        let Some(slot) = (disk + 1).checked_sub(self.setup.below()).filter(|slot| *slot > 0) else {
            return match action {
                Action::Tick | Action::Lengthen { .. } => false,
                Action::Drop { slot } => merging == Some(*slot),
                _ => true,
            };
        };
        let waits = self.setup.backlog > 0;
        // A merging snapshot and the origin are one.
        let one = |device: usize| device == 0 || merging == Some(device);
        let passes = |device: usize| self.slot(device).options.discard_passdown;
        match *action {
            Action::Read { device, .. } => device == slot || one(device) && merging == Some(slot),
            Action::Status { device, asked, .. } => {
                device == slot || waits || merging.is_some() || matches!(asked, Asked::Dirty(_))
            }
            // A snapshot that has its old data holds up no write, nor does one whose mark is not written.
            Action::Write { device: 0, at, len } => {
                merging.is_some() || waits || !self.had_from_the_beginning(slot, at..at + len)
            }
            Action::Write { device, .. }
            | Action::Fua { device, .. }
            | Action::Zero { device, .. } => {
                // Room that is kept for what waits is had once that is written, everywhere.
                device == slot || one(device) || waits && self.is_tight(device)
            }
            Action::Discard { device, .. } => device == slot || one(device) || passes(device),
            Action::Flush { device } => {
                device == slot || one(device) && (waits || merging == Some(slot))
            }
            Action::Drop { slot: dropped } => dropped == slot || merging.is_some(),
            Action::Lengthen { .. } | Action::Tick => false,
            _ => true,
        }
    }
}
