//! A merge cut at any operation, with any part of the unflushed writes of both disks surviving,
//! and run again: the origin ends as the snapshot, and the store empty and without strays.

use dmsnap::ops::{self, Error, MergeOptions, Observer, Progress, Silent};
use dmsnap_sim::{Disk, Power, RequestFault, run};

use crate::common::{World, bytes, scattered};

fn options(window_bytes: u64) -> MergeOptions {
    // Both ways to move a window.
    let long_run_bytes = if (window_bytes / 512).is_multiple_of(2) { 0 } else { u64::MAX };
    MergeOptions { window_bytes, long_run_bytes, ..MergeOptions::default() }
}

struct Machine {
    power: Power,
    cow: Disk,
    origin: Disk,
}

impl Machine {
    fn new(cow: Vec<u8>, origin: Vec<u8>, block: u32, power: Power) -> Self {
        let (cow, origin) = (Disk::new(cow, block, &power), Disk::new(origin, block, &power));
        Self { power, cow, origin }
    }

    fn merge(&self, window_bytes: u64) -> Result<ops::Merged, Error> {
        run(ops::merge(&self.cow, &self.origin, options(window_bytes), &Silent))
    }

    fn assert_merged(&self, world: &World, told: &str) {
        assert!(self.origin.content() == world.snapshot, "wrong content: {told}");
        let info = run(ops::info(&self.cow)).expect("a store");
        assert!(info.valid && info.exceptions == 0, "not empty: {told}");
        let mut findings = Vec::new();
        let report = run(ops::check(&self.cow, Some(&self.origin), |it| findings.push(it)));
        assert!(report.expect("readable").sound, "{findings:?}: {told}");
    }
}

/// What every crash must leave, before anything is repaired: the snapshot still reads the same
/// through origin and store together.
fn assert_snapshot_intact(cow: &[u8], origin: &[u8], world: &World, told: &str) {
    let power = Power::steady();
    let machine = Machine::new(cow.to_vec(), origin.to_vec(), 512, power.clone());
    let output = Disk::new(vec![0; origin.len()], 512, &power);
    let exported =
        run(ops::export(&machine.cow, &machine.origin, &output, Default::default(), &Silent));
    exported.unwrap_or_else(|error| panic!("{error}: {told}"));
    assert!(output.content() == world.snapshot, "the snapshot has changed: {told}");
    let report = run(ops::check(&machine.cow, Some(&machine.origin), |_| {})).expect("readable");
    assert!(report.sound, "damaged after the crash: {told}");
}

/// Of the contents that the two disks can have after one cut, this many are tried, spread evenly.
const MOST_PAIRS: usize = 20;

fn every_cut(world: &World, window_bytes: u64, block: u32) -> usize {
    let whole = Machine::new(world.cow.clone(), world.origin.clone(), block, Power::steady());
    whole.merge(window_bytes).expect("merges");
    whole.assert_merged(world, "without a cut");
    let mut reboots = 0;
    for cut in 0..whole.power.operations() {
        let power = Power::cut_after(cut);
        let machine = Machine::new(world.cow.clone(), world.origin.clone(), block, power);
        machine.merge(window_bytes).expect_err("the power was cut");
        // The two disks lose their writes independently of each other; of large sets of
        // combinations a diagonal is taken.
        let cows: Vec<_> = machine.cow.reboots(cut + 1).collect();
        let origins: Vec<_> = machine.origin.reboots(cut + 7).take(200).collect();
        let pairs = cows.len().max(origins.len()) + cows.len().min(origins.len()).min(3) - 1;
        for n in (0..pairs).step_by(pairs.div_ceil(MOST_PAIRS)) {
            let (cow, origin) =
                (&cows[n % cows.len()], &origins[(n + n / cows.len()) % origins.len()]);
            let told = format!("window {window_bytes}, cut after {cut}, survivors {n}");
            assert_snapshot_intact(cow, origin, world, &told);
            let again = Machine::new(cow.clone(), origin.clone(), block, Power::steady());
            again.merge(window_bytes).unwrap_or_else(|error| panic!("{error}: {told}"));
            again.assert_merged(world, &told);
            reboots += 1;
        }
    }
    reboots
}

