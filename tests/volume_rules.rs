//! Rules of the live volume that a random history seldom meets, one test each.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::{Observer, Silent};
use dmsnap::device::{Device, DynDevice, Memory};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::store::format;
use dmsnap::volume::{MergeState, OnFull, SnapshotOptions, State, View};
use dmsnap_sim::{Disk, Power, RequestFault, run};

use crate::common::live::{
    AnyView, AnyVolume, SECTOR, add, any_volume, data, empty_cow, on_full, origin, read_all,
};
use crate::common::{World, scattered};

/// Snapshot writes cost no metadata until a flush, which publishes them all with two flushes.
#[test]
fn snapshot_writes_are_published_by_the_next_flush() {
    let power = Power::steady();
    let volume = any_volume(origin(400, &power));
    let cow = empty_cow(1, 600, &power);
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let view = View::snapshot(&volume, &snapshot);
    for n in 0..200 {
        run(view.write((n * 37 % 400) * SECTOR, data(1 << 32 | n, 1))).expect("written");
    }
    let counts = cow.counts();
    let opened = 1;
    assert_eq!((counts.writes, counts.flushes), (200, opened), "one write each, nothing else");
    assert_eq!(snapshot.unpublished(), 200);
    run(view.flush()).expect("flushed");
    assert_eq!(cow.counts().flushes, opened + 2);
    assert_eq!(snapshot.unpublished(), 0);
    run(view.flush()).expect("flushed");
    assert_eq!(cow.counts().flushes, opened + 3, "nothing to publish: one flush");
}

/// A full store: the snapshot's write fails with "no space", its reads and its writes in place go
/// on, and the store on disk is untouched and valid.
#[test]
fn a_snapshot_that_overflows_lives_on() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let cow = empty_cow(1, 5, &power);
    let snapshot = add(&volume, "s", cow, SnapshotOptions::default());
    let view = View::snapshot(&volume, &snapshot);
    run(view.write(0, data(100, 3))).expect("room for three");
    let refused = run(view.write(10 * SECTOR, data(200, 1))).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!((snapshot.state(), &*volume.status(&snapshot)), (State::Overflowed, "Overflow"));
    run(view.write(SECTOR, data(300, 1))).expect("in place");
    run(view.flush()).expect("flushed");
    let mut expected = data(0, 64).to_vec();
    expected[..3 * 512].copy_from_slice(&data(100, 3));
    expected[512..1024].copy_from_slice(&data(300, 1));
    assert_eq!(read_all(&view), expected);
}

/// The kernel's rule for origin writes that find a store full: the snapshot is dropped, on disk
/// before the origin changes, and every other snapshot goes on.
#[test]
fn an_origin_write_drops_a_full_snapshot_before_it_changes_anything() {
    let power = Power::steady();
    let disk = origin(64, &power);
    let volume = any_volume(disk.clone());
    let small = empty_cow(1, 4, &power);
    let full = add(&volume, "full", small.clone(), on_full(OnFull::Invalidate));
    let other = add(&volume, "other", empty_cow(1, 100, &power), SnapshotOptions::default());
    let origin_view = View::origin(&volume);
    run(origin_view.write(0, data(100, 2))).expect("room for two");
    assert_eq!(full.state(), State::Active);
    run(origin_view.write(9 * SECTOR, data(200, 1))).expect("goes on");
    assert_eq!((full.state(), &*volume.status(&full)), (State::Invalid, "Invalid"));
    assert!(run(View::snapshot(&volume, &full).read(0, 512)).is_err());
    assert_eq!(read_all(&View::snapshot(&volume, &other)), data(0, 64).to_vec());
    // The mark is durable: a cut right now, and the store says so.
    for content in small.reboots(1) {
        let after = Disk::new(content, 512, &Power::steady());
        assert!(!run(ops::info(&after)).expect("a store").valid);
    }
    assert_eq!(read_all(&disk)[9 * 512..10 * 512], data(200, 1)[..]);
}

