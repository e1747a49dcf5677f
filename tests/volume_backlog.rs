//! Origin writes that wait in memory: what they cost, who sees them, and what becomes of them.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, DynDevice};
use dmsnap::volume::{SnapshotOptions, State, View};
use dmsnap_sim::{Disk, Power, RequestFault, run};

use crate::common::live::{SECTOR, add, any_volume, data, empty_cow, origin, read_all};

/// Origin writes that wait cost nothing until a flush; then their old data is kept with two flushes for
/// all of them together. Until then the origin's clients see them, the snapshot does not.
#[test]
fn origin_writes_that_wait_share_one_publish() {
    let power = Power::steady();
    let disk = origin(400, &power);
    let volume = any_volume(disk.clone());
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
    let volume = any_volume(disk.clone());
    volume.allow_backlog(8 << 20);
    add(&volume, "s", empty_cow(1, 100, &Power::steady()), SnapshotOptions::default());
    let view = View::origin(&volume);
    run(view.write(3 * SECTOR, data(100, 1))).expect("accepted");
    run(view.write(9 * SECTOR, data(200, 1))).expect("accepted");
    // The write of the group, and then that of the first sector by itself.
    let next = power.operations();
    power.fail(next, RequestFault::Fails);
    power.fail(next + 2, RequestFault::Fails);
    run(view.flush()).expect_err("a write is lost");
    run(view.flush()).expect_err("and stays lost");
    assert_eq!(disk.content()[9 * 512..10 * 512], data(200, 1)[..]);
    run(volume.flush_all()).expect_err("at the end as well");
}

/// What waits may drop a snapshot at the end: that is its rule, and no error. Something else has taken the room.
#[test]
fn a_snapshot_that_is_dropped_at_the_end_is_no_error() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    volume.allow_backlog(8 << 20);
    // Room for twelve chunks of one sector.
    let snapshot = add(&volume, "s", empty_cow(1, 14, &power), SnapshotOptions::default());
    let view = View::origin(&volume);
    run(view.write(0, data(100, 8))).expect("accepted");
    run(view.write_zeroes(40 * SECTOR, 6 * SECTOR, Allocation::Keep)).expect("does not wait");
    assert_eq!(snapshot.state(), State::Active);
    run(volume.flush_all()).expect("all that counts is durable");
    assert!(snapshot.state() == State::Invalid && !snapshot.is_unmarked());
}

/// A new snapshot shows what was acknowledged before, and holes are no longer reported where data waits.
#[test]
fn what_waits_is_part_of_a_new_snapshot() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    volume.allow_backlog(8 << 20);
    add(&volume, "old", empty_cow(8, 100, &power), SnapshotOptions::default());
    let view = View::origin(&volume);
    run(view.write(3 * SECTOR, data(100, 2))).expect("accepted");
    let new = add(&volume, "new", empty_cow(1, 100, &power), SnapshotOptions::default());
    run(view.write(3 * SECTOR, data(300, 2))).expect("accepted");
    run(view.write_zeroes(4 * SECTOR, SECTOR, Allocation::Keep)).expect("after what waits");
    let mut shown = data(0, 64).to_vec();
    shown[3 * 512..5 * 512].copy_from_slice(&data(100, 2));
    assert_eq!(read_all(&View::snapshot(&volume, &new)), shown);
    shown[3 * 512..4 * 512].copy_from_slice(&data(300, 1));
    shown[4 * 512..5 * 512].fill(0);
    assert_eq!(read_all(&view), shown);
}

/// An origin that cannot be read for a while, or has no room: a sparse file on a full file system.
struct Moody {
    disk: Rc<Disk>,
    is_unreadable: Rc<Cell<bool>>,
    is_full: Rc<Cell<bool>>,
}

impl Device for Moody {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        match self.is_unreadable.get() {
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.disk.read(at, len).await,
        }
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        match self.is_full.get() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.disk.write(at, data).await,
        }
    }

    async fn write_zeroes(&self, at: u64, len: u64, how: Allocation) -> io::Result<()> {
        self.disk.write_zeroes(at, len, how).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.disk.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.disk.flush().await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.disk.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.disk.block_bytes()
    }
}