#[test]
fn a_merge_cut_at_any_operation_and_run_again_ends_right() {
    let mut reboots = 0;
    // One-sector chunks, so that areas have 32 slots and windows cross their bounds.
    let world = World::new(1, 120, 100).with_exceptions(&scattered(70, 100, 3));
    for window_bytes in [1, 512 * 5, 512 * 33, 1 << 20] {
        reboots += every_cut(&world, window_bytes, 512);
    }
    // Areas of several untorn units, and a last chunk that the origin cuts short.
    let mut olds = scattered(76, 80, 9);
    olds.push(80);
    let world = World::new(8, 90, 8 * 80 + 3).with_exceptions(&olds);
    for window_bytes in [4096 * 20, 1 << 20] {
        reboots += every_cut(&world, window_bytes, 512);
    }
    println!("{reboots} reboots");
    assert!(reboots > 3_000, "the worlds have become too small: {reboots}");
}

#[test]
fn an_error_at_any_operation_leaves_a_merge_that_goes_on() {
    let world = World::new(1, 120, 100).with_exceptions(&scattered(70, 100, 5));
    for fault in [RequestFault::Fails, RequestFault::DropsWrites] {
        for operation in 0.. {
            let power = Power::steady();
            power.fail(operation, fault);
            let machine = Machine::new(world.cow.clone(), world.origin.clone(), 512, power);
            let told = format!("{fault:?} at operation {operation}");
            match machine.merge(512 * 20) {
                Ok(_) => {
                    assert!(operation > 50, "a merge has {operation} operations only");
                    break;
                }
                Err(error) => assert!(error.to_string().contains("injected"), "{error}: {told}"),
            }
            let (cow, origin) = (machine.cow.content(), machine.origin.content());
            assert_snapshot_intact(&cow, &origin, &world, &told);
            machine.merge(512 * 20).unwrap_or_else(|error| panic!("{error}: {told}"));
            machine.assert_merged(&world, &told);
        }
    }
}

/// One flush of the origin and one of the COW device for each window, one metadata write, and data
/// in the order of the origin.
#[test]
fn a_window_costs_two_flushes_and_one_metadata_write() {
    for (chunk_sectors, block, window_chunks) in
        [(8, 4096, 300), (8, 512, 300), (8, 512, 100), (64, 4096, 700), (64, 512, 50), (1, 512, 40)]
    {
        let chunk = u64::from(chunk_sectors) * 512;
        let world = World::new(chunk_sectors, 1100, 1200 * u64::from(chunk_sectors))
            .with_exceptions(&scattered(1000, 1200, 11));
        let machine = Machine::new(world.cow.clone(), world.origin.clone(), block, Power::steady());
        let plan =
            run(ops::plan_merge(&machine.cow, &machine.origin, options(window_chunks * chunk)))
                .expect("plans");
        let merged = machine.merge(window_chunks * chunk).expect("merges");
        assert_eq!(merged.origin_flushes, merged.windows);
        assert_eq!(merged.cow_flushes, merged.windows);
        assert_eq!(merged.metadata_writes, merged.windows);
        assert_eq!((plan.windows, plan.flushes), (merged.windows, 2 * merged.windows));
        assert_eq!((plan.exceptions, plan.bytes), (merged.exceptions, merged.bytes));
        let opened = 1;
        assert_eq!(machine.cow.counts().flushes, opened + merged.cow_flushes);
        assert_eq!(machine.origin.counts().flushes, merged.origin_flushes);
        machine.assert_merged(&world, "whole");
        if block == 4096 && chunk_sectors == 8 {
            assert_eq!(merged.windows, 4, "windows are cut by memory, not by areas");
        }
    }
}

#[test]
fn a_window_is_written_in_the_order_of_the_origin() {
    let world = World::new(8, 600, 8 * 500).with_exceptions(&scattered(400, 500, 2));
    let machine = Machine::new(world.cow.clone(), world.origin.clone(), 4096, Power::steady());
    machine.merge((1 << 30) + 512).expect("merges");
    let starts: Vec<u64> = machine
        .origin
        .log()
        .into_iter()
        .filter_map(|it| match it {
            dmsnap_sim::Operation::Write(range) => Some(range.start),
            dmsnap_sim::Operation::Flush => None,
        })
        .collect();
    assert!(!starts.is_empty() && starts.is_sorted());
    let reads = machine.cow.counts();
    assert!(reads.reads < 20, "{} reads for 400 scattered chunks", reads.reads);
}

