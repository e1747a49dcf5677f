//! A store that remembers its origin: never a false alarm, and no other origin.

use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::Silent;
use dmsnap::device::{Allocation, Device, DynDevice};
use dmsnap::format::{ChunkSize, StoreId};
use dmsnap::ops::{self, Error, MergeOptions};
use dmsnap::store::{FenceBreak, read_tag};
use dmsnap::volume::{SnapshotOptions, View, VolumeError};
use dmsnap_sim::{Disk, Power, run};
use proptest::prelude::*;

use crate::common::live::{AnyView, AnyVolume, any_volume, data, origin};

const SECTORS: u64 = 96;

fn id(byte: u8) -> StoreId {
    StoreId::new([byte; 16]).expect("not zero")
}

/// An empty store that remembers this origin.
fn made_for(origin: &Rc<Disk>, chunk_sectors: u32) -> Rc<Disk> {
    let size = ChunkSize::from_sectors(chunk_sectors).expect("legal");
    let bytes = ops::size_for(origin.len_bytes().expect("a size"), size, 100);
    let cow = Disk::new(vec![0; usize::try_from(bytes).expect("small")], 512, &Power::steady());
    run(ops::create_for(&cow, origin, id(7), size, false)).expect("made");
    Rc::new(cow)
}

fn damaged(cow: &Rc<Disk>, origin: &Rc<Disk>) -> Vec<&'static str> {
    let mut found = Vec::new();
    run(ops::check(cow, Some(origin), |it| found.push(it.damage.name()))).expect("checked");
    found
}

fn open(cow: &Rc<Disk>, origin: &Rc<Disk>, options: SnapshotOptions) -> Result<(), VolumeError> {
    let volume = any_volume(origin.clone());
    run(volume.open_read_only("s", DynDevice::new(cow.clone()), options)).map(|_| ())
}

fn accepted(cow: &Rc<Disk>, origin: &Rc<Disk>) {
    // A store made for its origin is full once everything was rewritten: that is no alarm.
    let found = damaged(cow, origin).into_iter().filter(|it| *it != "full");
    assert_eq!(found.collect::<Vec<_>>(), Vec::<&str>::new());
    open(cow, origin, SnapshotOptions::default()).expect("opens");
    run(ops::plan_merge(cow, origin, MergeOptions::default())).expect("planned");
    let output = Disk::new(vec![0; 1 << 17], 512, &Power::steady());
    run(ops::export(cow, origin, &output, Default::default(), &Silent)).expect("exported");
}

#[derive(Clone, Debug)]
enum Step {
    Origin(u64, u64),
    Snapshot(u64, u64),
    Zero(u64, u64),
    Discard(u64, u64),
    /// Of the volume: everything is taken out and opened anew.
    Reopen,
    /// At most this many windows.
    LiveMerge(u8, bool),
    Merge,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SECTORS, 1_u64..12);
    prop_oneof![
        4 => range().prop_map(|(at, len)| Step::Origin(at, len)),
        4 => range().prop_map(|(at, len)| Step::Snapshot(at, len)),
        1 => range().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => range().prop_map(|(at, len)| Step::Discard(at, len)),
        2 => Just(Step::Reopen),
        1 => (0_u8..4, any::<bool>()).prop_map(|(windows, end)| Step::LiveMerge(windows, end)),
        1 => Just(Step::Merge),
    ]
}

/// Asks to stop after some windows.
struct Windows(std::cell::Cell<u8>);

