//! Whoever opens a store for writing relies on every exception that is read, also after a power cut.

mod common;

use bytes::Bytes;
use dmsnap::device::{Device, Memory};
use dmsnap::ops;
use dmsnap::store::Persistent;
use dmsnap_sim::{Disk, Power, run};

use common::World;

#[test]
fn what_an_opening_has_read_is_durable() {
    let before = World::new(1, 120, 100).with_exceptions(&[3, 5]);
    let mut after = before.clone();
    after.put_slot(2, 7, after.layout.lock_step_chunk(2).get());
    let disk = Disk::new(before.cow, 512, &Power::steady());
    // Somebody was killed between the slots and their flush.
    run(disk.write(512, Bytes::copy_from_slice(&after.cow[512..1024]))).expect("written");
    let exceptions =
        |content: Vec<u8>| run(ops::info(&Memory::from(content))).expect("a store").exceptions;
    let mut found: Vec<_> = disk.reboots(1).map(&exceptions).collect();
    found.sort_unstable();
    assert_eq!(found, [2, 3], "nobody knows yet");
    let mut seen = 0;
    run(Persistent::open(&disk, None, |_| seen += 1)).expect("opens");
    assert_eq!(seen, 3);
    assert!(disk.reboots(1).all(|content| exceptions(content) == 3));
}