#[test]
fn an_origin_write_can_fail_instead() {
    let power = Power::steady();
    let disk = origin(64, &power);
    let volume = any_volume(disk.clone());
    let full = add(&volume, "full", empty_cow(1, 4, &power), on_full(OnFull::Fail));
    let origin_view = View::origin(&volume);
    run(origin_view.write(0, data(100, 2))).expect("room for two");
    let refused = run(origin_view.write(9 * SECTOR, data(200, 1))).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(full.state(), State::Active);
    assert_eq!(read_all(&View::snapshot(&volume, &full)), data(0, 64).to_vec());
    assert_eq!(read_all(&disk)[9 * 512..10 * 512], data(9, 1)[..], "the origin is as it was");
    run(origin_view.write(0, data(300, 2))).expect("these are saved already");
}

/// A write that one snapshot refuses drops no other: whose rule is to refuse is asked first.
#[test]
fn an_origin_write_that_is_refused_drops_nobody() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let yields = add(&volume, "yields", empty_cow(1, 4, &power), on_full(OnFull::Invalidate));
    let refuses = add(&volume, "refuses", empty_cow(1, 4, &power), on_full(OnFull::Fail));
    let origin_view = View::origin(&volume);
    run(origin_view.write(0, data(100, 2))).expect("room for two");
    let refused = run(origin_view.write(9 * SECTOR, data(200, 1))).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!((yields.state(), refuses.state()), (State::Active, State::Active));
    run(volume.remove(&refuses)).expect("flushed");
    run(origin_view.write(9 * SECTOR, data(200, 1))).expect("goes on");
    assert_eq!(yields.state(), State::Invalid);
}

/// Waiting ends with room, found by asking the device's size anew, or with patience.
#[test]
fn an_origin_write_can_wait_for_room() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let cow = Rc::new(Memory::zeroed(4 * 512));
    run(format(&cow, ChunkSize::from_sectors(1).expect("legal"))).expect("formats");
    add(&volume, "s", cow.clone(), on_full(OnFull::Wait { ticks: 3 }));
    let view = View::origin(&volume);
    run(view.write(0, data(100, 2))).expect("room for two");
    let (grower, ticker) = (&cow, &volume);
    let pass_time = |grow_at: Option<u32>| async move {
        for tick in 1..10 {
            if grow_at == Some(tick) {
                grower.resize(100 * 512);
            }
            ticker.tick();
            std::future::poll_fn({
                let mut polled = false;
                move |context: &mut std::task::Context<'_>| {
                    context.waker().wake_by_ref();
                    match std::mem::replace(&mut polled, true) {
                        true => std::task::Poll::Ready(()),
                        false => std::task::Poll::Pending,
                    }
                }
            })
            .await;
        }
    };
    let write = view.write(9 * SECTOR, data(200, 1));
    let (ended, ()) = run(futures_util::future::join(write, pass_time(None)));
    assert_eq!(ended.expect_err("patience ends").kind(), ErrorKind::StorageFull);
    let write = view.write(9 * SECTOR, data(200, 1));
    let (ended, ()) = run(futures_util::future::join(write, pass_time(Some(2))));
    ended.expect("there is room now");
}

/// A COW device that can grow does, up to its bound.
#[test]
fn a_full_cow_device_grows_on_its_own() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let cow = Rc::new(Memory::zeroed(4 * 512));
    run(format(&cow, ChunkSize::from_sectors(1).expect("legal"))).expect("formats");
    let options = SnapshotOptions { max_bytes: Some(20 * 512), ..SnapshotOptions::default() };
    let snapshot = add(&volume, "s", DynDevice::new(cow.clone()), options);
    let view = View::snapshot(&volume, &snapshot);
    run(view.write(0, data(100, 18))).expect("it grows");
    assert_eq!(cow.len_bytes().expect("a size"), 20 * 512);
    assert!(run(view.write(40 * SECTOR, data(200, 1))).is_err(), "up to its bound");
    assert_eq!(snapshot.state(), State::Overflowed);
}