impl ops::Observer for Windows {
    fn stop_requested(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

struct History {
    origin: Rc<Disk>,
    cow: Rc<Disk>,
    volume: Rc<AnyVolume>,
    tag: u64,
}

impl History {
    fn range(at: u64, len: u64) -> (u64, u64) {
        (at * 512, len.min(SECTORS - at) * 512)
    }

    fn open(&mut self) {
        self.volume = any_volume(self.origin.clone());
        let options = SnapshotOptions { discard_zeroes: true, ..SnapshotOptions::default() };
        let cow = DynDevice::new(self.cow.clone());
        run(self.volume.open("s", cow, options)).expect("never a false alarm");
    }

    fn close(&self) {
        run(self.volume.flush_all()).expect("flushed");
        let _merging = run(self.volume.cancel_merge());
        run(self.volume.flush_all()).expect("flushed");
    }

    fn view(&self, of_snapshot: bool) -> AnyView {
        match of_snapshot.then(|| self.volume.snapshot("s")).flatten() {
            Some(snapshot) => View::snapshot(&self.volume, &snapshot),
            None => View::origin(&self.volume),
        }
    }

    fn data(&mut self, len: u64) -> Bytes {
        self.tag += 1000;
        data(self.tag, len / 512)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Origin(at, len) | Step::Snapshot(at, len) => {
                let (at, len) = Self::range(at, len);
                let data = self.data(len);
                let view = self.view(matches!(step, Step::Snapshot(..)));
                run(view.write(at, data)).expect("written");
            }
            Step::Zero(at, len) => {
                let (at, len) = Self::range(at, len);
                run(self.view(false).write_zeroes(at, len, Allocation::Keep)).expect("zeroed");
            }
            Step::Discard(at, len) => {
                let (at, len) = Self::range(at, len);
                let _may_be_refused = run(self.view(true).discard(at, len));
            }
            Step::Reopen => {
                self.close();
                accepted(&self.cow, &self.origin);
                self.open();
            }
            Step::LiveMerge(windows, write) => {
                let snapshot = self.volume.snapshot("s").expect("there");
                run(self.volume.start_merge(&snapshot)).expect("started");
                run(self.volume.run_merge(2048, &Windows(windows.into()))).expect("ran");
                if write {
                    let data = self.data(4096);
                    run(self.view(false).write(8192, data)).expect("written");
                }
                self.close();
                self.open();
            }
            Step::Merge => {
                self.close();
                let options = MergeOptions { window_bytes: 4096, ..MergeOptions::default() };
                run(ops::merge(&self.cow, &self.origin, options, &Windows(2.into())))
                    .expect("merged, in part");
                accepted(&self.cow, &self.origin);
                self.open();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_history_of_an_origin_and_its_snapshot_is_a_false_alarm(
        steps in proptest::collection::vec(step(), 1..24), chunk in 0_u32..4,
    ) {
        let origin = origin(SECTORS, &Power::steady());
        let cow = made_for(&origin, 1 << chunk);
        let volume = any_volume(origin.clone());
        let mut history = History { origin, cow, volume, tag: 1 << 30 };
        history.open();
        for step in &steps {
            history.take(step);
        }
        history.close();
        accepted(&history.cow, &history.origin);
    }
}

fn write_past(origin: &Rc<Disk>, at: u64) {
    run(origin.write(at, data(1 << 50, 1))).expect("written");
}

#[test]
fn an_origin_that_was_written_past_the_store_is_refused_and_the_byte_named() {
    let origin = origin(SECTORS, &Power::steady());
    let cow = made_for(&origin, 8);
    write_past(&origin, 0);
    assert_eq!(damaged(&cow, &origin), ["origin-changed"]);
    let expected = FenceBreak::Content { at: 0, len: 4096 };
    let refused = run(ops::plan_merge(&cow, &origin, MergeOptions::default())).map(|_| ());
    assert!(matches!(refused, Err(Error::OriginChanged(found)) if found == expected));
    let before = (cow.content(), origin.content());
    let refused = run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).map(|_| ());
    let told = refused.expect_err("refused").to_string();
    assert!(told.ends_with("the 4096 bytes from byte 0 on differ"), "{told}");
    let output = Disk::new(vec![0; 1 << 17], 512, &Power::steady());
    let exported = run(ops::export(&cow, &origin, &output, Default::default(), &Silent));
    assert!(matches!(exported, Err(Error::OriginChanged(_))));
    let opened = open(&cow, &origin, SnapshotOptions::default());
    assert!(matches!(opened, Err(VolumeError::OriginChanged(_))));
    assert!(before == (cow.content(), origin.content()), "nothing was written");

    // Whoever knows better goes on.
    let options = SnapshotOptions { ignore_fence: true, ..SnapshotOptions::default() };
    open(&cow, &origin, options).expect("opens");
    let options = MergeOptions { ignore_fence: true, ..MergeOptions::default() };
    run(ops::merge(&cow, &origin, options, &Silent)).expect("merged");
}

#[test]
fn a_shorter_origin_is_refused_and_a_longer_one_is_not() {
    let short = origin(SECTORS - 8, &Power::steady());
    let origin = origin(SECTORS, &Power::steady());
    let cow = made_for(&origin, 8);
    let refused = run(ops::plan_merge(&cow, &short, MergeOptions::default())).map(|_| ());
    let expected = FenceBreak::Size { then: SECTORS * 512, now: (SECTORS - 8) * 512 };
    assert!(matches!(refused, Err(Error::OriginChanged(found)) if found == expected));
    let mut longer = origin.content();
    longer.extend([9; 4096]);
    accepted(&cow, &Rc::new(Disk::new(longer, 512, &Power::steady())));
}

#[test]
fn a_snapshot_that_was_away_while_the_origin_was_written_does_not_come_back() {
    let disk = origin(SECTORS, &Power::steady());
    let cow = made_for(&disk, 1);
    let volume = any_volume(disk);
    // What clients wrote may still wait in memory when the store is compared with the origin.
    volume.allow_backlog(1 << 20);
    let other = made_for(&origin(SECTORS, &Power::steady()), 1);
    run(volume.open("other", DynDevice::new(other), SnapshotOptions::default())).expect("opens");
    run(View::origin(&volume).write(0, data(1 << 50, SECTORS))).expect("accepted");
    let opened = volume.open("s", DynDevice::new(cow), SnapshotOptions::default());
    let opened = run(opened).map(|_| ());
    assert!(matches!(opened, Err(VolumeError::OriginChanged(_))), "{opened:?}");
    assert!(volume.snapshot("s").is_none());
}

#[test]
fn a_merge_forgets_what_it_writes_and_keeps_the_rest() {
    let origin = origin(SECTORS, &Power::steady());
    let cow = made_for(&origin, 1);
    let before = run(read_tag(&cow)).expect("read").expect("a tag");
    let volume = any_volume(origin.clone());
    let opened = volume.open("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    let snapshot = run(opened).expect("opens");
    run(View::snapshot(&volume, &snapshot).write(0, data(1 << 50, 1))).expect("written");
    run(volume.flush_all()).expect("flushed");
    run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).expect("merged");
    let after = run(read_tag(&cow)).expect("read").expect("a tag");
    assert_eq!((after.id, after.origin_bytes), (before.id, before.origin_bytes));
    let left = before.fence.samples().iter().filter(|sample| sample.at != 0);
    assert!(left.eq(after.fence.samples()), "only sample 0 went");
    accepted(&cow, &origin);
}
