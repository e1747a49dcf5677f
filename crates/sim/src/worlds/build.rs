//! What worlds are built from.

use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Setup, Slot, Step};

/// A small machine with a name.
#[derive(Clone, Debug)]
pub struct World {
    /// What it is about; replays are asked for by it.
    pub name: String,
    /// The machine.
    pub plan: Plan,
}

/// Slots in an area of a store with chunks of one sector.
pub(super) const E: usize = 32;

pub(super) fn setup(origin: usize, slots: Vec<Slot>) -> Setup {
    Setup { block: 512, origin, backlog: 0, stacked: false, slots, order: None }
}

pub(super) fn world(name: impl Into<String>, setup: Setup, actions: Vec<Action>) -> World {
    let steps = actions.into_iter().map(Step::one).collect();
    World { name: name.into(), plan: Plan { setup, steps } }
}

impl World {
    /// True if it is one of a series.
    pub fn is_sequence(&self) -> bool {
        self.name.starts_with("sequence-")
    }
}

pub(super) fn write(device: usize, sector: usize, sectors: usize) -> Action {
    Action::Write { device, at: sector * SECTOR, len: sectors * SECTOR }
}

pub(super) fn flush(device: usize) -> Action {
    Action::Flush { device }
}
