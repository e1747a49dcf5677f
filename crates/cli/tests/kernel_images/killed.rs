//! A merge killed at any moment leaves the snapshot readable, and the next merge finishes it.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::kernel_images::images::{Unpacked, sha256, vector};
use crate::kernel_images::run::{dmsnap, ended, start};
use crate::kernel_images::store::exceptions;

/// Kills per store.
const ROUNDS: u32 = 5;

/// Small numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The seed of `DMSNAP_SEED`, or a new one. Either way it is printed.
fn random() -> Random {
    let seed = match std::env::var("DMSNAP_SEED") {
        Ok(seed) => seed.parse().expect("DMSNAP_SEED is a number"),
        Err(_) => RandomState::new().hash_one("dmsnap"),
    };
    eprintln!("the same choices again: DMSNAP_SEED={seed} cargo test -p dmsnap-cli kernel_images");
    Random(seed)
}

fn left(store: &Unpacked) -> u64 {
    exceptions(&store.cow).len() as u64
}

fn args(words: &[&str], store: &Unpacked) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        vec![words[0].into(), (&store.cow).into(), (&store.origin).into()];
    args.extend(words[1..].iter().map(OsString::from));
    args
}

/// A merge slow enough to be caught: a store with `data_bytes` takes two seconds.
fn start_slow_merge(store: &Unpacked, data_bytes: u64) -> Child {
    let rate = format!("{}k", data_bytes.div_ceil(2 * 1024));
    let window = format!("{}s", 8 * store.vector.chunk_size_sectors);
    start(args(&["merge", "--rate", &rate, "--window", &window], store))
}

/// Waits until at most `target` exceptions are left, or the merge has ended; then a little longer.
fn wait_for(merge: &mut Child, store: &Unpacked, target: u64, longer: Duration) {
    while left(store) > target && merge.try_wait().expect("the merge can be asked").is_none() {
        sleep(Duration::from_millis(1));
    }
    sleep(longer);
}

fn data_bytes(store: &Unpacked) -> u64 {
    left(store) * store.vector.chunk_size_sectors * 512
}

/// Fails unless the store is sound and still shows the snapshot.
fn assert_readable(store: &Unpacked, told: &str) {
    dmsnap(args(&["check"], store)).expect(0);
    let image = store.path("out.img");
    let output = image.to_str().expect("a plain path");
    dmsnap(args(&["export", output, "--force"], store)).expect(0);
    assert_eq!(sha256(&image), store.vector.snapshot_sha256(), "wrong content after {told}");
}

/// Merges the rest and fails unless the origin has become the snapshot.
fn finish(store: &Unpacked) {
    dmsnap(args(&["merge"], store)).expect(0);
    let name = store.name();
    assert_eq!(sha256(&store.origin), store.vector.snapshot_sha256(), "{name}: wrong origin");
    assert_eq!(left(store), 0, "{name}");
    dmsnap(args(&["check"], store)).expect(0);
}

/// Kills merges of one store until `ROUNDS` are over or nothing is left, and finishes it. Returns
/// how many were caught half-way.
fn kill_and_finish(name: &str, random: &mut Random) -> u32 {
    let store = vector(name).unpack();
    let data_bytes = data_bytes(&store);
    let mut caught = 0;
    for round in 0..ROUNDS {
        let before = left(&store);
        if before == 0 {
            break;
        }
        let target = before / 4 + random.below(before - before / 4);
        let longer = Duration::from_micros(random.below(20_000));
        let mut merge = start_slow_merge(&store, data_bytes);
        wait_for(&mut merge, &store, target, longer);
        merge.kill().expect("the merge can be killed");
        merge.wait().expect("the merge ends");
        let after = left(&store);
        let told = format!("{name}, round {round}: {before} exceptions, then {after}");
        eprintln!("{told}");
        caught += u32::from(0 < after && after < before);
        assert!(after <= before, "{told}");
        assert_readable(&store, &told);
    }
    finish(&store);
    caught
}

#[test]
fn a_merge_killed_again_and_again_comes_to_the_same_end() {
    let mut random = random();
    for name in ["sequential-4k", "random-8k", "crashed-merge-16k", "mixed-32k"] {
        // On a machine that stands still for a second, a merge may get away.
        let caught = (0..3).any(|_| kill_and_finish(name, &mut random) > 0);
        assert!(caught, "{name}: no merge was caught half-way");
    }
}

#[test]
fn an_interrupted_merge_stops_in_order_and_says_how_to_go_on() {
    let store = vector("random-4k").unpack();
    let before = left(&store);
    let mut merge = start_slow_merge(&store, data_bytes(&store));
    wait_for(&mut merge, &store, before - 1, Duration::ZERO);
    let pid = Pid::from_child(&merge);
    kill_process(pid, Signal::INT).expect("the merge can be interrupted");
    let stopped = ended(merge).expect(3).stderr();
    let after = left(&store);
    assert!(0 < after && after < before, "{before} exceptions, then {after}: {stopped}");
    assert!(stopped.contains(&format!("{after} left")), "{stopped}");
    assert!(stopped.contains("goes on"), "{stopped}");
    assert_readable(&store, "an interrupted merge");
    finish(&store);
}
