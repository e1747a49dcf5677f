//! What exports say of ranges, while those change.

use super::build::{World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Asked, Plan, Slot, Step};

/// All of them.
pub(super) fn served() -> Vec<World> {
    let mut all: Vec<_> = (1..5).flat_map(|order| [trims(order), bitmaps(order)]).collect();
    all.extend([dropped(), merging()]);
    all
}

fn ask(device: usize, asked: Asked) -> Action {
    Action::Status { device, asked, at: 0, len: 24 * SECTOR }
}

fn at_once(name: String, order: u64, backlog: u64, clients: Vec<Vec<Action>>) -> World {
    let mut setup = setup(24, vec![Slot::filled(1, 60, 2), Slot::filled(2, 40, 0)]);
    (setup.order, setup.backlog) = (Some(order), backlog);
    let steps = vec![Step { clients, faults: Vec::new() }];
    World { name, plan: Plan { setup, steps } }
}

/// The origin is given back, piece by piece, while clients ask where a snapshot has data.
fn trims(order: u64) -> World {
    let discard = |at, len| Action::Discard { device: 0, at: at * SECTOR, len: len * SECTOR };
    let zero = |at, len| {
        let (at, len) = (at * SECTOR, len * SECTOR);
        Action::Zero { device: 0, at, len, keep: false }
    };
    let clients = vec![
        vec![discard(2, 9), zero(14, 4)],
        vec![zero(18, 3), write(0, 18, 2), discard(21, 2)],
        vec![ask(1, Asked::Base), ask(2, Asked::Base), ask(1, Asked::Depth)],
        vec![ask(2, Asked::Depth), ask(0, Asked::Base), ask(1, Asked::Base)],
    ];
    at_once(format!("status-with-trims-{order}"), order, 0, clients)
}

/// Clients ask what has changed, while it changes.
fn bitmaps(order: u64) -> World {
    let clients = vec![
        vec![write(0, 3, 4), ask(0, Asked::Dirty(1)), write(0, 12, 2), flush(0)],
        vec![write(1, 5, 2), ask(1, Asked::Dirty(2)), ask(0, Asked::Dirty(2))],
        vec![write(0, 20, 1), ask(2, Asked::Dirty(2)), write(2, 8, 3), ask(2, Asked::Dirty(1))],
    ];
    let backlog = if order.is_multiple_of(2) { 64 << 10 } else { 0 };
    at_once(format!("status-with-writes-{order}"), order, backlog, clients)
}

/// A dropped snapshot keeps nothing any more, and so says nothing.
fn dropped() -> World {
    let discard = Action::Discard { device: 0, at: 2 * SECTOR, len: 9 * SECTOR };
    let mut acts = vec![Action::Drop { slot: 1 }, write(0, 12, 2), discard];
    for asked in [Asked::Base, Asked::Depth, Asked::Dirty(1)] {
        acts.push(ask(1, asked));
    }
    acts.extend([ask(0, Asked::Dirty(1)), ask(0, Asked::Dirty(2)), ask(2, Asked::Base)]);
    acts.push(ask(2, Asked::Dirty(1)));
    let slots = vec![Slot::filled(1, 60, 2), Slot::filled(2, 40, 0)];
    world("status-of-a-dropped-snapshot", setup(24, slots), acts)
}

/// While a snapshot merges the origin shows all of it: others see that as changes.
fn merging() -> World {
    let mut acts = vec![write(1, 4, 6), flush(1), Action::StartMerge { slot: 1 }];
    acts.extend([ask(0, Asked::Dirty(2)), ask(0, Asked::Base)]);
    acts.push(Action::RunMerge { window: 3 * 512, moves: 1 });
    acts.extend([write(0, 14, 2), ask(0, Asked::Dirty(2)), ask(2, Asked::Dirty(2))]);
    acts.push(Action::RunMerge { window: 3 * 512, moves: usize::MAX });
    acts.extend([ask(0, Asked::Dirty(2)), Action::Remove { slot: 1 }, ask(0, Asked::Dirty(2))]);
    let slots = vec![Slot::filled(1, 60, 2), Slot::filled(2, 40, 0)];
    world("status-with-a-merge", setup(24, slots), acts)
}
