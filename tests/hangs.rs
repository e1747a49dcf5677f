//! A device that hangs harms only requests that need it; everybody else goes on.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;

use dmsnap::copy::Silent;
use dmsnap::device::{Device, DynDevice};
use dmsnap::format::ChunkSize;
use dmsnap::store::format;
use dmsnap::volume::{MergeState, SnapshotOptions, View};
use futures_executor::{LocalPool, block_on};
use futures_util::task::LocalSpawnExt;

use crate::common::hanging::{Hanging, Hangs};
use crate::common::live::{AnySnapshot, AnyView, AnyVolume, any_volume};

type Disk = Rc<Hanging>;

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 64;

/// An origin and snapshots of it on devices of their own.
struct Machine {
    pool: RefCell<LocalPool>,
    volume: Rc<AnyVolume>,
    origin: Disk,
}

/// A request that was sent.
struct Sent<T>(Rc<RefCell<Option<T>>>);

impl<T> Sent<T> {
    #[track_caller]
    fn answer(&self, what: &str) -> T {
        self.0.take().unwrap_or_else(|| panic!("still waits: {what}"))
    }

    fn waits(&self) -> bool {
        self.0.borrow().is_none()
    }
}

impl Machine {
    fn new() -> Self {
        let origin = Hanging::new(vec![7; usize::try_from(CHUNKS * CHUNK).expect("small")]);
        let volume = any_volume(origin.clone());
        Self { pool: RefCell::default(), volume, origin }
    }

    fn cow() -> Disk {
        let cow = Hanging::new(vec![0; usize::try_from(2 * CHUNKS * CHUNK).expect("small")]);
        block_on(format(&cow, ChunkSize::from_sectors(8).expect("legal"))).expect("formats");
        cow
    }

    fn add(&self, name: &str) -> (Disk, Rc<AnySnapshot>) {
        let cow = Self::cow();
        let opened =
            self.volume.open(name, DynDevice::new(cow.clone()), SnapshotOptions::default());
        (cow.clone(), block_on(opened).expect("added"))
    }

    /// Begins something and lets everything go on as far as it can.
    fn send<T: 'static>(&self, request: impl Future<Output = T> + 'static) -> Sent<T> {
        let answer = Rc::new(RefCell::new(None));
        let sent = Sent(answer.clone());
        let task = async move {
            let ended = request.await;
            answer.replace(Some(ended));
        };
        self.pool.borrow().spawner().spawn_local(task).expect("spawned");
        self.go_on();
        sent
    }

    fn go_on(&self) {
        self.pool.borrow_mut().run_until_stalled();
    }

    fn ticks(&self, ticks: u32) {
        for _ in 0..ticks {
            self.volume.tick();
            self.go_on();
        }
    }

    fn write(&self, view: AnyView, chunk: u64, byte: u8) -> Sent<io::Result<()>> {
        let data = vec![byte; usize::try_from(CHUNK).expect("small")].into();
        self.send(async move { view.write(chunk * CHUNK, data).await })
    }

    fn flush(&self, view: AnyView) -> Sent<io::Result<()>> {
        self.send(async move { view.flush().await })
    }

    fn origin_view(&self) -> AnyView {
        View::origin(&self.volume)
    }

    fn view(&self, snapshot: &Rc<AnySnapshot>) -> AnyView {
        View::snapshot(&self.volume, snapshot)
    }

    #[track_caller]
    fn writes(&self, view: AnyView, chunk: u64) {
        self.write(view, chunk, 3).answer("a write that needs nothing of it").expect("written");
    }

    #[track_caller]
    fn flushes(&self, view: AnyView) {
        self.flush(view).answer("a flush that needs nothing of it").expect("flushed");
    }

    fn reads(&self, view: &AnyView, chunk: u64) -> u8 {
        block_on(view.read(chunk * CHUNK, 1)).expect("read")[0]
    }

    fn call<F>(&self, call: impl FnOnce(Rc<AnyVolume>) -> F) -> Sent<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.send(call(self.volume.clone()))
    }
}

