//! What seldom meets: a fault while a read is under way, reads across the end of a merge, chunks given back
//! before a store is full, a snapshot taken out while origin writes wait.

use dmsnap::volume::{OnFull, SnapshotOptions};

use super::build::{World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Setup, Slot, Step};

/// All of them.
pub(super) fn rare() -> Vec<World> {
    let mut all: Vec<_> = (1..5)
        .flat_map(|order| [reads(order), cancelled(order), spare(order), discards(order)])
        .collect();
    all.extend([taken_out(), growth(), room(), mark(), units(), cached()]);
    all
}

fn read(device: usize, sector: usize, sectors: usize) -> Action {
    Action::Read { device, at: sector * SECTOR, len: sectors * SECTOR }
}

fn in_steps(name: String, setup: Setup, steps: Vec<Vec<Vec<Action>>>) -> World {
    let steps = steps.into_iter().map(|clients| Step { clients, faults: Vec::new() });
    World { name, plan: Plan { setup, steps: steps.collect() } }
}

/// A flush fails while what it was to make durable is read.
fn reads(order: u64) -> World {
    let mut setup = setup(24, vec![Slot::filled(1, 60, 2)]);
    setup.order = Some(order);
    let clients = vec![
        vec![write(1, 12, 2), flush(1), write(1, 15, 1)],
        vec![read(1, 11, 6), read(1, 12, 1), read(1, 10, 9)],
        vec![read(1, 12, 2), read(1, 9, 8), read(1, 12, 4)],
    ];
    in_steps(format!("flush-with-reads-{order}"), setup, vec![clients])
}

/// A merge is given up while chunks that it has cleared are still read; they are given out again.
fn cancelled(order: u64) -> World {
    let mut setup = setup(24, vec![Slot::filled(1, 60, 14)]);
    setup.order = Some(order);
    let begin = vec![vec![Action::StartMerge { slot: 1 }]];
    let merge = vec![
        Action::RunMerge { window: 5 * 512, moves: 1 },
        Action::CancelMerge,
        write(1, 1, 6),
        write(1, 9, 6),
    ];
    let reader = |device| (0..5).map(|n| read(device, 2 * n, 14)).collect();
    let clients = vec![merge, reader(1), reader(0), reader(1), reader(0)];
    in_steps(format!("cancel-with-reads-{order}"), setup, vec![begin, clients])
}

/// Chunks come back out of their order, a merge clears some before them, and then the store fills up.
fn spare(order: u64) -> World {
    let options = SnapshotOptions { on_full: OnFull::Fail, ..SnapshotOptions::default() };
    let slot = Slot { tight: true, options, ..Slot::filled(1, 14, 4) };
    let mut setup = setup(24, vec![slot]);
    setup.order = Some(order);
    let first = vec![vec![write(1, 15, 1)], vec![write(1, 17, 1)], vec![write(1, 19, 1)]];
    let merge = vec![vec![
        flush(1),
        Action::StartMerge { slot: 1 },
        Action::RunMerge { window: 2 * 512, moves: 2 },
        Action::CancelMerge,
    ]];
    let fill = (0..12).map(|n| write(1, 2 * n, 1)).chain([flush(1)]).collect();
    let steps = vec![first, merge, vec![fill], vec![vec![Action::Reopen]]];
    in_steps(format!("spare-chunks-{order}"), setup, steps)
}

/// An origin write that waits in memory has found room for what it overwrites: nobody takes that any more.
fn room() -> World {
    let slot = Slot { tight: true, ..Slot::filled(1, 6, 2) };
    let mut setup = setup(24, vec![slot]);
    setup.backlog = 64 << 10;
    let mut acts = vec![write(0, 3, 1), write(1, 13, 1), write(1, 15, 1), write(1, 17, 1)];
    acts.extend([flush(0), Action::Find { slot: 1 }, flush(1), Action::Find { slot: 1 }]);
    world("room-of-waiting-writes", setup, acts)
}

/// A COW disk that can grow finds no room for that, for a while.
fn growth() -> World {
    let options = SnapshotOptions {
        on_full: OnFull::Fail,
        max_bytes: Some(40 * 512),
        ..SnapshotOptions::default()
    };
    let slot = Slot { tight: true, grows_to: 40, options, ..Slot::filled(1, 5, 1) };
    let first = vec![vec![write(0, 1, 3), write(1, 10, 6), flush(1), write(0, 6, 2)]];
    let second = vec![vec![write(0, 18, 2), flush(0), write(1, 21, 2), flush(1)]];
    in_steps("growth-without-room".into(), setup(24, vec![slot]), vec![first, second])
}

/// Origin writes wait in memory when a snapshot is taken out.
fn taken_out() -> World {
    let mut setup = setup(24, vec![Slot::filled(1, 60, 2), Slot::filled(2, 40, 0)]);
    setup.backlog = 64 << 10;
    let acts = vec![write(0, 3, 4), write(2, 9, 2), Action::Remove { slot: 1 }, flush(0)];
    world("taken-out-while-writes-wait", setup, acts)
}

/// A discard of the origin and the begin of a merge meet.
fn discards(order: u64) -> World {
    let mut setup = setup(24, vec![Slot::filled(1, 60, 3)]);
    setup.order = Some(order);
    let discard = |at| Action::Discard { device: 0, at: at * SECTOR, len: 3 * SECTOR };
    let clients = vec![
        vec![Action::StartMerge { slot: 1 }],
        vec![discard(1), discard(2), discard(3)],
        vec![discard(5), discard(6), discard(7)],
        vec![write(0, 15, 1), discard(16), discard(17), read(0, 0, 24)],
    ];
    in_steps(format!("discard-with-a-merge-{order}"), setup, vec![clients])
}

/// A snapshot is dropped, and for a while there is no room for its mark.
fn mark() -> World {
    let acts = vec![write(0, 3, 1), write(0, 5, 1), flush(0)];
    let mut world = world("mark-without-room", setup(24, vec![Slot::filled(1, 60, 2)]), acts);
    world.plan.steps.push(Step::one(Action::Reopen));
    world
}

/// One publish of an area that several units hold: the list ends with a unit before it.
fn units() -> World {
    let slots = vec![Slot::filled(8, 90, 30)];
    let clients = vec![vec![write(1, 8 * 31, 8 * 9), write(1, 8 * 55, 8), flush(1)]];
    in_steps("publish-of-two-units".into(), setup(8 * 75, slots), vec![clients])
}

/// A flush fails that was to publish the last two slots of an area, the cache goes on to show them, and
/// the next opening need not write there.
fn cached() -> World {
    let slots = vec![Slot::filled(1, 90, 30)];
    let acts = vec![write(1, 1, 2), flush(1), Action::Reopen, write(0, 1, 2), flush(0)];
    world("cache-believed", setup(48, slots), acts)
}
