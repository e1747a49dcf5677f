//! A store that is given away.

use std::cell::Cell;

use dmsnap::device::Memory;
use dmsnap::ops::{self, Error, Observer, Silent, WipeOptions};
use dmsnap_sim::{Disk, Operation, Power, RequestFault, run};

use crate::common::{World, bytes, scattered};
use crate::kernel_stores::kernel_stores;

const USED: WipeOptions = WipeOptions { all: false, discard: false };
const ALL: WipeOptions = WipeOptions { all: true, discard: false };

fn disk(content: &[u8]) -> Disk {
    Disk::new(content.to_vec(), 512, &Power::steady())
}

fn world() -> World {
    World::new(1, 200, 400).with_exceptions(&scattered(70, 400, 3))
}

fn assert_zero(content: &[u8], told: &str) {
    let left = content.iter().position(|byte| *byte != 0);
    assert!(left.is_none(), "{told}: byte {left:?} is left");
}

#[test]
fn every_kernel_store_is_wiped_as_far_as_it_was_in_use() {
    for store in kernel_stores() {
        let cow = Memory::from(store.content.clone());
        let info = run(ops::info(&cow)).expect("a store");
        let plan = run(ops::plan_wipe(&cow, USED)).expect("a store");
        assert!(cow.content() == store.content, "{}: a plan has written", store.name);
        let wiped = run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
        assert_eq!((plan.exceptions, plan.bytes), (wiped.exceptions, wiped.bytes));
        assert_eq!(wiped.exceptions, info.exceptions);
        let (used, content) = (bytes(wiped.bytes), cow.content());
        assert!(wiped.bytes >= info.allocated_sectors * 512, "{}", store.name);
        assert_zero(&content[..used], &store.name);
        assert!(content[used..] == store.content[used..], "{}: more was written", store.name);

        let cow = Memory::from(store.content.clone());
        run(ops::wipe(&cow, ALL, &Silent)).expect("wiped");
        assert_zero(&cow.content(), &store.name);
    }
}

/// Chunks that only strays name, and chunks far from the others, are wiped too; what no slot reaches is not.
#[test]
fn everything_that_a_slot_names_is_wiped() {
    let mut strays = world();
    strays.put_slot(75, 1, 120);
    let cow = disk(&strays.cow);
    assert_eq!(run(ops::wipe(&cow, USED, &Silent)).expect("wiped").bytes, 121 * 512);
    assert_zero(&cow.content()[..121 * 512], "strays");
    assert_eq!(cow.content()[121 * 512..], strays.cow[121 * 512..]);

    let mut nonsense = world();
    for (index, new) in [(3, u64::MAX), (75, u64::MAX), (76, 1)] {
        nonsense.put_slot(index, 1, new);
    }
    let cow = disk(&nonsense.cow);
    run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
    assert_zero(&cow.content(), "a chunk that no device has");

    let full = World::new(1, 100, 400).with_exceptions(&scattered(64, 400, 5));
    let cow = disk(&full.cow);
    // The third area ends the list.
    assert_eq!(run(ops::wipe(&cow, USED, &Silent)).expect("wiped").bytes, 68 * 512);
    assert_zero(&cow.content()[..68 * 512], "whole areas");

    let mut endless = full;
    endless.cow.truncate(66 * 512 + 512);
    let cow = disk(&endless.cow);
    run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
    assert_zero(&cow.content(), "a list without an end");
}

#[test]
fn what_is_not_a_store_is_not_wiped() {
    for content in [vec![0; 8192], vec![0xEE; 8192], vec![]] {
        let cow = disk(&content);
        for options in [USED, ALL] {
            run(ops::plan_wipe(&cow, options)).expect_err("no store");
            run(ops::wipe(&cow, options, &Silent)).expect_err("no store");
        }
        assert!(cow.content() == content, "something was written");
    }
}

