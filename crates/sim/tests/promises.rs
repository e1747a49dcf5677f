//! The machines of `dmsnap-sim`, as far as they fit into an unoptimised test run; there the
//! assertions of the code hold as well. `cargo run --release -p dmsnap-sim` runs them all.

use dmsnap_sim::draw::live;
use dmsnap_sim::hunt::{Tally, every_cut, every_fault};
use dmsnap_sim::report::report;
use dmsnap_sim::worlds::{find, named, sequences};

/// Worlds with tens of thousands of images, or with large areas: half a minute each without optimisation.
const LARGE: &[&str] = &[
    "merge-96",
    "merge-67",
    "publish-of-two-units",
    "areas-31-and-35",
    "units-of-an-area",
    "sequence-3",
    "waiting-writes",
];

/// Every cut of the worlds that are quick, and of every single operation.
#[test]
fn every_cut_of_small_worlds_keeps_every_promise() {
    let mut worlds = named();
    worlds.extend(sequences(1));
    worlds.retain(|world| world.plan.steps.len() <= 3 && !world.name.starts_with("status-"));
    worlds.retain(|world| !LARGE.iter().any(|large| world.name.starts_with(large)));
    let mut tally = Tally::default();
    for world in &worlds {
        match every_cut(&world.plan, &world.plan.setup.start()) {
            Ok(tried) => tally += tried,
            Err(failure) => panic!("{}: {}", world.name, report(&failure)),
        }
    }
    println!("{} worlds: {tally:?}", worlds.len());
    assert!(tally.images > 5_000, "the worlds have become too small: {tally:?}");
}

#[test]
fn every_fault_of_a_merge_with_writes_keeps_every_promise() {
    for name in ["merge-with-writes-1", "two-1-and-4", "create-over-store"] {
        let world = find(name).expect("is there");
        let tried = every_fault(&world.plan, &world.plan.setup.start());
        let tally = tried.unwrap_or_else(|failure| panic!("{name}: {}", report(&failure)));
        assert!(tally.faults > 300, "{name} has become too small: {tally:?}");
    }
}

#[test]
fn random_worlds_keep_every_promise() {
    let mut tally = Tally::default();
    for seed in 10_000..10_060 {
        match live(seed) {
            Ok(lived) => tally += lived,
            Err(failure) => panic!("seed {seed}: {}", report(&failure)),
        }
    }
    println!("{tally:?}");
    assert!(tally.images > 1_000, "the worlds have become too small: {tally:?}");
}

/// The same seed is the same run, request for request.
#[test]
fn a_seed_fixes_a_whole_run() {
    for seed in [3, 77, 1234] {
        let (one, other) = (live(seed), live(seed));
        assert_eq!(one.expect("holds"), other.expect("holds"));
    }
}

/// What seeds have found in the code, once each: two exceptions for one chunk, made while the COW device grew
/// in the middle of a large write (3548).
#[test]
fn seeds_that_found_something_find_nothing_more() {
    for seed in [3548] {
        if let Err(failure) = live(seed) {
            panic!("seed {seed}: {}", report(&failure));
        }
    }
}
