//! Stores that are made, filled, and found as kernels left them.

use super::build::{E, World, flush, setup, world, write};
use crate::plan::{Action, Slot};

/// A store is made: on a blank disk, over an older store with another chunk size.
pub(super) fn creation() -> Vec<World> {
    let add = || Action::Add { slot: 1 };
    let again = vec![
        write(1, 3, 5),
        flush(1),
        Action::Remove { slot: 1 },
        write(0, 0, 9),
        add(),
        write(0, 1, 2),
        write(1, 2, 1),
        flush(1),
    ];
    let mut dropped = vec![write(1, 3, 2), Action::Drop { slot: 1 }, write(0, 0, 9), flush(0)];
    dropped.push(Action::Reopen);
    vec![
        world("create", setup(24, vec![Slot::empty(1, 40)]), vec![add(), write(0, 0, 3), flush(0)]),
        world("create-over-store", setup(24, vec![Slot::filled(1, 60, 12)]), again.clone()),
        world(
            "create-large-chunks",
            setup(24, vec![Slot::empty(8, 8)]),
            vec![add(), write(0, 0, 3)],
        ),
        world("create-over-full-area", setup(48, vec![Slot::filled(1, 90, E)]), again),
        world("drop", setup(24, vec![Slot::filled(1, 60, 5)]), dropped),
    ]
}

pub(super) fn first_writes() -> Vec<World> {
    let mut worlds = Vec::new();
    for (chunk, chunks) in [(1, 60), (2, 80), (8, 12)] {
        let slot = || Slot::filled(chunk, chunks, 0);
        for (what, first) in [("snapshot", 1), ("origin", 0)] {
            let acts = vec![
                write(first, 3, 1),
                write(first, 5, 9),
                flush(first),
                write(1 - first, 4, 2),
                flush(1 - first),
            ];
            worlds.push(world(
                format!("first-{what}-write-{chunk}"),
                setup(24, vec![slot()]),
                acts,
            ));
        }
    }
    // What a flush has half done is believed, or not, by the next opening.
    let acts = vec![write(1, 9, 2), flush(1), Action::Reopen, write(0, 9, 2), flush(0)];
    worlds.push(world("reopened", setup(24, vec![Slot::filled(1, 60, 3)]), acts));
    // Stores that remember their origin, which changes under them as it may.
    let fenced = || vec![Slot { fenced: true, ..Slot::filled(1, 60, 3) }];
    let acts =
        vec![write(0, 0, 6), flush(0), Action::Reopen, write(0, 8, 1), flush(0), Action::Reopen];
    worlds.push(world("fenced-reopened", setup(9, fenced()), acts));
    let merge = [
        Action::StartMerge { slot: 1 },
        Action::RunMerge { window: 512, moves: 2 },
        write(0, 3, 2),
        flush(0),
    ];
    let acts = merge.into_iter().chain([Action::CancelMerge, Action::Reopen]).collect();
    worlds.push(world("fenced-merge", setup(9, fenced()), acts));
    let acts = vec![Action::OfflineMerge { slot: 1, window: 512 }, Action::Reopen];
    worlds.push(world("fenced-offline", setup(9, fenced()), acts));
    // A disk that writes more untorn than a sector.
    let mut large = setup(48, vec![Slot::filled(16, 8, 1)]);
    large.block = 4096;
    worlds.push(world(
        "large-blocks",
        large,
        vec![write(1, 3, 1), write(0, 20, 3), flush(1), flush(0)],
    ));
    worlds
}

/// Lists that reach the end of an area, go beyond it, span several.
pub(super) fn boundaries() -> Vec<World> {
    let mut worlds = Vec::new();
    for filled in [E - 2, E - 1, E, E + 1] {
        for more in [1, 2, 3] {
            let name = format!("area-{filled}-and-{more}");
            let slots = vec![Slot::filled(1, 120, filled)];
            let mut acts: Vec<_> = (0..more).map(|n| write(0, 60 + n, 1)).collect();
            acts.push(flush(0));
            worlds.push(world(format!("{name}-origin"), setup(64, slots.clone()), acts));
            let acts = vec![write(1, 60, more), flush(1), write(1, 59, 1), flush(1)];
            worlds.push(world(format!("{name}-snapshot"), setup(64, slots), acts));
        }
    }
    for (filled, more) in [(0, E + 2), (E - 1, E + 3), (5, 2 * E + 1), (1, 2 * E - 1)] {
        let slots = vec![Slot::filled(1, 140, filled)];
        let setup = setup(filled + more + 4, slots);
        let acts = vec![write(1, 0, filled + more + 2), flush(1)];
        worlds.push(world(format!("areas-{filled}-and-{more}"), setup, acts));
    }
    // Several units of one area: chunks of 8 sectors have areas of 8 units.
    let slots = vec![Slot::filled(8, 90, 30)];
    let acts = vec![write(1, 0, 8 * 40), flush(1)];
    worlds.push(world("units-of-an-area", setup(8 * 75, slots), acts));
    worlds
}

/// What a kernel left past the end of a list.
pub(super) fn strays() -> Vec<World> {
    let mut worlds = Vec::new();
    // Chunks of 8 sectors: the list ends with one untorn unit, and the strays lie in the next.
    for filled in [30, 31] {
        let slots = vec![Slot { strays: 9, ..Slot::filled(8, 90, filled) }];
        let acts = vec![write(1, 8 * 70, 1), flush(1), write(1, 8 * 71, 8), flush(1)];
        worlds.push(world(format!("strays-in-the-next-unit-{filled}"), setup(8 * 75, slots), acts));
    }
    let damaged = Slot { damaged: true, ..Slot::filled(1, 60, 5) };
    worlds.push(world("damaged", setup(40, vec![damaged]), vec![write(0, 1, 2), flush(0)]));
    for (filled, strays) in [(0, 3), (3, 1), (7, 9), (E - 4, 2)] {
        let slot = || Slot { strays, ..Slot::filled(1, 60, filled) };
        let name = |what| format!("strays-{filled}-{strays}-{what}");
        let setup = || setup(40, vec![slot()]);
        let acts = vec![write(1, 35, 1), flush(1), write(1, 36, 1), flush(1)];
        worlds.push(world(name("snapshot"), setup(), acts));
        worlds.push(world(name("origin"), setup(), vec![write(0, 35, 2), flush(0)]));
        let acts = vec![Action::OfflineMerge { slot: 1, window: 512 * 4 }];
        worlds.push(world(name("merge"), setup(), acts));
    }
    worlds
}