/// What a cut leaves is the whole store, an invalid one, or none; and never one whose data is gone and that
/// says it is valid. The same call goes on and ends with nothing left.
#[test]
fn a_wipe_cut_at_any_operation_leaves_no_valid_store_and_goes_on() {
    let mut world = world();
    world.put_slot(5, 399, 150);
    let end = 151 * 512;
    let whole = Power::steady();
    let cow = Disk::new(world.cow.clone(), 512, &whole);
    run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
    let (mut valid, mut invalid, mut none) = (0, 0, 0);
    for cut in 0..whole.operations() {
        let cow = Disk::new(world.cow.clone(), 512, &Power::cut_after(cut));
        run(ops::wipe(&cow, USED, &Silent)).expect_err("the power was cut");
        for content in cow.reboots(cut + 1) {
            let told = format!("cut after {cut}");
            let cow = disk(&content);
            match run(ops::info(&cow)) {
                Ok(info) if info.valid => {
                    assert!(content == world.cow, "{told}: half a store is valid");
                    valid += 1;
                    continue;
                }
                Ok(_) => invalid += 1,
                Err(Error::Header(_)) => {
                    assert_zero(&content[..end], &told);
                    none += 1;
                    continue;
                }
                Err(error) => panic!("{told}: {error}"),
            }
            run(ops::wipe(&cow, USED, &Silent)).unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_zero(&cow.content()[..end], &told);
            assert!(cow.content()[end..] == world.cow[end..], "{told}: more was written");
        }
    }
    assert!(valid > 0 && invalid > 10 && none > 0, "{valid} valid, {invalid} invalid, {none} none");
}

/// Whatever fails, no valid store is left with a part of its data, and the same call goes on.
#[test]
fn an_error_at_any_operation_leaves_a_wipe_that_goes_on() {
    let world = world();
    for operation in 0.. {
        let power = Power::steady();
        power.fail(operation, RequestFault::Fails);
        let cow = Disk::new(world.cow.clone(), 512, &power);
        match run(ops::wipe(&cow, USED, &Silent)) {
            Ok(_) => {
                assert!(operation >= 6, "a wipe has {operation} operations only");
                break;
            }
            Err(error) => assert!(error.to_string().contains("injected"), "{error}"),
        }
        if run(ops::info(&cow)).is_ok() {
            run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
        }
        assert_zero(&cow.content()[..74 * 512], &format!("operation {operation} failed"));
    }
}

#[test]
fn the_mark_is_durable_before_the_first_zero_and_the_header_goes_last() {
    let world = world();
    let cow = disk(&world.cow);
    run(ops::wipe(&cow, USED, &Silent)).expect("wiped");
    let log = cow.log();
    let flushes: Vec<usize> =
        (0..log.len()).filter(|n| matches!(log[*n], Operation::Flush)).collect();
    assert_eq!(flushes, [1, 3, 5], "{log:?}");
    assert!(matches!(&log[0], Operation::Write(range) if *range == (0..512)), "{log:?}");
    assert!(matches!(&log[4], Operation::Write(range) if *range == (0..512)), "{log:?}");
}

#[test]
fn a_stopped_wipe_goes_on() {
    struct Stop(Cell<bool>);
    impl Observer for Stop {
        fn stop_requested(&self) -> bool {
            self.0.get()
        }
    }
    let world = world();
    let cow = disk(&world.cow);
    let stopped = run(ops::wipe(&cow, USED, &Stop(true.into())));
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    assert!(!run(ops::info(&cow)).expect("a store").valid);
    run(ops::wipe(&cow, USED, &Stop(false.into()))).expect("wiped");
    assert_zero(&cow.content()[..74 * 512], "stopped");
}

#[test]
fn space_is_given_back_once_it_is_zeroed() {
    let world = world();
    let cow = disk(&world.cow);
    let options = WipeOptions { discard: true, ..USED };
    let wiped = run(ops::wipe(&cow, options, &Silent)).expect("wiped");
    assert_eq!((wiped.discarded_bytes, wiped.bytes), (wiped.bytes, 74 * 512));
}
