//! Origin writes that wait in memory: what they cost, who sees them, and what becomes of them.

mod common;

use std::rc::Rc;

use dmsnap::device::{Allocation, Device};
use dmsnap::volume::{SnapshotOptions, View};
use dmsnap_sim::{Fault, Power, run};

use common::live::{SECTOR, Sim, add, data, empty_cow, origin, read_all};

/// Origin writes that wait cost nothing until a flush; then their old data is kept with two flushes for
/// all of them together. Until then the origin's clients see them, the snapshot does not.
#[test]
fn origin_writes_that_wait_share_one_publish() {
    let power = Power::steady();
    let disk = origin(400, &power);
    let volume = Rc::new(Sim::new(disk.clone()).expect("a size"));
    volume.allow_backlog(8 << 20);
    let cow = empty_cow(1, 600, &power);
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let (before, view) = (disk.counts(), View::origin(&volume));
    let mut expected = data(0, 400).to_vec();
    for n in 0..200 {
        let at = n * 37 % 400;
        run(view.write(at * SECTOR, data(1 << 32 | n, 1))).expect("accepted");
        let byte = usize::try_from(at * SECTOR).expect("small");
        expected[byte..byte + 512].copy_from_slice(&data(1 << 32 | n, 1));
    }
    assert_eq!((cow.counts().writes, disk.counts().writes), (0, before.writes));
    assert_eq!(read_all(&view), expected);
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), data(0, 400).to_vec());
    run(view.flush()).expect("flushed");
    assert_eq!(cow.counts().flushes, 1 + 2, "one when it was opened");
    assert_eq!(disk.content(), expected);
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), data(0, 400).to_vec());
    // What is published already need not wait.
    run(view.write(0, data(7, 1))).expect("written");
    assert_eq!(disk.content()[..512], data(7, 1)[..]);
}

/// What could not be written is lost, as with a disk's cache: only that, and every flush says so.
#[test]
fn a_flush_tells_of_a_waiting_write_that_was_lost() {
    let power = Power::steady();
    let disk = origin(64, &power);
    let volume = Rc::new(Sim::new(disk.clone()).expect("a size"));
    volume.allow_backlog(8 << 20);
    add(&volume, "s", empty_cow(1, 100, &Power::steady()), SnapshotOptions::default());
    let view = View::origin(&volume);
    run(view.write(3 * SECTOR, data(100, 1))).expect("accepted");
    run(view.write(9 * SECTOR, data(200, 1))).expect("accepted");
    // The write of the group, and then that of the first sector by itself.
    let next = power.operations();
    power.fail(next, Fault::Fails);
    power.fail(next + 2, Fault::Fails);
    run(view.flush()).expect_err("a write is lost");
    run(view.flush()).expect_err("and stays lost");
    assert_eq!(disk.content()[9 * 512..10 * 512], data(200, 1)[..]);
    run(volume.flush_all()).expect_err("at the end as well");
}

/// A new snapshot shows what was acknowledged before, and holes are no longer told where data waits.
#[test]
fn what_waits_is_part_of_a_new_snapshot() {
    let power = Power::steady();
    let volume = Rc::new(Sim::new(origin(64, &power)).expect("a size"));
    volume.allow_backlog(8 << 20);
    add(&volume, "old", empty_cow(8, 100, &power), SnapshotOptions::default());
    let view = View::origin(&volume);
    run(view.write(3 * SECTOR, data(100, 2))).expect("accepted");
    let new = add(&volume, "new", empty_cow(1, 100, &power), SnapshotOptions::default());
    run(view.write(3 * SECTOR, data(300, 2))).expect("accepted");
    run(view.write_zeroes(4 * SECTOR, SECTOR, Allocation::Keep)).expect("behind what waits");
    let mut shown = data(0, 64).to_vec();
    shown[3 * 512..5 * 512].copy_from_slice(&data(100, 2));
    assert_eq!(read_all(&View::snapshot(&volume, &new)), shown);
    shown[3 * 512..4 * 512].copy_from_slice(&data(300, 1));
    shown[4 * 512..5 * 512].fill(0);
    assert_eq!(read_all(&view), shown);
}
