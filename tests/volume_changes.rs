//! What happens to a volume while its owner changes it: adds, removes and drops snapshots, pauses and
//! gives up merges, while writes wait.

use std::cell::Cell;
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::{Observer, Silent};
use dmsnap::device::{Device, DynDevice};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::store::{AnyStore, Persistent, Strays, format};
use dmsnap::volume::{MergeState, OnFull, SnapshotOptions, State, View};
use dmsnap_sim::{Disk, Power, run};
use futures_util::FutureExt;
use futures_util::future::{join, poll_immediate};

use crate::common::live::{AnySnapshot, AnyVolume, any_volume};
use crate::common::{World, scattered};

const SECTOR: u64 = 512;

fn data(tag: u64, sectors: u64) -> Bytes {
    (0..sectors).flat_map(|n| (tag + n).to_le_bytes().repeat(64)).collect()
}

fn origin(power: &Power) -> Rc<Disk> {
    Rc::new(Disk::new(data(0, 64).to_vec(), 512, power))
}

/// An empty store of chunks of one sector.
fn empty_cow(chunks: u64, power: &Power) -> Rc<Disk> {
    let len = usize::try_from(chunks * SECTOR).expect("small");
    let disk = Disk::new(vec![0; len], 512, &Power::steady());
    run(format(&disk, ChunkSize::from_sectors(1).expect("legal"))).expect("formats");
    Rc::new(Disk::new(disk.content(), 512, power))
}

fn add(volume: &AnyVolume, name: &str, cow: Rc<Disk>, on_full: OnFull) -> Rc<AnySnapshot> {
    let mut exceptions = Vec::new();
    let (cow, len_bytes) = (DynDevice::new(cow), Some(volume.len_bytes()));
    let opened = Persistent::open(cow, len_bytes, Strays::Refuse, |it| exceptions.push(it));
    let store = AnyStore::Persistent(run(opened).expect("opens"));
    let options = SnapshotOptions { on_full, ..SnapshotOptions::default() };
    // Nothing here takes time: whatever waits, waits for another.
    let added = volume.add(name, store, exceptions, options).now_or_never();
    added.expect("adding does not wait").expect("added")
}

fn read_all<D: Device>(device: &D) -> Vec<u8> {
    let len = usize::try_from(device.len_bytes().expect("a size")).expect("small");
    run(device.read(0, len)).expect("readable").to_vec()
}

/// A volume with a full snapshot that makes origin writes wait.
fn full_and_patient(power: &Power) -> (Rc<AnyVolume>, Rc<AnySnapshot>) {
    let volume = any_volume(origin(power));
    let full = add(&volume, "full", empty_cow(4, power), OnFull::Wait { ticks: 1_000_000 });
    run(View::origin(&volume).write(0, data(100, 2))).expect("room for two");
    (volume, full)
}

/// A writer that waits for room holds nobody up: other snapshots come meanwhile (and are kept whole by the
/// write that waits), and the full one can be taken away.
#[test]
fn snapshots_come_and_go_while_a_write_waits_for_room() {
    let (volume, full) = full_and_patient(&Power::steady());
    let view = View::origin(&volume);
    let mut write = pin!(view.write(9 * SECTOR, data(200, 1)));
    assert!(run(poll_immediate(&mut write)).is_none(), "no room");
    let before = read_all(&view);
    let late = add(&volume, "late", empty_cow(100, &Power::steady()), OnFull::Invalidate);
    run(View::snapshot(&volume, &late).write(SECTOR, data(300, 1))).expect("others write");
    volume.remove(&full).now_or_never().expect("removing does not wait").expect("removed");
    volume.tick();
    run(poll_immediate(&mut write)).expect("nobody is waited for now").expect("written");
    let mut expected = before;
    expected[512..1024].copy_from_slice(&data(300, 1));
    assert_eq!(read_all(&View::snapshot(&volume, &late)), expected);
}

#[test]
fn a_snapshot_that_makes_writes_wait_can_be_dropped() {
    let (volume, full) = full_and_patient(&Power::steady());
    let view = View::origin(&volume);
    let mut write = pin!(view.write(9 * SECTOR, data(200, 1)));
    assert!(run(poll_immediate(&mut write)).is_none(), "no room");
    volume.invalidate(&full).now_or_never().expect("dropping does not wait").expect("dropped");
    volume.tick();
    run(poll_immediate(&mut write)).expect("nobody is waited for now").expect("written");
    assert!(!run(ops::info(full.cow_device())).expect("a store").valid);
}

/// The end of a server does not take as long as its most patient snapshot.
#[test]
fn a_hurried_volume_lets_nobody_wait() {
    let (volume, _full) = full_and_patient(&Power::steady());
    let view = View::origin(&volume);
    let mut write = pin!(view.write(9 * SECTOR, data(200, 1)));
    assert!(run(poll_immediate(&mut write)).is_none(), "no room");
    volume.stop_waiting_for_room();
    let told = run(poll_immediate(&mut write)).expect("at once").expect_err("no room");
    assert_eq!(told.kind(), ErrorKind::StorageFull);
    let again = view.write(9 * SECTOR, data(200, 1)).now_or_never().expect("at once");
    assert_eq!(again.expect_err("no room").kind(), ErrorKind::StorageFull);
}

