//! One origin with two snapshots, handed back and forth, each side crashing in the middle.
//!
//! The kernel maps it and writes, and loses its power; dmsnap serves it, and is killed; and so on,
//! for some rounds with plain snapshots, then with one of them merging until somebody has finished.
//! At each turn every sector of every device holds what was acknowledged last or something newer that
//! was sent, stores are sound, and the one that finishes the merge leaves the snapshot on the origin.

mod turns; // what either side does when it has the devices

use crate::kernel::guest::skipped;
use crate::kernel::machine::Machine;
use crate::kernel::pair::directory;
use crate::kernel::random::{Random, rounds};

use crate::kernel::history::choose::CHUNKS;
use crate::kernel::history::mapped::DISK_BYTES;
use turns::{Crash, Relay};

/// Turns before one of the snapshots begins to merge.
const PLAIN: u64 = 4;

/// Turns with a merge, after which it is let finish.
const MERGING: u64 = 8;

/// Of this many crashes of the kernel one ends the machine itself: that takes another boot.
const MACHINES: u64 = 12;

#[derive(Default)]
struct Figures {
    stores: u64,
    cuts: u64,
    machines: u64,
    kills: u64,
    orderly: u64,
    merged: u64,
    writes: u64,
}

#[test]
fn a_store_survives_the_crashes_of_the_kernel_and_of_dmsnap_in_turn() {
    if skipped() {
        return;
    }
    let (seed, rounds) = (Random::seed(), rounds(4));
    let seconds = 180 + 30 * rounds;
    let mut machine = Machine::boot(directory(), DISK_BYTES, seconds);
    let mut figures = Figures::default();
    for n in 0..rounds {
        let mut random = Random::from(seed + n);
        // Each chunk size has its turn.
        let chunk = CHUNKS[usize::try_from((seed + n) % CHUNKS.len() as u64).expect("small")];
        eprintln!("seed {}, chunks of {} bytes", seed + n, chunk * 512);
        let mut relay = Relay::new(chunk, &mut random);
        figures.stores += 2;
        for turn in 0..PLAIN + MERGING {
            if turn == PLAIN {
                relay.merging = true;
            }
            if relay.is_merged() {
                break;
            }
            one_turn(&mut relay, &mut machine, &mut random, &mut figures, seconds);
        }
        relay.finish(&mut machine, &mut random);
        figures.merged += 1;
    }
    println!(
        "FIGURES crashes: {} stores, {} times a mapped one was cut off, {} machines killed, {} \
         servers killed, {} orderly ends; {} writes under way or acknowledged; {} merges finished",
        figures.stores,
        figures.cuts,
        figures.machines,
        figures.kills,
        figures.orderly,
        figures.writes,
        figures.merged
    );
}

fn one_turn(
    relay: &mut Relay,
    machine: &mut Machine,
    random: &mut Random,
    figures: &mut Figures,
    seconds: u64,
) {
    match random.below(2 * MACHINES) {
        0 => {
            figures.machines += 1;
            figures.writes += relay.map(machine, random, Crash::Machine(seconds));
        }
        1..MACHINES => {
            figures.cuts += 1;
            figures.writes += relay.map(machine, random, Crash::Devices);
        }
        it if it % 8 == 0 => {
            figures.orderly += 1;
            figures.writes += relay.serve(random, false);
        }
        _ => {
            figures.kills += 1;
            figures.writes += relay.serve(random, true);
        }
    }
}