/// Any write or flush of one snapshot's COW device fails: the origin and the other snapshot never
/// notice.
#[test]
fn a_failing_cow_device_harms_nobody_else() {
    for fault in [RequestFault::Fails, RequestFault::DropsWrites] {
        // The first is the flush of its opening.
        for operation in 1..13 {
            let steady = Power::steady();
            let bad_power = Power::steady();
            bad_power.fail(operation, fault);
            let disk = origin(64, &steady);
            let volume = any_volume(disk.clone());
            let bad =
                add(&volume, "bad", empty_cow(1, 100, &bad_power), SnapshotOptions::default());
            let good = add(&volume, "good", empty_cow(2, 100, &steady), SnapshotOptions::default());
            let view = View::origin(&volume);
            let mut expected = data(0, 64).to_vec();
            for n in 0..6 {
                run(view.write(n * 7 * SECTOR, data(1000 + n, 1))).expect("the origin goes on");
                let at = usize::try_from(n * 7 * SECTOR).expect("small");
                expected[at..at + 512].copy_from_slice(&data(1000 + n, 1));
            }
            assert_eq!(read_all(&view), expected, "{fault:?} at {operation}");
            let good = View::snapshot(&volume, &good);
            assert_eq!(read_all(&good), data(0, 64).to_vec(), "{fault:?} at {operation}");
            match bad.state() {
                State::Invalid => {}
                _ => assert_eq!(read_all(&View::snapshot(&volume, &bad)), data(0, 64).to_vec()),
            }
        }
    }
}

/// Discards zero whole chunks that have an exception, and nothing else: no neighbour, no edge, no
/// metadata, wherever they begin and end.
#[test]
fn a_discard_never_touches_what_is_not_wholly_inside() {
    for start in 0..20 {
        for len in [1, 3, 4, 7, 8, 15] {
            let power = Power::steady();
            let volume = any_volume(origin(64, &power));
            let options = SnapshotOptions { discard_zeroes: true, ..SnapshotOptions::default() };
            let snapshot = add(&volume, "s", empty_cow(4, 60, &power), options);
            let view = View::snapshot(&volume, &snapshot);
            run(view.write(0, data(1000, 24))).expect("written");
            run(view.discard(start * SECTOR, len * SECTOR)).expect("discarded");
            let found = read_all(&view);
            for sector in 0..64 {
                let chunk = sector / 4;
                let whole = start <= chunk * 4 && (chunk + 1) * 4 <= start + len;
                let saved = if sector < 24 { 1000 + sector } else { sector };
                let expected = if whole && sector < 24 { 0 } else { saved };
                let at = usize::try_from(sector * SECTOR).expect("small");
                let found = u64::from_le_bytes(found[at..at + 8].try_into().expect("eight"));
                assert_eq!(found, expected, "{len} from {start}: sector {sector}");
            }
            run(view.flush()).expect("flushed");
            assert_eq!(snapshot.exceptions(), 6);
        }
    }
}

/// A discard of the origin keeps the old data for every snapshot.
#[test]
fn a_discarded_origin_leaves_its_snapshots_whole() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let snapshot = add(&volume, "s", empty_cow(4, 60, &power), SnapshotOptions::default());
    run(View::origin(&volume).discard(3 * SECTOR, 30 * SECTOR)).expect("discarded");
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), data(0, 64).to_vec());
}

/// A view is a device, so a snapshot can have snapshots.
#[test]
fn a_snapshot_can_be_an_origin() {
    let power = Power::steady();
    let lower = any_volume(origin(64, &power));
    let snapshot = add(&lower, "lower", empty_cow(2, 100, &power), SnapshotOptions::default());
    let upper = any_volume(View::snapshot(&lower, &snapshot));
    let cow = DynDevice::new(empty_cow(4, 60, &power));
    let top = add(&upper, "top", cow, SnapshotOptions::default());
    let top = View::snapshot(&upper, &top);
    let middle = View::origin(&upper);
    run(middle.write(0, data(500, 8))).expect("written");
    run(top.write(SECTOR, data(700, 1))).expect("written");
    let mut expected = data(0, 64).to_vec();
    assert_eq!(read_all(&View::origin(&lower)), expected);
    expected[512..1024].copy_from_slice(&data(700, 1));
    assert_eq!(read_all(&top), expected);
    let mut expected = data(0, 64).to_vec();
    expected[..8 * 512].copy_from_slice(&data(500, 8));
    assert_eq!(read_all(&middle), expected);
}

