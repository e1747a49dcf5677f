//! Short sequences of operations, all of them.

use super::build::{E, World, flush, setup, world, write};
use crate::naive::SECTOR;
use crate::plan::{Action, Slot};

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