#[test]
fn a_write_that_hangs_lets_snapshots_come_and_go() {
    let machine = Machine::new();
    let ((h_cow, h), (_, a), (_, b)) = (machine.add("h"), machine.add("a"), machine.add("b"));
    h_cow.hangs(Hangs::Writes);
    let hung = machine.write(machine.view(&h), 0, 1);
    assert!(hung.waits());
    let cow = Machine::cow();
    let added = machine.call(|volume| async move {
        volume.open("new", DynDevice::new(cow), SnapshotOptions::default()).await.map(drop)
    });
    added.answer("adding a snapshot").expect("added");
    let b_too = b.clone();
    let dropped = machine.call(|volume| async move { volume.invalidate(&b_too).await });
    dropped.answer("dropping another one").expect("dropped");
    let removed = machine.call(|volume| async move { volume.remove(&b).await });
    removed.answer("removing another one").expect("removed");
    machine.writes(machine.view(&a), 5);
    machine.flushes(machine.view(&a));
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    hung.answer("the write, when the device is well again").expect("written");
}

#[test]
fn a_hung_snapshot_that_is_dropped_or_removed_stops_nobody_who_needs_nothing_of_it() {
    let machine = Machine::new();
    let ((h_cow, h), (_, a)) = (machine.add("h"), machine.add("a"));
    machine.writes(machine.origin_view(), 0);
    h_cow.hangs(Hangs::Everything);
    let hung = machine.write(machine.view(&h), 9, 1);
    let h_too = h.clone();
    let dropped = machine.call(|volume| async move { volume.invalidate(&h_too).await });
    assert!(dropped.waits(), "the mark hangs");
    // What the origin held there is with both snapshots already.
    machine.writes(machine.origin_view(), 0);
    machine.flushes(machine.origin_view());
    machine.writes(machine.view(&a), 3);
    machine.flushes(machine.view(&a));
    // An origin write that relies on the mark waits for it.
    let relies = machine.write(machine.origin_view(), 1, 1);
    assert!(relies.waits());
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    assert!(dropped.answer("dropped").is_ok());
    hung.answer("hung").ok();
    assert!(relies.answer("relies").is_ok());
}

#[test]
fn once_a_hung_snapshot_is_removed_the_origin_needs_it_no_more() {
    let machine = Machine::new();
    let ((h_cow, h), (_, a)) = (machine.add("h"), machine.add("a"));
    h_cow.hangs(Hangs::Everything);
    let hung = machine.write(machine.view(&h), 9, 1);
    let removed = machine.call(|volume| async move { volume.remove(&h).await });
    assert!(removed.waits());
    machine.ticks(4);
    assert!(removed.waits(), "its own flush is still to come");
    assert_eq!(machine.volume.snapshots().len(), 1);
    machine.writes(machine.origin_view(), 1);
    machine.flushes(machine.origin_view());
    assert_eq!(machine.reads(&machine.view(&a), 1), 7);
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    hung.answer("the write").expect("written");
    removed.answer("the removal").expect("flushed");
}

/// What the removal has given up waiting for does not stay in line before others.
#[test]
fn a_removal_that_hangs_keeps_no_place_among_those_who_write_back() {
    let machine = Machine::new();
    let ((h_cow, _h), (a_cow, a)) = (machine.add("h"), machine.add("a"));
    machine.volume.allow_backlog(1 << 20);
    machine.writes(machine.view(&a), 2);
    machine.flushes(machine.view(&a));
    machine.writes(machine.origin_view(), 2);
    h_cow.hangs(Hangs::Everything);
    let first = machine.flush(machine.origin_view());
    a_cow.hangs(Hangs::Everything);
    let removed = machine.call(|volume| async move { volume.remove(&a).await });
    machine.ticks(8);
    let second = machine.flush(machine.origin_view());
    assert!(first.waits() && removed.waits() && second.waits());
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    first.answer("the flush that wrote back").expect("flushed");
    second.answer("the flush after it").expect("flushed");
    assert!(removed.waits(), "its own flush is still to come");
    a_cow.hangs(Hangs::Nothing);
    machine.go_on();
    removed.answer("the removal").expect("flushed");
}