/// A merge that is given up leaves a plain snapshot of the same content, which takes new
/// exceptions again and merges to the end later, here or in a kernel.
#[test]
fn a_merge_that_is_given_up_leaves_a_plain_snapshot() {
    let power = Power::steady();
    let world = World::new(1, 200, 100).with_exceptions(&scattered(70, 100, 5));
    let disk = Rc::new(Disk::new(world.origin.clone(), 512, &power));
    let cow = Rc::new(Disk::new(world.cow.clone(), 512, &power));
    let volume = any_volume(disk.clone());
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    run(volume.start_merge(&snapshot)).expect("started");
    assert_eq!(read_all(&View::origin(&volume)), world.snapshot, "one device from now on");

    struct PauseAtOnce<'a>(&'a AnyVolume);
    impl Observer for PauseAtOnce<'_> {
        async fn pace(&self, _: u64) {
            self.0.pause_merge();
        }
    }
    let state = run(volume.run_merge(20 * SECTOR, &PauseAtOnce(&volume))).expect("runs");
    assert_eq!(state, MergeState::Paused);
    let left = snapshot.exceptions();
    assert!((50..70).contains(&left), "{left} left after one window");
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), world.snapshot);
    run(volume.cancel_merge()).expect("given up");
    let view = View::snapshot(&volume, &snapshot);
    let mut expected = world.snapshot.clone();
    for sector in (0..100).step_by(9) {
        run(view.write(sector * SECTOR, data(9000 + sector, 1))).expect("written");
        let at = usize::try_from(sector * SECTOR).expect("small");
        expected[at..at + 512].copy_from_slice(&data(9000 + sector, 1));
    }
    run(view.flush()).expect("flushed");
    assert_eq!(read_all(&view), expected);
    assert!(run(ops::check(&cow, Some(&disk), |_| {})).expect("readable").sound);

    run(volume.start_merge(&snapshot)).expect("started");
    assert_eq!(run(volume.run_merge(1 << 20, &Silent)).expect("runs"), MergeState::Finished);
    assert_eq!(disk.content(), expected);
    // The snapshot's device goes on as the origin.
    run(view.write(0, data(1, 1))).expect("written");
    assert_eq!(disk.content()[..512], data(1, 1)[..]);
    run(volume.remove(&snapshot)).expect("removed");
    assert!(volume.snapshots().is_empty());
}

/// An origin whose first read takes effect only when it is let go.
struct LateRead {
    disk: Rc<Disk>,
    reads: Cell<u32>,
    go: Cell<bool>,
}