#[test]
fn long_runs_are_copied_in_long_requests() {
    let olds: Vec<u64> = (0..150).chain(300..500).chain(200..250).collect();
    let world = World::new(8, 600, 8 * 500).with_exceptions(&olds);
    let machine = Machine::new(world.cow.clone(), world.origin.clone(), 4096, Power::steady());
    let merge = ops::merge(&machine.cow, &machine.origin, MergeOptions::default(), &Silent);
    let before = machine.cow.counts();
    let merged = run(merge).expect("merges");
    machine.assert_merged(&world, "long runs");
    assert_eq!((merged.windows, merged.bytes), (1, 400 * 4096));
    assert_eq!(machine.origin.counts().writes, 4, "areas lie between, else three");
    assert!(machine.cow.counts().reads - before.reads <= 20, "one is of the tag");
}

/// Stops when asked, between windows; the same call goes on.
#[test]
fn a_stopped_merge_goes_on_where_it_was() {
    struct StopAfter(std::cell::Cell<u32>);
    impl Observer for StopAfter {
        fn progress(&self, progress: Progress) {
            assert!(progress.done <= progress.total);
        }

        async fn pace(&self, _: u64) {}

        fn stop_requested(&self) -> bool {
            self.0.set(self.0.get().wrapping_sub(1));
            self.0.get() == u32::MAX
        }
    }
    let world = World::new(1, 120, 100).with_exceptions(&scattered(70, 100, 5));
    let machine = Machine::new(world.cow.clone(), world.origin.clone(), 512, Power::steady());
    let mut left = 70;
    let mut rounds = 0;
    while left > 0 {
        let observer = StopAfter(1.into());
        let merged = run(ops::merge(&machine.cow, &machine.origin, options(512 * 7), &observer));
        let merged = merged.expect("merges");
        assert_eq!(merged.windows, 1);
        assert_eq!(merged.finished, merged.left == 0);
        assert!(merged.left < left);
        left = merged.left;
        rounds += 1;
        let (cow, origin) = (machine.cow.content(), machine.origin.content());
        assert_snapshot_intact(&cow, &origin, &world, &format!("stopped, {left} left"));
    }
    assert!(rounds >= 10);
    machine.assert_merged(&world, "after many stops");
}

#[test]
fn what_a_merge_refuses_it_refuses_before_the_first_write() {
    let good = World::new(1, 120, 100).with_exceptions(&scattered(40, 100, 5));
    let refuse = |what: &str, world: &World, swap: bool| {
        let machine = Machine::new(world.cow.clone(), world.origin.clone(), 512, Power::steady());
        let (cow, origin) = match swap {
            true => (&machine.origin, &machine.cow),
            false => (&machine.cow, &machine.origin),
        };
        let planned = run(ops::plan_merge(cow, origin, options(1 << 20)));
        let merged = run(ops::merge(cow, origin, options(1 << 20), &Silent));
        let (planned, merged) = (planned.expect_err(what), merged.expect_err(what));
        assert_eq!(planned.to_string(), merged.to_string(), "{what}");
        assert!(machine.power.operations() == 0, "{what}: something was written");
        merged
    };
    assert!(matches!(refuse("swapped", &good, true), Error::Swapped));

    let mut invalid = good.clone();
    invalid.invalidate();
    assert!(matches!(refuse("invalid", &invalid, false), Error::Invalid));

    let mut small = good.clone();
    small.origin.truncate(bytes(50 * 512));
    assert!(matches!(refuse("origin too small", &small, false), Error::Damaged(_)));

    let mut nested = good.clone();
    nested.origin[..4].copy_from_slice(b"SnAp");
    assert!(matches!(refuse("origin is a store", &nested, false), Error::OriginIsStore));

    let mut twice = good.clone();
    twice.put_slot(40, 7, twice.layout.lock_step_chunk(40).get());
    twice.put_slot(41, 7, twice.layout.lock_step_chunk(41).get());
    assert!(matches!(refuse("a duplicate", &twice, false), Error::Damaged(_)));

    let mut cut_short = good.clone();
    cut_short.cow.truncate(34 * 512);
    assert!(matches!(refuse("cut short", &cut_short, false), Error::Damaged(_)));

    let mut blank = good;
    blank.cow.fill(0);
    assert!(matches!(refuse("blank", &blank, false), Error::Header(_)));
}
