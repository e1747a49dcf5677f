//! Merges, alone and while others are at work.

use super::build::{E, World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Slot, Step};

fn start() -> Action {
    Action::StartMerge { slot: 1 }
}

fn run(window: u64, moves: usize) -> Action {
    Action::RunMerge { window: window * 512, moves }
}

pub(super) fn merges() -> Vec<World> {
    let mut worlds = Vec::new();
    for (filled, window) in [(1, 1), (5, 2), (E, 9), (E + 1, 40), (2 * E + 3, 40), (3 * E, 50)] {
        let origin = filled + 8;
        let slots = || vec![Slot::filled(1, filled + 12 + filled / E, filled)];
        let acts = vec![Action::OfflineMerge { slot: 1, window: window * 512 }];
        let name = format!("merge-{filled}-by-{window}");
        worlds.push(world(format!("{name}-offline"), setup(origin, slots()), acts));
        let mut acts = vec![start(), run(window, usize::MAX), write(0, 2, 1), flush(0)];
        // Again, in case the first one has failed.
        acts.extend([run(window, usize::MAX), Action::Remove { slot: 1 }]);
        worlds.push(world(format!("{name}-online"), setup(origin, slots()), acts));
    }
    worlds.extend(interrupted());
    // Clients at work in an open window.
    for order in 1..6 {
        let mut setup = setup(24, vec![Slot::filled(1, 60, 14)]);
        setup.order = Some(order);
        let clients = vec![
            vec![run(6, usize::MAX)],
            vec![write(0, 3, 2), flush(0), write(0, 7, 1)],
            vec![write(1, 9, 3), write(1, 14, 2), flush(1)],
        ];
        let steps = vec![Step::one(start()), Step { clients, faults: Vec::new() }];
        worlds.push(World {
            name: format!("merge-with-writes-{order}"),
            plan: Plan { setup, steps },
        });
    }
    // Given up, also after a clear that failed; the chunks written then have exceptions.
    let mut acts = vec![start(), run(3, usize::MAX), Action::CancelMerge];
    acts.extend([3, 5, 12, 0].map(|sector| write(0, sector, 1)));
    acts.push(flush(0));
    worlds.push(world("merge-given-up", setup(16, vec![Slot::filled(1, 60, 6)]), acts));
    worlds.extend((1..9).map(merge_with_reads));
    worlds
}

/// Merges that are paused, given up, or cut off by a restart, and gone on with.
fn interrupted() -> Vec<World> {
    let mut worlds = Vec::new();
    for (filled, window) in [(12, 3), (E + 6, 8)] {
        let slots = || vec![Slot::filled(1, filled + 40, filled)];
        let acts = vec![
            write(1, 1, 2),
            start(),
            run(window, 1),
            write(0, 3, 3),
            write(1, 9, 1),
            flush(0),
            Action::CancelMerge,
            write(1, 4, 2),
            flush(1),
            write(1, filled + 1, 4),
            flush(1),
            start(),
            run(window, usize::MAX),
            write(1, 0, 1),
            flush(1),
        ];
        worlds.push(world(format!("pause-and-resume-{filled}"), setup(filled + 8, slots()), acts));
        let acts = vec![start(), run(window, 2), Action::Reopen, start(), run(window, usize::MAX)];
        worlds.push(world(format!("reopen-and-resume-{filled}"), setup(filled + 8, slots()), acts));
    }
    worlds
}

/// Another snapshot is read from the chunks that a merge writes.
fn merge_with_reads(order: u64) -> World {
    let mut setup = setup(16, vec![Slot::filled(1, 60, 6), Slot::filled(1, 60, 0)]);
    setup.order = Some(order);
    let read = |sector| Action::Read { device: 2, at: sector * SECTOR, len: 3 * SECTOR };
    let clients = vec![
        vec![Action::RunMerge { window: 3 * 512, moves: usize::MAX }],
        vec![read(0), read(1), read(3), read(0)],
        vec![read(2), read(3), read(1), read(2)],
    ];
    let start = Step::one(Action::StartMerge { slot: 1 });
    let steps = vec![start, Step { clients, faults: Vec::new() }];
    World { name: format!("merge-with-reads-{order}"), plan: Plan { setup, steps } }
}

/// Two snapshots with different chunk sizes, and a merge of one of them.
pub(super) fn two_snapshots() -> Vec<World> {
    let mut worlds = Vec::new();
    for (one, other) in [(1, 4), (4, 1), (2, 8)] {
        let slots = || vec![Slot::filled(one, 60, 5), Slot::filled(other, 60, 2)];
        let mut acts = vec![write(0, 7, 3), write(1, 2, 1), write(2, 12, 2), flush(2), flush(0)];
        acts.push(Action::StartMerge { slot: 1 });
        acts.push(Action::RunMerge { window: 3 * 512 * one as u64, moves: usize::MAX });
        acts.extend([write(0, 1, 2), flush(0), flush(2)]);
        worlds.push(world(format!("two-{one}-and-{other}"), setup(40, slots()), acts));
        for order in 1..3 {
            let mut setup = setup(40, slots());
            setup.order = Some(order);
            let clients = vec![
                vec![write(0, 4, 3), flush(0)],
                vec![write(0, 9, 1), write(1, 20, 2), flush(1)],
                vec![write(2, 5, 1), flush(2)],
            ];
            let steps = vec![Step { clients, faults: Vec::new() }];
            let name = format!("two-{one}-and-{other}-at-once-{order}");
            worlds.push(World { name, plan: Plan { setup, steps } });
        }
    }
    worlds
}