/// The same with the gate: two origin writes hang, each for another snapshot, and one of them ends just before
/// the removal waits for them no more.
#[test]
fn a_removal_that_hangs_leaves_the_gate_open() {
    let machine = Machine::new();
    let [(first_cow, first), (second_cow, second), (a_cow, a)] =
        ["first", "second", "a"].map(|name| machine.add(name));
    // A write to chunk 0 needs the first one alone, one to chunk 1 the second one.
    for (snapshot, chunk) in [(&first, 1), (&second, 0), (&a, 0), (&a, 1)] {
        machine.writes(machine.view(snapshot), chunk);
        machine.flushes(machine.view(snapshot));
    }
    [&first_cow, &second_cow].into_iter().for_each(|cow| cow.hangs(Hangs::Everything));
    let hung = machine.write(machine.origin_view(), 0, 1);
    machine.ticks(1);
    a_cow.hangs(Hangs::Everything);
    let removed = machine.call(|volume| async move { volume.remove(&a).await });
    machine.ticks(2);
    let younger = machine.write(machine.origin_view(), 1, 1);
    first_cow.hangs(Hangs::Nothing);
    machine.go_on();
    hung.answer("the older write").expect("written");
    machine.ticks(8);
    machine.writes(machine.origin_view(), 0);
    assert!(removed.waits() && younger.waits());
    [&second_cow, &a_cow].into_iter().for_each(|cow| cow.hangs(Hangs::Nothing));
    machine.go_on();
    younger.answer("the younger write").expect("written");
    removed.answer("the removal").expect("flushed");
}

#[test]
fn what_waits_in_memory_is_kept_by_a_snapshot_that_is_removed_whatever_another_does() {
    let machine = Machine::new();
    let ((h_cow, _h), (a_cow, a)) = (machine.add("h"), machine.add("a"));
    machine.volume.allow_backlog(1 << 20);
    h_cow.hangs(Hangs::Everything);
    machine.writes(machine.origin_view(), 2);
    let removed = machine.call(|volume| async move { volume.remove(&a).await });
    removed.answer("the removal").expect("flushed");
    // As it was when it went: before that write.
    let reopened = any_volume(Hanging::new(vec![3; 64 << 12]));
    let opened = reopened.open("a", DynDevice::new(a_cow), SnapshotOptions::default());
    let a = block_on(opened).expect("opens");
    assert_eq!(machine.reads(&View::snapshot(&reopened, &a), 2), 7);
}

#[test]
fn a_snapshot_whose_copy_hangs_holds_up_no_flush_of_another() {
    let machine = Machine::new();
    let ((h_cow, _h), (_, a)) = (machine.add("h"), machine.add("a"));
    h_cow.hangs(Hangs::Writes);
    let hung = machine.write(machine.origin_view(), 0, 1);
    assert!(hung.waits(), "the old data has to be kept first");
    machine.writes(machine.view(&a), 5);
    machine.flushes(machine.view(&a));
    assert_eq!(machine.origin.content()[0], 7, "written before it was kept");
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    hung.answer("the origin write").expect("written");
    assert_eq!(machine.origin.content()[0], 1);
}

#[test]
fn an_origin_write_that_hangs_keeps_a_snapshot_from_being_added_and_nobody_else() {
    let machine = Machine::new();
    let ((h_cow, h), (_, a)) = (machine.add("h"), machine.add("a"));
    machine.writes(machine.origin_view(), 1);
    h_cow.hangs(Hangs::Writes);
    let hung = machine.write(machine.origin_view(), 0, 1);
    let cow = Machine::cow();
    let added = machine.call(|volume| async move {
        volume.open("new", DynDevice::new(cow), SnapshotOptions::default()).await.map(drop)
    });
    let a_too = a.clone();
    let merging = machine.call(|volume| async move { volume.start_merge(&a_too).await });
    assert!(added.waits() && merging.waits());
    machine.ticks(4);
    machine.writes(machine.origin_view(), 1);
    machine.writes(machine.view(&a), 1);
    machine.ticks(10);
    machine.writes(machine.origin_view(), 1);
    machine.flushes(machine.origin_view());
    assert!(added.waits() && merging.waits());
    drop(h);
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    machine.ticks(2);
    hung.answer("the origin write").expect("written");
    // Either comes first; the other one is refused or not.
    let (added, merging) = (added.answer("adding"), merging.answer("merging"));
    assert!(added.is_ok() || merging.is_ok(), "{added:?} {merging:?}");
}

/// After its merge a snapshot is the origin under another name: a new one is not made while it is written.
#[test]
fn a_write_to_a_merged_snapshot_that_hangs_keeps_one_from_being_added_as_well() {
    let machine = Machine::new();
    let (_, s) = machine.add("s");
    let s_too = s.clone();
    let merged = machine.call(|volume| async move {
        volume.start_merge(&s_too).await?;
        volume.run_merge(1 << 20, &Silent).await
    });
    assert_eq!(merged.answer("the merge").expect("merged"), MergeState::Finished);
    machine.origin.hangs(Hangs::Writes);
    let hung = machine.write(machine.view(&s), 0, 1);
    let cow = Machine::cow();
    let added = machine.call(|volume| async move {
        volume.open("new", DynDevice::new(cow), SnapshotOptions::default()).await.expect("added")
    });
    assert!(hung.waits() && added.waits(), "added in the middle of a write");
    machine.origin.hangs(Hangs::Nothing);
    machine.go_on();
    hung.answer("the write").expect("written");
    let new = machine.view(&added.answer("adding"));
    assert_eq!(machine.reads(&new, 0), 1);
    machine.writes(machine.view(&s), 0);
    assert_eq!(machine.reads(&new, 0), 1);
}