impl Device for LateRead {
    async fn read(&self, at: u64, len: usize) -> std::io::Result<dmsnap::device::Buffer> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() == 1 {
            std::future::poll_fn(|context| match self.go.get() {
                true => std::task::Poll::Ready(()),
                false => {
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
            })
            .await;
        }
        self.disk.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> std::io::Result<()> {
        self.disk.write(at, data).await
    }

    async fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        allocation: dmsnap::device::Allocation,
    ) -> std::io::Result<()> {
        self.disk.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> std::io::Result<()> {
        self.disk.discard(at, len).await
    }

    async fn flush(&self) -> std::io::Result<()> {
        self.disk.flush().await
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        self.disk.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.disk.block_bytes()
    }
}

/// A snapshot's read that went to the origin sees the old data, however late it takes effect: writes
/// to the origin, discards and another snapshot's merge wait for it.
#[test]
fn whatever_changes_the_origin_waits_for_the_reads_of_its_snapshots() {
    for change in ["write", "discard", "merge"] {
        let power = Power::steady();
        let late =
            Rc::new(LateRead { disk: origin(64, &power), reads: 0.into(), go: false.into() });
        let volume = any_volume(late.clone());
        let open = |name| {
            let cow = DynDevice::new(empty_cow(2, 100, &power));
            run(volume.open(name, cow, SnapshotOptions::default())).expect("opens")
        };
        let (reader, merger) = (open("reader"), open("merger"));
        let merging = View::snapshot(&volume, &merger);
        run(merging.write(4 * SECTOR, data(900, 2))).expect("a whole chunk reads nothing");
        if change == "merge" {
            run(volume.start_merge(&merger)).expect("started");
        }
        let reading = View::snapshot(&volume, &reader);
        let origin_view = View::origin(&volume);

        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut read = std::pin::pin!(reading.read(4 * SECTOR, 1024));
        assert!(read.as_mut().poll(&mut context).is_pending());
        let mut changing = std::pin::pin!(async {
            match change {
                "write" => origin_view.write(4 * SECTOR, data(900, 2)).await,
                "discard" => origin_view.discard(4 * SECTOR, 1024).await,
                _ => Ok(volume.run_merge(1 << 20, &Silent).await.map(drop)?),
            }
        });
        for _ in 0..1000 {
            assert!(changing.as_mut().poll(&mut context).is_pending(), "{change} went ahead");
        }
        late.go.set(true);
        let found = run(read).expect("read");
        assert_eq!(found[..], data(4, 2)[..], "{change}: the read saw what came after it");
        run(changing).expect("and then it is done");
        assert_ne!(read_all(&origin_view)[4 * 512..6 * 512], data(4, 2)[..]);
        assert_eq!(read_all(&reading), data(0, 64).to_vec(), "{change}");
    }
}

/// Flushes a device when the second move of a merge is about to begin.
struct FlushBetween {
    view: AnyView,
    power: Power,
    moves: Cell<u32>,
}

impl Observer for FlushBetween {
    async fn pace(&self, _: u64) {
        self.moves.set(self.moves.get() + 1);
        if self.moves.get() == 2 {
            self.power.fail(self.power.operations(), RequestFault::DropsWrites);
            self.view.flush().await.expect_err("injected");
        }
    }
}

/// A disk tells of a lost write once. When a client's flush is told, the merge's own flush that follows
/// succeeds; the exceptions must stay all the same, because what was moved is lost.
#[test]
fn a_merge_forgets_nothing_after_a_clients_flush_has_failed() {
    let power = Power::steady();
    let disk = origin(64, &power);
    let volume = any_volume(disk.clone());
    let cow = empty_cow(1, 100, &Power::steady());
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let view = View::snapshot(&volume, &snapshot);
    run(view.write(3 * SECTOR, data(100, 1))).expect("written");
    run(view.write(9 * SECTOR, data(200, 1))).expect("written");
    let shown = read_all(&view);
    run(volume.start_merge(&snapshot)).expect("starts");
    let view = View::origin(&volume);
    let control = FlushBetween { view, power: power.clone(), moves: Cell::default() };
    run(volume.run_merge(1 << 20, &control)).expect_err("not all is durable");
    assert_eq!(volume.merge_state(), Some((MergeState::Failed, 2)));
    // The machine starts again.
    for content in disk.reboots(1) {
        let after = Rc::new(Disk::new(content, 512, &Power::steady()));
        let again = any_volume(after);
        let cow = Rc::new(Disk::new(cow.content(), 512, &Power::steady()));
        let snapshot = add(&again, "s", cow, SnapshotOptions::default());
        assert_eq!(read_all(&View::snapshot(&again, &snapshot)), shown);
    }
}

/// With nothing to publish a flush of a snapshot is a plain one. When it fails, data of a write that goes on
/// next to it may be lost: no exception for that may be published later.
#[test]
fn a_snapshot_publishes_nothing_after_a_failed_flush() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &Power::steady()));
    let cow = empty_cow(1, 100, &power);
    let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
    let view = View::snapshot(&volume, &snapshot);
    power.fail(power.operations(), RequestFault::DropsWrites);
    run(view.flush()).expect_err("injected");
    run(view.write(0, data(100, 1))).expect_err("the store is not used for writing any more");
    run(view.flush()).expect_err("and no flush succeeds");
    assert_eq!(snapshot.unpublished(), 0);
}

