//! Stores that have no room.

use dmsnap::volume::{OnFull, SnapshotOptions};

use super::build::{E, World, flush, setup, world, write};
use crate::plan::{Action, Plan, Slot, Step};

pub(super) fn full_stores() -> Vec<World> {
    let mut worlds = Vec::new();
    let policies = [
        ("dropped", OnFull::Invalidate),
        ("fails", OnFull::Fail),
        ("waits", OnFull::Wait { ticks: 2 }),
    ];
    for (what, on_full) in policies {
        for (chunks, filled) in [(5, 1), (E + 2, E - 2), (E + 3, E - 1), (E + 4, E)] {
            let options = SnapshotOptions { on_full, ..SnapshotOptions::default() };
            let slot = Slot { tight: true, options, ..Slot::filled(1, chunks, filled) };
            let other = Slot::filled(2, 40, 0);
            let mut acts = vec![write(1, 38, 1), write(0, 36, 1), write(0, 34, 2)];
            acts.extend([write(0, 30, 3), flush(0), write(1, 36, 1), flush(1), flush(2)]);
            worlds.push(world(format!("full-{what}-{chunks}"), setup(40, vec![slot, other]), acts));
        }
    }
    // Several clients meet the end of the room at once.
    for order in 1..9 {
        let slot = Slot { tight: true, ..Slot::filled(1, 5, 1) };
        let mut setup = setup(24, vec![slot]);
        setup.order = Some(order);
        let clients = (1..5).map(|n| vec![write(0, 4 * n, 1), flush(0), write(0, 4 * n + 1, 1)]);
        let steps = vec![Step { clients: clients.collect(), faults: Vec::new() }];
        let name = format!("full-at-once-{order}");
        worlds.push(World { name, plan: Plan { setup, steps } });
    }
    let slot = Slot { tight: true, grows_to: 40, ..Slot::filled(1, 5, 1) };
    let acts = vec![write(1, 10, 6), flush(1), write(0, 1, 3), flush(0)];
    worlds.push(world("grows", setup(24, vec![slot]), acts));
    let slot = Slot {
        tight: true,
        options: SnapshotOptions { on_full: OnFull::Fail, ..SnapshotOptions::default() },
        ..Slot::filled(1, 4, 1)
    };
    let mut acts = vec![write(1, 10, 3), Action::Lengthen { slot: 1, chunks: 40 }];
    acts.extend([write(1, 10, 3), write(0, 1, 3), flush(0), flush(1)]);
    worlds.push(world("lengthened", setup(24, vec![slot]), acts));
    worlds
}
