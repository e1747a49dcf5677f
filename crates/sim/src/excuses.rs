//! What may go wrong because a disk did: requests that fail, snapshots that are dropped.

use std::io;

use dmsnap::volume::{OnFull, State};

use crate::fault::{RequestFault, badness};
use crate::machine::Machine;
use crate::model::{Change, Standing};
use crate::plan::{Setup, Slot};

impl Machine<'_> {
    /// How badly a disk has behaved: 0 not at all, 2 beyond saving.
    pub(crate) fn badness(&self, disk: usize) -> usize {
        badness(&self.power.fired(), disk)
    }

    pub(crate) fn cow_is_bad(&self, slot: usize) -> bool {
        self.badness(self.cow(slot).number()) > 0
    }

    /// True if a snapshot's disk has behaved badly, or had no room for a while: then the store may take no
    /// more writes until it is opened anew.
    pub(crate) fn cow_was_in_trouble(&self, slot: usize) -> bool {
        let full = (self.cow(slot).number(), RequestFault::Full);
        self.cow_is_bad(slot) || self.power.fired().contains(&full)
    }

    /// True if any disk has behaved badly, or had no room.
    pub(crate) fn was_in_trouble(&self) -> bool {
        self.power
            .fired()
            .iter()
            .any(|(_, fault)| !matches!(fault, RequestFault::Slow | RequestFault::Hangs))
    }

    pub(crate) fn origin_is_bad(&self) -> bool {
        (0..self.setup.below()).any(|disk| self.badness(disk) > 0)
    }

    /// True if a request of this device may fail with this error.
    pub(crate) fn excused(&self, device: usize, error: &io::Error) -> bool {
        let merging = self.model.borrow().merging();
        if self.origin_is_bad()
            || self.origin_was_full()
            || [merging, self.merged.get()].iter().flatten().any(|it| self.cow_was_in_trouble(*it))
        {
            return true;
        }
        let full = error.kind() == io::ErrorKind::StorageFull;
        // A device that says it has no room is a full store.
        let stops = |n: usize, slot: &Slot| {
            (self.is_tight(n) || self.cow_is_bad(n)) && slot.options.on_full != OnFull::Invalidate
        };
        let stopped = full && (1..).zip(&self.setup.slots).any(|(n, slot)| stops(n, slot));
        match device {
            0 => stopped || self.origin_is_held(),
            slot => {
                let is_origin = [merging, self.merged.get()].contains(&Some(slot));
                let one = is_origin && (stopped || self.origin_is_held());
                one || self.cow_was_in_trouble(slot)
                    || full && self.is_tight(slot)
                    || self.may_be_dropped(slot)
            }
        }
    }

    /// True if a COW device may take neither old data nor the mark: origin writes that need one of them fail.
    pub(crate) fn origin_is_held(&self) -> bool {
        let unmarked = |slot| {
            let dropped = self.snapshot(slot).is_some_and(|it| it.state() == State::Invalid);
            self.cow_was_in_trouble(slot) && (dropped || self.may_be_dropped(slot))
        };
        (1..=self.setup.slots.len()).any(unmarked)
    }

    /// It may run out of room.
    pub(crate) fn is_tight(&self, slot: usize) -> bool {
        is_tight(self.setup, &self.power.fired(), slot)
    }

    pub(crate) fn origin_was_full(&self) -> bool {
        let fired = self.power.fired();
        fired.iter().any(|(disk, fault)| *disk < self.setup.below() && *fault == RequestFault::Full)
    }

    fn may_be_dropped(&self, slot: usize) -> bool {
        self.is_tight(slot) && self.slot(slot).options.on_full == OnFull::Invalidate
            || matches!(
                self.model.borrow().standing(slot),
                Standing::Shaky | Standing::Dropped | Standing::Lost | Standing::Absent
            )
    }

    /// Tells the model of snapshots that were dropped, and why that may be. `settled`: nothing is
    /// under way any more, so that their marks are durable.
    pub(crate) fn notice_drops(&self, settled: bool) {
        for slot in 1..=self.setup.slots.len() {
            let dropped = self.snapshot(slot).is_some_and(|it| it.state() == State::Invalid);
            let standing = self.model.borrow().standing(slot);
            if !dropped || !matches!(standing, Standing::Present | Standing::Shaky) {
                continue;
            }
            if !self.cow_is_bad(slot) && !self.may_be_dropped(slot) {
                self.break_promise(format!("snapshot {slot} was dropped, and nothing was wrong"));
            } else if settled && !self.slot(slot).transient {
                // A mark that was not taken, also one that still has no room when the process ends: from here on
                // the origin may be served without the snapshot.
                let unmarked = self.snapshot(slot).is_some_and(|it| it.is_unmarked());
                if unmarked && !self.cow_was_in_trouble(slot) {
                    self.break_promise(format!(
                        "snapshot {slot} is not marked, and nothing was wrong"
                    ));
                }
                let change = match unmarked {
                    false => Change::Dropped { slot },
                    true => Change::Lose { slot },
                };
                self.tell(change);
            } else if standing == Standing::Present {
                self.tell(Change::Drop { slot });
            }
        }
    }
}

/// True if a snapshot may run out of room: on its disk, or below it.
pub(crate) fn is_tight(setup: &Setup, fired: &[(usize, RequestFault)], slot: usize) -> bool {
    let cow = setup.below() + slot - 1;
    setup.slots[slot - 1].tight || fired.contains(&(cow, RequestFault::Full))
}

/// True if a snapshot may be dropped because it has no room.
pub(crate) fn droppable(setup: &Setup, fired: &[(usize, RequestFault)], slot: usize) -> bool {
    let dropped = setup.slots[slot - 1].options.on_full == OnFull::Invalidate;
    dropped && is_tight(setup, fired, slot)
}

/// True if every chunk must be in step with its slot: nothing can have made a request give its
/// chunks back while others took the next ones.
pub(crate) fn in_step(setup: &Setup, fired: &[(usize, RequestFault)]) -> bool {
    fired.is_empty() && (setup.order.is_none() || !setup.slots.iter().any(|slot| slot.tight))
}