/// An origin write that waits is not lost because old data cannot be read for a moment, or the origin has no
/// room for it: the flush says so, and a later one succeeds.
fn what_cannot_be_written_now_is_tried_again() {
    for unreadable in [true, false] {
        let power = Power::steady();
        let disk = origin(64, &power);
        let [is_unreadable, is_full] = [(); 2].map(|()| Rc::new(Cell::new(false)));
        let moody = Moody {
            disk: disk.clone(),
            is_unreadable: is_unreadable.clone(),
            is_full: is_full.clone(),
        };
        let volume = any_volume(moody);
        volume.allow_backlog(8 << 20);
        let cow = DynDevice::new(empty_cow(1, 100, &power));
        let snapshot = run(volume.open("s", cow, SnapshotOptions::default())).expect("opens");
        let (view, shown) = (View::origin(&volume), View::snapshot(&volume, &snapshot));
        run(view.write(3 * SECTOR, data(100, 2))).expect("accepted");
        let (trouble, kind) = match unreadable {
            true => (&is_unreadable, io::Error::from_raw_os_error(5).kind()),
            false => (&is_full, io::ErrorKind::StorageFull),
        };
        trouble.set(true);
        for _ in 0..2 {
            assert_eq!(run(view.flush()).expect_err("not durable").kind(), kind);
        }
        // Nothing is acknowledged from memory now, nor overtakes what waits.
        run(view.write(4 * SECTOR, data(200, 2))).expect_err("cannot be written");
        run(view.write(30 * SECTOR, data(300, 2))).expect_err("cannot be written");
        assert_eq!(disk.content(), data(0, 64), "nothing was written");
        trouble.set(false);
        run(view.write(4 * SECTOR, data(200, 1))).expect("well again");
        run(view.flush()).expect("well again");
        let mut expected = data(0, 64).to_vec();
        expected[3 * 512..4 * 512].copy_from_slice(&data(100, 1));
        expected[4 * 512..5 * 512].copy_from_slice(&data(200, 1));
        assert_eq!(disk.content(), expected);
        assert_eq!(read_all(&view), expected);
        assert_eq!(read_all(&shown), data(0, 64).to_vec());
        assert_eq!(snapshot.state(), State::Active);
    }
}

#[test]
fn a_waiting_write_that_cannot_be_written_now_waits_on() {
    what_cannot_be_written_now_is_tried_again();
}

/// What a waiting write needs for old data is not taken by snapshot writes that come later.
fn room_of_what_waits_is_left_to_it() {
    let power = Power::steady();
    let volume = any_volume(origin(100, &power));
    volume.allow_backlog(8 << 20);
    let snapshot = add(&volume, "s", empty_cow(1, 32, &power), SnapshotOptions::default());
    let (o, view) = (View::origin(&volume), View::snapshot(&volume, &snapshot));
    for n in 0..5 {
        run(o.write((90 + n) * SECTOR, data(900 + n, 1))).expect("accepted");
    }
    let mut written = 0;
    for n in 0..40 {
        match run(view.write(n * SECTOR, data(1, 1))) {
            Ok(()) => written += 1,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
        }
    }
    run(o.flush()).expect("flushed");
    assert_ne!(snapshot.state(), State::Invalid, "dropped, for {written} writes that came later");
    assert_eq!(written, 30 - 5);
    assert_eq!(read_all(&view)[90 * 512..], data(90, 10)[..]);
}

#[test]
fn a_waiting_write_keeps_its_room() {
    room_of_what_waits_is_left_to_it();
}

/// Together with the origin of the moment it was taken out, a store shows what the snapshot showed.
fn a_store_that_is_taken_out_knows_every_origin_write() {
    let power = Power::steady();
    let disk = origin(64, &power);
    let volume = any_volume(disk.clone());
    volume.allow_backlog(8 << 20);
    let cow = empty_cow(1, 100, &power);
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let o = View::origin(&volume);
    run(o.write(3 * SECTOR, data(100, 2))).expect("accepted");
    run(volume.remove(&snapshot)).expect("taken out");
    run(o.flush()).expect("flushed");
    let again = any_volume(disk);
    let snapshot = add(&again, "s", cow, SnapshotOptions::default());
    assert_eq!(read_all(&View::snapshot(&again, &snapshot)), data(0, 64).to_vec());
}

#[test]
fn what_waits_is_written_before_a_snapshot_is_taken_out() {
    a_store_that_is_taken_out_knows_every_origin_write();
}

#[cfg(feature = "planted")]
#[test]
fn what_breaks_these_laws_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    let laws: [(_, fn()); 3] = [
        (Planted::BacklogForgets, what_cannot_be_written_now_is_tried_again),
        (Planted::BacklogRoomTaken, room_of_what_waits_is_left_to_it),
        (Planted::RemoveBeforeBacklog, a_store_that_is_taken_out_knows_every_origin_write),
    ];
    for (law, check) in laws {
        plant(Some(law));
        let kept = std::panic::catch_unwind(check).is_ok();
        plant(None);
        assert!(!kept, "{law:?}");
    }
}