#[test]
fn after_a_merge_nobody_needs_the_cow_device_any_more() {
    let machine = Machine::new();
    let (cow, s) = machine.add("s");
    machine.writes(machine.view(&s), 5);
    let s_too = s.clone();
    let merged = machine.call(|volume| async move {
        volume.start_merge(&s_too).await?;
        volume.run_merge(1 << 20, &Silent).await
    });
    assert_eq!(merged.answer("the merge").expect("merged"), MergeState::Finished);
    cow.hangs(Hangs::Everything);
    machine.writes(machine.origin_view(), 6);
    machine.flushes(machine.origin_view());
    machine.writes(machine.view(&s), 7);
    machine.flushes(machine.view(&s));
}

#[test]
fn a_publish_that_hangs_holds_up_no_other_work_of_the_volume() {
    let machine = Machine::new();
    let ((h_cow, h), _a) = (machine.add("h"), machine.add("a"));
    machine.volume.allow_backlog(1 << 20);
    let _working = machine.call(|volume| async move { volume.run_write_back(pending()).await });
    machine.writes(machine.view(&h), 5);
    machine.writes(machine.origin_view(), 5);
    machine.ticks(2);
    assert_eq!(machine.origin.content()[usize::try_from(5 * CHUNK).expect("small")], 3);
    h_cow.hangs(Hangs::Flushes);
    let hung = machine.flush(machine.view(&h));
    assert!(hung.waits());
    // Its old data is with both snapshots.
    machine.writes(machine.origin_view(), 5);
    machine.flushes(machine.origin_view());
}

#[test]
fn at_the_end_everything_is_flushed_that_does_not_hang() {
    let machine = Machine::new();
    let ((h_cow, h), (a_cow, a)) = (machine.add("h"), machine.add("a"));
    machine.writes(machine.view(&h), 5);
    machine.writes(machine.view(&a), 5);
    h_cow.hangs(Hangs::Flushes);
    let flushed = machine.call(|volume| async move { volume.flush_all().await });
    assert!(flushed.waits());
    let reopened = any_volume(machine.origin.clone());
    let content = DynDevice::new(Hanging::new(a_cow.content()));
    let opened = block_on(reopened.open("a", content, SnapshotOptions::default())).expect("opens");
    assert_eq!(opened.exceptions(), 1);
    h_cow.hangs(Hangs::Nothing);
    machine.go_on();
    flushed.answer("the flush").expect("flushed");
}

/// What takes long without waiting for anything gives way.
#[test]
fn a_long_zeroing_of_what_is_kept_lets_others_have_their_turn() {
    let origin = Hanging::new(vec![7; 16 << 20]);
    let volume = any_volume(origin);
    let cow = Hanging::new(vec![0; 18 << 20]);
    block_on(format(&cow, ChunkSize::from_sectors(1).expect("legal"))).expect("formats");
    let opened = volume.open("s", DynDevice::new(cow), SnapshotOptions::default());
    let s = block_on(opened).expect("added");
    let zero = |view: AnyView| async move {
        let allocation = dmsnap::device::Allocation::MayPunch;
        view.write_zeroes(0, 16 << 20, allocation).await
    };
    block_on(zero(View::snapshot(&volume, &s))).expect("zeroed");
    block_on(volume.publish(&s)).expect("published");
    let turns = Rc::new(Cell::new(0));
    let mut pool = LocalPool::new();
    let (done, counter) = (Rc::new(Cell::new(false)), turns.clone());
    let done_too = done.clone();
    let others = async move {
        while !done_too.get() {
            counter.set(counter.get() + 1);
            let mut gave = false;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                match std::mem::replace(&mut gave, true) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
        }
    };
    let view = View::origin(&volume);
    let zeroing = async move {
        zero(view).await.expect("zeroed");
        done.set(true);
    };
    pool.spawner().spawn_local(others).expect("spawned");
    pool.spawner().spawn_local(zeroing).expect("spawned");
    pool.run();
    assert!(turns.get() >= 4, "{} turns", turns.get());
}
