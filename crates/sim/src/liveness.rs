use std::ops::Range;

use crate::machine::Machine;
use crate::naive::SECTOR;
use crate::plan::{Action, Asked};

impl Machine<'_> {
    /// A second passes.
    pub(crate) fn second(&self) {
        self.clock.second();
    }

    /// Looks after the volume, second by second, until the clock is stopped.
    pub(crate) async fn keep(&self) {
        while self.clock.next().await {
            if let Some(keeper) = self.keeper.borrow_mut().as_mut() {
                keeper.tick();
            }
            self.clock.kept();
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
        if self.clock.is_neglected() {
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
