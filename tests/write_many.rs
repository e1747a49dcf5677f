//! Writes that are made together: what each does is what it would do by itself, and new chunks that lie
//! together are one request.

use std::io::ErrorKind;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{SnapshotOptions, State, View};
use dmsnap_sim::{Disk, Power, RequestFault, run};

use crate::common::live::{
    AnySnapshot, AnyView, SECTOR, add, any_volume, data, empty_cow, origin, read_all,
};

struct Machine {
    power: Power,
    view: AnyView,
    cow: Rc<Disk>,
    snapshot: Rc<AnySnapshot>,
}

/// A snapshot with chunks of this many sectors, and room for a number of them.
fn machine(chunk: u32, chunks: u64) -> Machine {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let cow = empty_cow(chunk, chunks, &power);
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let view = View::snapshot(&volume, &snapshot);
    Machine { power, view, cow, snapshot }
}

fn content(writes: &[(u64, bytes::Bytes)]) -> Vec<u8> {
    let mut expected = data(0, 64).to_vec();
    for (at, data) in writes {
        let at = usize::try_from(*at).expect("small");
        expected[at..at + data.len()].copy_from_slice(data);
    }
    expected
}

#[test]
fn new_chunks_are_one_request_of_the_cow_device() {
    let Machine { view, cow, snapshot, .. } = machine(1, 600);
    let writes: Vec<_> = (0..32).map(|n| (n * 37 % 64 * SECTOR, data(100 + n, 1))).collect();
    run(view.write_many(writes.clone())).expect("written");
    assert_eq!(cow.counts().writes, 1);
    assert_eq!((snapshot.exceptions(), snapshot.unpublished()), (32, 32));
    assert_eq!(read_all(&view), content(&writes));
    run(view.flush()).expect("flushed");
    assert_eq!(snapshot.unpublished(), 0);
}

#[test]
fn parts_of_chunks_and_chunks_that_are_there_go_their_own_way() {
    let Machine { view, snapshot, .. } = machine(4, 600);
    let before = vec![(8 * SECTOR, data(1, 4))];
    run(view.write_many(before.clone())).expect("written");
    // In place, a part, whole ones, more than one chunk, and one that is shorter than its chunk's rest.
    let writes: Vec<_> = [(9, 2), (17, 1), (4, 4), (24, 4), (28, 12), (41, 5)]
        .into_iter()
        .map(|(sector, sectors)| (sector * SECTOR, data(50 + sector, sectors)))
        .collect();
    run(view.write_many(writes.clone())).expect("written");
    assert_eq!(read_all(&view), content(&[before, writes].concat()));
    assert_eq!(snapshot.exceptions(), 1 + 1 + 1 + 1 + 3 + 2);
}

#[test]
fn two_writes_to_one_new_chunk_make_one_exception() {
    let Machine { view, snapshot, .. } = machine(1, 600);
    let writes = vec![(3 * SECTOR, data(7, 1)), (3 * SECTOR, data(7, 1)), (4 * SECTOR, data(8, 1))];
    run(view.write_many(writes.clone())).expect("written");
    assert_eq!(snapshot.exceptions(), 2);
    assert_eq!(read_all(&view), content(&writes));
}

#[test]
fn without_room_for_all_the_others_are_written() {
    let Machine { view, snapshot, .. } = machine(1, 5);
    let writes: Vec<_> = (0..6).map(|n| (n * 2 * SECTOR, data(100 + n, 1))).collect();
    let refused = run(view.write_many(writes.clone())).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(snapshot.state(), State::Overflowed);
    assert_eq!(read_all(&view), content(&writes[..3]));
}

#[test]
fn a_write_that_fails_leaves_no_exception() {
    let Machine { power, view, snapshot, .. } = machine(1, 600);
    power.fail(power.operations(), RequestFault::Fails);
    let writes: Vec<_> = (0..6).map(|n| (n * 2 * SECTOR, data(100 + n, 1))).collect();
    run(view.write_many(writes.clone())).expect_err("the disk fails");
    assert_eq!(snapshot.exceptions(), 0);
    assert_eq!(read_all(&view), content(&[]));
    run(view.write_many(writes.clone())).expect("once only");
    assert_eq!(read_all(&view), content(&writes));
    let beyond = vec![(0, data(1, 1)), (64 * SECTOR, data(1, 1))];
    let refused = run(view.write_many(beyond)).expect_err("beyond the end");
    assert_eq!(refused.kind(), ErrorKind::UnexpectedEof);
}
