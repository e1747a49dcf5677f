//! Small machines, of which every cut is tried.

mod served; // what exports say of ranges
mod hangs; // disks that hang
mod rare; // what seldom meets

use dmsnap::volume::{OnFull, SnapshotOptions};

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
const E: usize = 32;

fn setup(origin: usize, slots: Vec<Slot>) -> Setup {
    Setup { block: 512, origin, backlog: 0, stacked: false, slots, order: None }
}

fn world(name: impl Into<String>, setup: Setup, actions: Vec<Action>) -> World {
    let steps = actions.into_iter().map(Step::one).collect();
    World { name: name.into(), plan: Plan { setup, steps } }
}

impl World {
    /// True if it is one of a series.
    pub fn is_sequence(&self) -> bool {
        self.name.starts_with("sequence-")
    }
}

fn write(device: usize, sector: usize, sectors: usize) -> Action {
    Action::Write { device, at: sector * SECTOR, len: sectors * SECTOR }
}

fn flush(device: usize) -> Action {
    Action::Flush { device }
}

/// The worlds with a name of their own.
pub fn named() -> Vec<World> {
    let mut all = creation();
    all.extend(first_writes());
    all.extend(boundaries());
    all.extend(full_stores());
    all.extend(strays());
    all.extend(merges());
    all.extend(two_snapshots());
    all.extend(odd_requests());
    all.extend(waiting_writes());
    all.extend(flushes_beside_copies());
    all.extend(rare::rare());
    all.extend(served::served());
    all.extend(hangs::hangs());
    all
}

/// A store is made: on a blank disk, over an older store with another chunk size.
fn creation() -> Vec<World> {
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

fn first_writes() -> Vec<World> {
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
fn boundaries() -> Vec<World> {
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

fn full_stores() -> Vec<World> {
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

/// What a kernel left behind the end of a list.
fn strays() -> Vec<World> {
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

fn merges() -> Vec<World> {
    let mut worlds = Vec::new();
    let start = || Action::StartMerge { slot: 1 };
    let run = |window, moves| Action::RunMerge { window: window * 512, moves };
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
fn two_snapshots() -> Vec<World> {
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

/// Requests that begin and end anywhere, discards, zeroes; an origin that ends inside a chunk; a
/// snapshot of a snapshot.
fn odd_requests() -> Vec<World> {
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
fn waiting_writes() -> Vec<World> {
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

/// A flush that has nothing to publish, beside a chunk that is copied.
fn flushes_beside_copies() -> Vec<World> {
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

/// What one operation of a short sequence can be, on a store with chunks of one sector.
fn alphabet() -> Vec<Action> {
    vec![
        write(1, 50, 1),
        write(1, 47, 2),
        Action::Fua { device: 1, at: 45 * SECTOR + 100, len: 700 },
        write(0, 50, 1),
        write(0, 40, 3),
        flush(1),
        flush(0),
        Action::Discard { device: 0, at: 38 * SECTOR, len: 2 * SECTOR },
        Action::StartMerge { slot: 1 },
        Action::RunMerge { window: 3 * 512, moves: 4 },
        Action::CancelMerge,
        Action::Reopen,
        Action::Write { device: 1, at: 0, len: 52 * SECTOR },
    ]
}

/// Every sequence of `len` operations on stores with no, one, a nearly full area, a full one and one
/// more exception.
pub fn sequences(len: u32) -> Vec<World> {
    let alphabet = alphabet();
    let mut worlds = Vec::new();
    for filled in [0, 1, E - 2, E - 1, E, E + 1] {
        for n in 0..alphabet.len().pow(len) {
            let letters = (0..len).map(|at| n / alphabet.len().pow(at) % alphabet.len());
            let letters: Vec<usize> = letters.collect();
            let acts = letters.iter().map(|letter| alphabet[*letter].clone()).collect();
            let letters: Vec<String> = letters.iter().map(usize::to_string).collect();
            let name = format!("sequence-{filled}-{}", letters.join("-"));
            worlds.push(world(name, setup(52, vec![Slot::filled(1, 100, filled)]), acts));
        }
    }
    worlds
}

/// The world with this name.
pub fn find(name: &str) -> Option<World> {
    let letters = name.matches('-').count().saturating_sub(1);
    let length = u32::try_from(letters).unwrap_or(0);
    let mut all = match name.starts_with("sequence-") {
        true => sequences(length),
        false => named(),
    };
    all.retain(|world| world.name == name);
    all.pop()
}
