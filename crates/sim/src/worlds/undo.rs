//! Merges that are taken back while clients go on.

use super::build::{E, World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Setup, Slot, Step};

/// Begins to merge a snapshot, or takes the merge of its partner back.
fn merge(slot: usize) -> Action {
    Action::StartMerge { slot }
}

fn run(window: u64, moves: usize) -> Action {
    Action::RunMerge { window: window * 512, moves }
}

/// A snapshot in slot 1, whose way back is made in slot 2.
fn pair(filled: usize) -> Setup {
    let origin = filled + 8;
    let way_back = Slot { way_back_of: Some(1), ..Slot::empty(1, 2 * origin + 12) };
    setup(origin, vec![Slot::filled(1, 2 * origin + 12, filled), way_back])
}

pub(super) fn undone() -> Vec<World> {
    let mut worlds = Vec::new();
    for (filled, window) in [(3, 1), (5, 2), (E + 1, 9)] {
        let begun = || vec![Action::Add { slot: 2 }, merge(1)];
        // To its end, and back.
        let mut acts = begun();
        acts.extend([run(window, usize::MAX), write(0, 1, 2), flush(0), merge(2)]);
        acts.extend([run(window, usize::MAX), write(1, 4, 1), flush(1), write(0, 2, 1), flush(0)]);
        worlds.push(world(format!("undo-{filled}-by-{window}"), pair(filled), acts));
        // Half-way, and half-way again.
        let mut acts = begun();
        acts.extend([run(window, 1), write(0, 3, 2), flush(0), merge(2), run(window, 1)]);
        acts.extend([write(1, 5, 1), flush(1), merge(1), run(window, usize::MAX), flush(0)]);
        worlds.push(world(format!("undo-and-redo-{filled}"), pair(filled), acts));
        // Restarts in between.
        let mut acts = begun();
        acts.extend([run(window, 1), write(0, 2, 1), Action::Reopen, merge(2), run(window, 1)]);
        acts.extend([Action::Reopen, write(1, 6, 1), flush(1), merge(2)]);
        acts.extend([run(window, usize::MAX), flush(0), Action::Remove { slot: 2 }, flush(1)]);
        worlds.push(world(format!("undo-and-reopen-{filled}"), pair(filled), acts));
    }
    worlds.extend((1..5).map(beside_clients));
    worlds
}

/// Clients of other devices read and write while the roles are exchanged.
fn beside_clients(order: u64) -> World {
    let mut setup = pair(5);
    setup.order = Some(order);
    let read = |device, sector| Action::Read { device, at: sector * SECTOR, len: 2 * SECTOR };
    let begun = [Action::Add { slot: 2 }, merge(1), run(2, 1)].map(Step::one);
    let clients = vec![
        vec![merge(2), run(2, 2), merge(1), run(2, usize::MAX)],
        vec![read(1, 0), read(1, 3), read(1, 6)],
        vec![read(2, 1), read(2, 4), read(2, 0)],
    ];
    let steps = begun.into_iter().chain([Step { clients, faults: Vec::new() }]).collect();
    let name = format!("undo-with-reads-{order}");
    World { name, plan: Plan { setup, steps } }
}
