//! What a status page is pushed from: each change of a volume is a generation.

use std::future::Future;
use std::task::Context;

use dmsnap::copy::Silent;
use dmsnap::device::Device;
use dmsnap::volume::{ChangeSet, MergeState, SnapshotOptions, View};
use dmsnap_sim::{Power, run};
use futures_util::task::noop_waker;

use crate::common::live::{AnyVolume, add, any_volume, data, empty_cow, origin};

/// What has changed since the last call.
struct Seen<'a> {
    volume: &'a AnyVolume,
    generation: u64,
}

impl Seen<'_> {
    fn changes(&mut self) -> ChangeSet {
        let changes = self.volume.changes_after(self.generation);
        assert_eq!(changes.generation, self.volume.changes().generation());
        self.generation = changes.generation;
        changes
    }

    /// Of which snapshots the exceptions have changed, and nothing else.
    fn exceptions(&mut self) -> Vec<u64> {
        let changes = self.changes();
        assert!(!changes.snapshots_changed && !changes.merge_changed, "{changes:?}");
        assert!(changes.snapshots.iter().all(|it| !it.is_new && !it.state_changed), "{changes:?}");
        let changed = changes.snapshots.iter().filter(|it| it.exceptions_changed);
        changed.map(|it| it.id).collect()
    }

    /// Nothing but the state of one snapshot has changed.
    fn is_state_of(&mut self, id: u64) -> bool {
        let changes = self.changes();
        match changes.snapshots.as_slice() {
            [only] => only.id == id && only.state_changed && !changes.snapshots_changed,
            _ => false,
        }
    }

    fn nothing(&mut self) -> bool {
        let before = self.generation;
        self.changes().generation == before
    }
}

#[test]
fn every_change_of_a_snapshot_is_one_and_nothing_else_is() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let mut seen = Seen { volume: &volume, generation: 0 };
    assert!(seen.nothing());

    let a = add(&volume, "a", empty_cow(1, 6, &power), SnapshotOptions::default());
    let b = add(&volume, "b", empty_cow(1, 100, &power), SnapshotOptions::default());
    let changes = seen.changes();
    assert!(changes.snapshots_changed && changes.snapshots.iter().all(|it| it.is_new));
    assert_eq!(changes.snapshots.len(), 2);

    // An exception, then its data anew, then its publish.
    let view = View::snapshot(&volume, &a);
    run(view.write(0, data(100, 1))).expect("there is room");
    assert_eq!(seen.exceptions(), [a.id()]);
    run(view.write(0, data(101, 1))).expect("in place");
    run(view.read(0, 4096)).expect("readable");
    assert!(seen.nothing());
    run(view.flush()).expect("durable");
    assert_eq!(seen.exceptions(), [a.id()]);
    run(view.flush()).expect("nothing to publish");
    assert!(seen.nothing());

    // The origin: each snapshot without an exception gets one.
    run(View::origin(&volume).write(0, data(102, 1))).expect("kept");
    assert_eq!(seen.exceptions(), [b.id()]);
    run(View::origin(&volume).write(512, data(103, 1))).expect("kept");
    assert_eq!(seen.exceptions(), [a.id(), b.id()]);

    // Full, dropped, gone.
    run(view.write(8192, data(104, 8))).expect_err("no room for eight");
    assert!(seen.changes().snapshots.iter().any(|it| it.id == a.id() && it.state_changed));
    run(volume.invalidate(&a)).expect("marked");
    assert!(seen.is_state_of(a.id()));
    run(volume.remove(&a)).expect("it is out");
    let changes = seen.changes();
    assert!(changes.snapshots_changed && changes.snapshots.is_empty(), "{changes:?}");
}

#[test]
fn a_merge_is_seen_from_its_start_to_its_end_window_by_window() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let s = add(&volume, "s", empty_cow(1, 100, &power), SnapshotOptions::default());
    run(View::snapshot(&volume, &s).write(0, data(100, 8))).expect("there is room");
    let mut seen = Seen { volume: &volume, generation: volume.changes().generation() };
    run(volume.start_merge(&s)).expect("nothing is in its way");
    assert!(seen.changes().merge_changed);
    let before = volume.changes().generation();
    assert_eq!(run(volume.run_merge(512, &Silent)).expect("merges"), MergeState::Finished);
    let changes = seen.changes();
    assert!(changes.merge_changed && changes.snapshots[0].exceptions_changed, "{changes:?}");
    // At least one for each of the eight windows.
    assert!(volume.changes().generation() >= before + 8);
    run(volume.remove(&s)).expect("it is out");
    let changes = seen.changes();
    assert!(changes.merge_changed && changes.snapshots_changed, "{changes:?}");
}

#[test]
fn who_waits_for_a_change_is_woken_by_it_and_by_none_that_was_before() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let waker = noop_waker();
    let mut context = Context::from_waker(&waker);
    let mut waits = Box::pin(volume.changes().wait_after(0));
    assert!(waits.as_mut().poll(&mut context).is_pending());
    let s = add(&volume, "s", empty_cow(1, 100, &power), SnapshotOptions::default());
    let generation = run(waits);
    assert_eq!(generation, volume.changes().generation());
    let mut waits = Box::pin(volume.changes().wait_after(generation));
    assert!(waits.as_mut().poll(&mut context).is_pending());
    run(View::snapshot(&volume, &s).write(0, data(100, 1))).expect("there is room");
    assert!(run(waits) > generation);
    // One that is late is told at once.
    assert_eq!(run(volume.changes().wait_after(0)), volume.changes().generation());
}
