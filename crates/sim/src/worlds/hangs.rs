//! Disks that hang, and clients that have nothing to do with them.

use dmsnap::volume::{OnFull, SnapshotOptions};

use super::build::{World, flush, setup, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Slot, Step};

/// All of them; each request of theirs is one after which a disk hangs.
pub(super) fn hangs() -> Vec<World> {
    let mut all: Vec<_> = (1..4)
        .flat_map(|order| [clients(order), operators(order), gates(order), removal(order)])
        .collect();
    all.extend([patience(), marks()]);
    all
}

fn at_once(name: String, order: u64, slots: Vec<Slot>, clients: Vec<Vec<Action>>) -> World {
    let mut setup = setup(24, slots);
    setup.order = Some(order);
    let steps = vec![Step { clients, faults: Vec::new() }];
    World { name, plan: Plan { setup, steps } }
}

fn two() -> Vec<Slot> {
    vec![Slot::filled(1, 60, 2), Slot::filled(2, 40, 0)]
}

fn read(device: usize) -> Action {
    Action::Read { device, at: 0, len: 24 * SECTOR }
}

fn clients(order: u64) -> World {
    let clients = vec![
        vec![write(0, 3, 2), flush(0)],
        vec![write(1, 9, 1), flush(1), read(1), write(1, 10, 2), flush(1)],
        vec![write(2, 8, 2), flush(2), read(2), write(2, 14, 1), flush(2)],
    ];
    at_once(format!("hang-with-clients-{order}"), order, two(), clients)
}

/// A snapshot is added or dropped meanwhile.
fn operators(order: u64) -> World {
    let mut slots = two();
    slots.push(Slot::empty(1, 40));
    let clients = vec![
        vec![write(0, 3, 2), flush(0)],
        vec![write(1, 9, 1), flush(1), write(1, 12, 1), read(1)],
        vec![write(2, 8, 2), flush(2), write(2, 16, 2), flush(2)],
        vec![match order {
            1 => Action::Add { slot: 3 },
            2 => Action::Drop { slot: 2 },
            _ => Action::Remove { slot: 2 },
        }],
    ];
    at_once(format!("hang-with-operators-{order}"), order, slots, clients)
}

/// A snapshot is taken out while origin writes keep old data in it, and another is made on its disk at once.
fn removal(order: u64) -> World {
    let operator = vec![Action::Remove { slot: 1 }, Action::Add { slot: 1 }];
    let clients = vec![vec![write(0, 3, 1), write(0, 5, 4)], operator, vec![write(0, 16, 2)]];
    at_once(format!("hang-with-removal-{order}"), order, vec![Slot::filled(1, 60, 2)], clients)
}

/// Somebody waits for room in one snapshot while what another one has not published is published.
fn patience() -> World {
    let on_full = OnFull::Wait { ticks: 9 };
    let options = SnapshotOptions { on_full, ..SnapshotOptions::default() };
    let full = Slot { tight: true, options, ..Slot::filled(1, 5, 2) };
    let clients = vec![vec![write(2, 8, 2), read(2)], vec![write(0, 20, 1)], vec![read(2)]];
    at_once("hang-with-patience".into(), 1, vec![full, Slot::filled(2, 40, 0)], clients)
}

/// The mark of a dropped snapshot hangs; its old data of sectors 0 and 11 is there.
fn marks() -> World {
    let slots = vec![Slot::filled(1, 60, 4), Slot::filled(1, 60, 2)];
    let clients = vec![
        vec![Action::Drop { slot: 2 }],
        vec![write(0, 0, 1), write(0, 11, 1), write(0, 0, 1), write(0, 11, 1), write(0, 0, 1)],
    ];
    at_once("hang-with-marks".into(), 1, slots, clients)
}

/// An operator wants nobody to write while a write hangs that keeps old data; clients that need none go on.
fn gates(order: u64) -> World {
    let slots = vec![Slot::filled(1, 60, 4), Slot::filled(1, 60, 2), Slot::empty(1, 40)];
    let known = || [write(0, 0, 1), write(0, 11, 1)];
    let clients = vec![
        vec![write(0, 3, 2)],
        vec![Action::Add { slot: 3 }],
        [known(), known(), known(), known()].concat(),
    ];
    at_once(format!("hang-with-gates-{order}"), order, slots, clients)
}