/// A snapshot opened for looking at refuses writes, and an origin write that it would have to keep old
/// data of fails: it is not dropped for that. Nothing reaches its device.
#[test]
fn a_snapshot_opened_read_only_takes_no_write_and_is_not_dropped() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let cow = empty_cow(1, 100, &power);
    let opened =
        volume.open_read_only("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    let snapshot = run(opened).expect("opens");
    let view = View::snapshot(&volume, &snapshot);
    let denied = |ended: std::io::Result<()>| {
        assert_eq!(ended.expect_err("refused").kind(), ErrorKind::PermissionDenied);
    };
    denied(run(view.write(0, data(100, 1))));
    denied(run(View::origin(&volume).write(0, data(100, 1))));
    denied(run(volume.invalidate(&snapshot)).map_err(Into::into));
    run(view.flush()).expect("nothing to do");
    run(volume.flush_all()).expect("nothing to do");
    assert_eq!(snapshot.state(), State::Active);
    assert_eq!(read_all(&view), data(0, 64).to_vec());
    assert_eq!((cow.counts().writes, cow.counts().flushes), (0, 0));
}

/// A merge that somebody began can be looked at: origin and snapshot are one device, and stay so.
#[test]
fn a_merge_of_a_snapshot_opened_read_only_shows_one_device_and_writes_nothing() {
    let power = Power::steady();
    let (origin, cow) = (origin(64, &power), empty_cow(1, 100, &power));
    let written = any_volume(origin.clone());
    let snapshot = add(&written, "s", cow.clone(), Default::default());
    run(View::snapshot(&written, &snapshot).write(0, data(100, 1))).expect("there is room");
    run(written.flush_all()).expect("durable");
    let before = (origin.counts().writes, cow.counts().writes);

    let volume = any_volume(origin.clone());
    let opened =
        volume.open_read_only("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    run(volume.start_merge(&run(opened).expect("opens"))).expect("for looking at");
    let shown = read_all(&View::origin(&volume));
    assert_eq!(shown[..data(100, 1).len()], data(100, 1)[..]);
    for written in [
        run(View::origin(&volume).write(0, data(200, 1))),
        run(View::origin(&volume).write(1 << 12, data(200, 1))),
        run(volume.run_merge(1 << 20, &Silent)).map(drop).map_err(Into::into),
    ] {
        assert_eq!(written.expect_err("refused").kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(read_all(&View::origin(&volume)), shown);
    assert_eq!((origin.counts().writes, cow.counts().writes), before);
}

/// While one snapshot merges, origin and snapshot are one device whose content no bare origin has:
/// a new snapshot would show the half-merged origin. The fuzz target `image` found that.
#[test]
fn no_snapshot_is_taken_in_the_middle_of_a_merge() {
    let volume = any_volume(origin(64, &Power::steady()));
    let first = add(&volume, "first", empty_cow(1, 100, &Power::steady()), Default::default());
    run(View::snapshot(&volume, &first).write(0, data(100, 1))).expect("there is room");
    run(volume.start_merge(&first)).expect("started");
    let cow = || DynDevice::new(empty_cow(1, 100, &Power::steady()));
    let late = || volume.open("late", cow(), Default::default());
    let error = run(late()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    run(volume.run_merge(1 << 20, &Silent)).expect("merges");
    let late = run(late()).expect("taken");
    assert_eq!(read_all(&View::snapshot(&volume, &late))[..512], data(100, 1));
}

/// What clients see on the origin is the merging snapshot: it is not dropped, and a merge that goes
/// on brings all of it. The fuzz target `image` dropped one, and the merge went on with its origin.
#[test]
fn a_snapshot_is_not_dropped_in_the_middle_of_its_merge() {
    let volume = any_volume(origin(64, &Power::steady()));
    let snapshot = add(&volume, "s", empty_cow(1, 100, &Power::steady()), Default::default());
    run(View::snapshot(&volume, &snapshot).write(0, data(100, 7))).expect("there is room");
    run(volume.start_merge(&snapshot)).expect("started");
    let error = run(volume.invalidate(&snapshot)).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert_eq!(read_all(&View::origin(&volume))[..7 * 512], data(100, 7));
    run(volume.run_merge(1 << 20, &Silent)).expect("merges");
    run(volume.invalidate(&snapshot)).expect("nothing is left of it");
    assert_eq!(read_all(&View::origin(&volume))[..7 * 512], data(100, 7));
}