/// An origin write that goes on without a snapshot waits for its mark, also if another write found
/// the store full: every cut leaves an origin as it was, or a store that says it is dropped.
#[test]
fn every_origin_write_waits_for_the_mark_of_a_dropped_snapshot() {
    let mut changed = 0;
    for seed in 1..40 {
        for operations in 0..30 {
            let power = Power::cut_after(operations);
            let (disk, cow) = (origin(&power), empty_cow(4, &power));
            let volume = any_volume(disk.clone());
            let device = DynDevice::new(cow.clone());
            let Ok(store) = run(Persistent::open(device, None, Strays::Refuse, |_| {})) else {
                continue;
            };
            let store = AnyStore::Persistent(store);
            let options = SnapshotOptions::default();
            if run(volume.add("s", store, Vec::new(), options)).is_err() {
                continue;
            }
            cow.delay(seed);
            disk.delay(seed * 31);
            let view = View::origin(&volume);
            let writes = (20..26).map(|n| view.write(n * SECTOR, data(500 + n, 1)));
            let _ = run(futures_util::future::join_all(writes));
            // Room for two: a third chunk that has changed relies on the mark.
            let old = data(0, 64);
            let seen = disk.content();
            let count =
                (20..26).filter(|n| seen[n * 512..][..512] != old[n * 512..][..512]).count();
            if count < 3 {
                continue;
            }
            changed += 1;
            for content in cow.reboots(seed) {
                let after = Disk::new(content, 512, &Power::steady());
                let valid = run(ops::info(&after)).expect("a store").valid;
                assert!(
                    !valid,
                    "seed {seed}, cut after {operations}: {count} changed, store valid"
                );
            }
        }
    }
    assert!(changed > 100, "only {changed} cuts came late enough");
}

/// A merge with exceptions for many chunks, not yet running.
fn merging() -> (Rc<AnyVolume>, World) {
    let (volume, world) = about_to_merge();
    start_merge(&volume);
    (volume, world)
}

fn about_to_merge() -> (Rc<AnyVolume>, World) {
    let power = Power::steady();
    let world = World::new(1, 200, 64).with_exceptions(&scattered(50, 64, 5));
    let disk = Rc::new(Disk::new(world.origin.clone(), 512, &power));
    let cow = Rc::new(Disk::new(world.cow.clone(), 512, &power));
    let volume = any_volume(disk);
    add(&volume, "s", cow, OnFull::Invalidate);
    (volume, world)
}

fn start_merge(volume: &AnyVolume) {
    let snapshot = volume.snapshot("s").expect("it was added");
    run(volume.start_merge(&snapshot)).expect("started");
}

/// A pause lets the window under way end. Until then the merge can neither be given up (new
/// exceptions would take the chunks it clears) nor run a second time.
#[test]
fn a_merge_is_not_given_up_inside_a_window() {
    struct Meddle<'a>(&'a AnyVolume, Cell<u32>);
    impl Observer for Meddle<'_> {
        async fn pace(&self, _: u64) {
            self.0.pause_merge();
            let refused = self.0.cancel_merge().await.expect_err("a window is open");
            assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
            let refused = Box::pin(self.0.run_merge(1 << 20, &Silent)).await;
            assert_eq!(refused.expect_err("it runs").kind(), ErrorKind::ResourceBusy);
            self.1.set(self.1.get() + 1);
        }
    }
    let (volume, world) = merging();
    let meddle = Meddle(&volume, Cell::new(0));
    let state = run(volume.run_merge(8 * SECTOR, &meddle)).expect("runs");
    assert_eq!(state, MergeState::Paused);
    assert!(meddle.1.get() > 0);
    run(volume.cancel_merge()).expect("given up");
    let snapshot = volume.snapshot("s").expect("it is there");
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), world.snapshot);
}

/// A merge that waits for room in another snapshot pauses at once, and goes on where it was.
#[test]
fn a_merge_that_waits_for_room_can_be_paused() {
    let (volume, world) = about_to_merge();
    let other = add(&volume, "other", empty_cow(4, &Power::steady()), OnFull::Wait { ticks: 1000 });
    start_merge(&volume);
    let mut merge = Box::pin(volume.run_merge(16 * SECTOR, &Silent));
    assert!(run(poll_immediate(&mut merge)).is_none(), "no room for the window");
    volume.pause_merge();
    let ended = run(poll_immediate(&mut merge)).expect("at once").expect("no failure");
    drop(merge);
    assert_eq!((ended, volume.merge_state()), (MergeState::Paused, Some((MergeState::Paused, 50))));
    run(volume.remove(&other)).expect("removed");
    let go_on = volume.run_merge(16 * SECTOR, &Silent);
    let (ended, ()) = run(join(go_on, async { volume.tick() }));
    assert_eq!(ended.expect("goes on"), MergeState::Finished);
    assert_eq!(read_all(&View::origin(&volume)), world.snapshot);
    assert_eq!(other.state(), State::Active);
}
