//! Requests of every kind.

use dmsnap::volume::SnapshotOptions;

use super::build::{World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Slot, Step};

/// Requests that begin and end anywhere, discards, zeroes; an origin that ends inside a chunk; a
/// snapshot of a snapshot.
pub(super) fn odd_requests() -> Vec<World> {
    let discards = SnapshotOptions {
        discard_zeroes: true,
        discard_passdown: true,
        ..SnapshotOptions::default()
    };
    let slot = || Slot { options: discards.clone(), ..Slot::filled(4, 40, 3) };
    let odd = |device, at, len| Action::Write { device, at, len };
    let zero = |device, at, len, keep| Action::Zero { device, at, len, keep };
    let discard = |device, at, len| Action::Discard { device, at, len };
    let mut stacked = setup(30, vec![slot()]);
    stacked.stacked = true;
    let acts = vec![odd(0, 700, 900), odd(1, 100, 5000), flush(1), odd(0, 3000, 1), flush(0)];
    vec![
        world("odd-bytes", setup(31, vec![slot()]), acts.clone()),
        world("snapshot-of-a-snapshot", stacked, acts),
        world(
            "discards",
            setup(31, vec![slot()]),
            vec![
                write(1, 0, 10),
                flush(1),
                discard(1, 512, 9 * 512),
                discard(0, 700, 3000),
                flush(0),
                flush(1),
            ],
        ),
        world(
            "zeroes",
            setup(31, vec![slot()]),
            vec![zero(1, 512, 9 * 512, true), zero(0, 4096, 3000, false), flush(1), flush(0)],
        ),
    ]
}

/// Origin writes that wait for each other in memory.
pub(super) fn waiting_writes() -> Vec<World> {
    let mut worlds = Vec::new();
    for (chunk, order) in [(1, None), (4, None), (1, Some(1)), (1, Some(2)), (2, Some(3))] {
        let slots = vec![Slot::filled(chunk, 90, 3), Slot::filled(2, 60, 0)];
        let mut setup = setup(30, slots);
        setup.backlog = 64 << 10;
        setup.order = order;
        let read = |device| Action::Read { device, at: 0, len: 30 * SECTOR };
        let first = vec![
            vec![write(0, 3, 2), write(0, 9, 4), read(0), flush(0)],
            vec![write(0, 20, 1), write(1, 4, 2), read(1), flush(1)],
        ];
        let zero = Action::Zero { device: 0, at: 9 * SECTOR, len: 2 * SECTOR, keep: true };
        let second = vec![vec![write(0, 9, 3), zero, write(0, 10, 2)], vec![write(0, 25, 2)]];
        let third = vec![vec![Action::StartMerge { slot: 2 }, write(0, 2, 3), flush(0)]];
        let steps = [first, second, third].map(|clients| Step { clients, faults: Vec::new() });
        let name = format!("waiting-writes-{chunk}-{}", order.unwrap_or(0));
        worlds.push(World { name, plan: Plan { setup, steps: steps.into() } });
    }
    worlds
}

/// A flush that has nothing to publish, while a chunk is copied.
pub(super) fn flushes_beside_copies() -> Vec<World> {
    let mut worlds = Vec::new();
    for order in 1..9 {
        let mut setup = setup(24, vec![Slot::filled(1, 60, 4)]);
        setup.order = Some(order);
        let beside = vec![vec![flush(1)], vec![write(1, 12, 1)], vec![write(1, 14, 1)]];
        let after = vec![vec![flush(1)]];
        let steps = [beside, after].map(|clients| Step { clients, faults: Vec::new() });
        let name = format!("flush-with-copies-{order}");
        worlds.push(World { name, plan: Plan { setup, steps: steps.into() } });
    }
    worlds
}
