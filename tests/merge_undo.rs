//! A merge that can be taken back: cut at any operation, gone on with, taken back, and made again.

use dmsnap::format::{StoreId, TagState};
use dmsnap::ops::{self, Error, MergeOptions, Observer, Other, Silent, UndoOptions, Undoable};
use dmsnap::store::read_tag;
use dmsnap_sim::{Disk, Power, run};

use crate::common::{World, scattered};

const WINDOW_BYTES: u64 = 512 * 12;

/// The origin ends within a chunk.
const ORIGIN_SECTORS: u64 = 101;

/// A snapshot with exceptions over more than one area, its origin, and a blank device.
fn world() -> World {
    World::new(2, 120, ORIGIN_SECTORS).with_exceptions(&scattered(40, 51, 3))
}

fn small() -> World {
    World::new(1, 24, 30).with_exceptions(&scattered(7, 30, 3))
}

fn ids(n: u8) -> [StoreId; 2] {
    [n, n + 1].map(|byte| StoreId::new([byte; 16]).expect("not zero"))
}

/// The store, its origin, and the device for the undo store.
type Disks = [Disk; 3];

fn disks(world: &World, undo: &[u8], power: &Power) -> Disks {
    let contents = [&world.cow, &world.origin, &undo.to_vec()];
    contents.map(|content| Disk::new(content.clone(), 512, power))
}

fn blank(world: &World) -> Vec<u8> {
    let chunk = world.chunk_bytes();
    vec![0; chunk * 100]
}

fn options() -> UndoOptions {
    let merge = MergeOptions { window_bytes: WINDOW_BYTES, ..MergeOptions::default() };
    UndoOptions { merge, ..UndoOptions::default() }
}

fn merge([cow, origin, undo]: &Disks) -> Result<Undoable, Error> {
    run(ops::merge_undoable((cow, origin), (undo, ids(1)), &[], options(), &Silent))
}

fn undo([cow, origin, undo]: &Disks) -> Result<Undoable, Error> {
    run(ops::undo((cow, origin), undo, &[], options(), &Silent))
}

/// The undo of an undo.
fn redo([cow, origin, undo]: &Disks) -> Result<Undoable, Error> {
    run(ops::undo((undo, origin), cow, &[], options(), &Silent))
}

fn shown(cow: &Disk, origin: &Disk) -> Vec<u8> {
    let output = Disk::new(vec![0; origin.content().len()], 512, &Power::steady());
    run(ops::export(cow, origin, &output, Default::default(), &Silent)).expect("exported");
    output.content()
}

fn is_store(disk: &Disk) -> bool {
    disk.content().starts_with(b"SnAp")
}

/// What every moment promises: the snapshot, and the old origin or no undo store.
fn assert_shown([cow, origin, undo]: &Disks, world: &World, told: &str) {
    assert!(shown(cow, origin) == world.snapshot, "the snapshot, {told}");
    match is_store(undo) {
        true => assert!(shown(undo, origin) == world.origin, "the old origin, {told}"),
        false => assert!(origin.content() == world.origin, "an origin without a way back, {told}"),
    }
}

/// Every state that a power cut leaves, of up to `most` at each operation.
fn each_cut(
    world: &World,
    begin: &Disks,
    act: impl Fn(&Disks) -> Result<Undoable, Error>,
    most: usize,
    mut look: impl FnMut(Disks, &str),
) -> u64 {
    let contents = begin.each_ref().map(Disk::content);
    let again = |power: &Power| contents.each_ref().map(|it| Disk::new(it.clone(), 512, power));
    let power = Power::steady();
    act(&again(&power)).expect("done");
    let mut states = 0;
    for cut in 0..power.operations() {
        let disks = again(&Power::cut_after(cut));
        act(&disks).expect_err("the power was cut");
        let left = disks.each_ref().map(|disk| disk.reboots(cut).take(most).collect::<Vec<_>>());
        for n in 0..left.iter().map(Vec::len).max().unwrap_or(0) {
            let told = format!("cut after {cut}, survivors {n}");
            let steady = Power::steady();
            let disks = left.each_ref().map(|it| Disk::new(it[n % it.len()].clone(), 512, &steady));
            assert_shown(&disks, world, &told);
            look(disks, &told);
            states += 1;
        }
    }
    states
}

fn copies(disks: &Disks) -> Disks {
    disks.each_ref().map(|disk| Disk::new(disk.content(), 512, &Power::steady()))
}

#[test]
fn a_merge_can_be_taken_back_and_made_again() {
    let world = world();
    let disks = disks(&world, &blank(&world), &Power::steady());
    let done = merge(&disks).expect("merged");
    assert!(done.merged.finished && done.merged.exceptions == 40 && done.kept_chunks == 40);
    assert!(disks[1].content() == world.snapshot);
    assert_shown(&disks, &world, "merged");
    let merged = disks.each_ref().map(Disk::content);
    for round in 0..5 {
        let done = undo(&disks).expect("taken back");
        assert!(done.merged.finished && done.kept_chunks == 40, "{round}");
        assert!(disks[1].content() == world.origin, "{round}");
        assert!(shown(&disks[0], &disks[1]) == world.snapshot, "{round}");
        assert!(run(ops::info(&disks[2])).expect("a store").exceptions == 0, "{round}");
        let done = redo(&disks).expect("made again");
        assert!(done.merged.finished && done.kept_chunks == 40, "{round}");
        assert!(disks[1].content() == merged[1], "{round}");
        assert!(shown(&disks[2], &disks[1]) == world.origin, "{round}");
    }
}

#[test]
fn no_cut_of_a_merge_leaves_less_than_its_promise_and_the_same_call_goes_on() {
    let world = world();
    let begin = disks(&world, &blank(&world), &Power::steady());
    let states = each_cut(&world, &begin, merge, 12, |disks, told| {
        // The same call, a plain merge, and an undo.
        let same = copies(&disks);
        merge(&same).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(same[1].content() == world.snapshot, "{told}");
        assert_shown(&same, &world, told);
        if !is_store(&disks[2]) {
            return;
        }
        let plain = copies(&disks);
        run(ops::merge(&plain[0], &plain[1], options().merge, &Silent))
            .unwrap_or_else(|error| panic!("{error}: {told}"));
        assert_shown(&plain, &world, told);
        undo(&plain).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(plain[1].content() == world.origin, "{told}");
        undo(&disks).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(disks[1].content() == world.origin, "{told}");
        assert!(shown(&disks[0], &disks[1]) == world.snapshot, "{told}");
    });
    assert!(states > 500, "the world has become too small: {states}");
}

#[test]
fn no_cut_of_a_way_back_leaves_less_than_its_promise() {
    let world = small();
    let begin = disks(&world, &blank(&world), &Power::steady());
    merge(&begin).expect("merged");
    let states = each_cut(&world, &begin, undo, 40, |disks, told| {
        let back = copies(&disks);
        undo(&back).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(back[1].content() == world.origin, "{told}");
        assert!(shown(&back[0], &back[1]) == world.snapshot, "{told}");
        // Given up half-way: the merge once more.
        if run(read_tag(&disks[2])).expect("read").is_some_and(|it| it.state == TagState::Merging) {
            redo(&disks).unwrap_or_else(|error| panic!("{error}: {told}"));
            assert!(disks[1].content() == world.snapshot, "{told}");
            assert!(shown(&disks[2], &disks[1]) == world.origin, "{told}");
        }
    });
    assert!(states > 150, "the world has become too small: {states}");
}

/// Asks to stop after so many questions.
struct StopsAfter(std::cell::Cell<u32>);

impl Observer for StopsAfter {
    fn stop_requested(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

#[test]
fn a_merge_that_was_stopped_half_way_is_cancelled() {
    let world = world();
    for stop in 0..12 {
        let begin = disks(&world, &blank(&world), &Power::steady());
        let [cow, origin, way_back] = &begin;
        let observer = StopsAfter(stop.into());
        let stopped =
            run(ops::merge_undoable((cow, origin), (way_back, ids(1)), &[], options(), &observer));
        assert_shown(&begin, &world, &format!("stopped after {stop}"));
        if stopped.is_ok_and(|it| !it.merged.finished && it.merged.exceptions > 0) {
            let writes = origin.counts().writes;
            undo(&begin).expect("cancelled");
            assert!(origin.content() == world.origin);
            assert!(shown(cow, origin) == world.snapshot);
            assert!(origin.counts().writes - writes <= writes + 1, "what is equal is not written");
        }
        merge(&begin).expect("merged");
        assert_shown(&begin, &world, "merged");
    }
}

#[test]
fn the_way_back_takes_as_few_flushes_as_it_was_designed_with() {
    let world = world();
    let plain = disks(&world, &blank(&world), &Power::steady());
    run(ops::merge(&plain[0], &plain[1], options().merge, &Silent)).expect("merged");
    let disks = disks(&world, &blank(&world), &Power::steady());
    let [cow, origin, way_back] = &disks;
    let plan = run(ops::plan_merge_undoable((cow, origin), Some(way_back), &[], options()));
    let plan = plan.expect("planned");
    assert_eq!((plan.keep_chunks, plan.keep_bytes), (40, 40 * 1024));
    merge(&disks).expect("merged");
    assert_eq!(way_back.counts().flushes, 3, "what it is to become, data, header");
    assert_eq!(origin.counts().flushes, plain[1].counts().flushes);
    let tags = cow.counts().flushes - plain[0].counts().flushes;
    assert_eq!(tags, 3, "named, merging, done");
    assert_eq!(plan.keep_flushes, 3 + tags);
    let used = (way_back.content().len() as u64, plan.undo_bytes);
    assert!(used.0 >= used.1 && plan.undo_bytes == (40 + 2) * 1024, "{used:?}");
}

#[test]
fn a_snapshot_that_is_not_wanted_is_dropped_with_its_merge() {
    let world = world();
    let begin = disks(&world, &blank(&world), &Power::steady());
    merge(&begin).expect("merged");
    let contents = begin.each_ref().map(Disk::content);
    let again = |power: &Power| contents.each_ref().map(|it| Disk::new(it.clone(), 512, power));
    let drop_snapshot = |[cow, origin, way_back]: &Disks| {
        let options = UndoOptions { drop_snapshot: true, ..options() };
        run(ops::undo((cow, origin), way_back, &[], options, &Silent))
    };
    let power = Power::steady();
    let whole = again(&power);
    drop_snapshot(&whole).expect("taken back");
    assert!(whole[1].content() == world.origin);
    assert!(!run(ops::info(&whole[0])).expect("a store").valid);
    for cut in 0..power.operations() {
        let disks = again(&Power::cut_after(cut));
        drop_snapshot(&disks).expect_err("the power was cut");
        let left = disks.each_ref().map(|disk| disk.reboots(cut).next().expect("one"));
        let left = left.map(|content| Disk::new(content, 512, &Power::steady()));
        assert!(shown(&left[2], &left[1]) == world.origin, "cut after {cut}");
        drop_snapshot(&left).unwrap_or_else(|error| panic!("{error}: cut after {cut}"));
        assert!(left[1].content() == world.origin, "cut after {cut}");
    }
}

#[test]
fn a_third_snapshot_keeps_what_it_shows() {
    let world = World::new(1, 120, 100).with_exceptions(&scattered(30, 100, 3));
    let third = World::new(4, 60, 100).with_exceptions(&scattered(5, 25, 8));
    let [cow, origin, way_back] = disks(&world, &blank(&world), &Power::steady());
    let others = |disk| [Other { name: "third".into(), cow: disk, len_bytes: None }];
    let third_disk = Disk::new(third.cow.clone(), 512, &Power::steady());
    let third_disk = others(third_disk);
    let way = (&way_back, ids(1));
    run(ops::merge_undoable((&cow, &origin), way, &third_disk, options(), &Silent))
        .expect("merged");
    assert!(origin.content() == world.snapshot);
    assert!(shown(&third_disk[0].cow, &origin) == third.snapshot);
    run(ops::undo((&cow, &origin), &way_back, &third_disk, options(), &Silent)).expect("undone");
    assert!(origin.content() == world.origin);
    assert!(shown(&third_disk[0].cow, &origin) == third.snapshot);
    assert!(shown(&cow, &origin) == world.snapshot);
}

fn refused(done: Result<Undoable, Error>) -> String {
    done.expect_err("refused").to_string()
}

#[test]
fn what_cannot_be_an_undo_store_is_refused_before_anything_is_written() {
    let world = world();
    let chunk = world.chunk_bytes();
    let other = small();
    let mut file_system = blank(&world);
    file_system[1080..1082].copy_from_slice(&[0x53, 0xEF]);
    for (undo, told) in [
        (vec![0; 41 * chunk], "has 41984 bytes; the way back takes 43008"),
        (other.cow.clone(), "holds a store already"),
        (file_system, "file system"),
    ] {
        let disks = disks(&world, &undo, &Power::steady());
        let refusal = refused(merge(&disks));
        assert!(refusal.contains(told), "{refusal}");
        let after = disks.each_ref().map(Disk::content);
        assert!(after == [world.cow.clone(), world.origin.clone(), undo], "{told}");
    }
}

#[test]
fn an_undo_store_without_room_leaves_everything_as_it_was() {
    let world = world();
    let power = Power::steady();
    let disks = disks(&world, &blank(&world), &power);
    power.fail_request(30, dmsnap_sim::RequestFault::NoSpace);
    if merge(&disks).is_err() && power.fired().iter().all(|(disk, _)| *disk == 2) {
        assert!(disks[0].content() == world.cow && disks[1].content() == world.origin);
        assert!(!is_store(&disks[2]));
    }
    merge(&disks).expect("merged");
    assert_shown(&disks, &world, "merged");
}

#[test]
fn a_way_back_is_not_merged_by_itself_nor_in_the_wrong_order_nor_for_others() {
    let world = world();
    let disks = disks(&world, &blank(&world), &Power::steady());
    let [cow, origin, way_back] = &disks;
    merge(&disks).expect("merged");
    let before = disks.each_ref().map(Disk::content);
    let alone = run(ops::merge(way_back, origin, options().merge, &Silent)).map(|_| ());
    assert!(matches!(alone, Err(Error::IsWayBack { .. })), "{alone:?}");
    let told = refused(redo(&disks));
    assert!(told.contains("exchange them"), "{told}");
    let third = Disk::new(blank(&world), 512, &Power::steady());
    let told = refused(run(ops::undo((cow, origin), &third, &[], options(), &Silent)));
    assert!(told.contains("is not the way back"), "{told}");
    assert!(before == disks.each_ref().map(Disk::content), "nothing was written");
}

#[test]
fn a_second_way_back_waits_for_the_first() {
    let world = world();
    let disks = disks(&world, &blank(&world), &Power::steady());
    let [cow, origin, way_back] = &disks;
    // Seven batches are kept, then a window is merged.
    let observer = StopsAfter(8.into());
    let half =
        run(ops::merge_undoable((cow, origin), (way_back, ids(1)), &[], options(), &observer));
    assert!(!half.expect("begun").merged.finished);
    let second = Disk::new(blank(&world), 512, &Power::steady());
    let again = run(ops::merge_undoable((cow, origin), (&second, ids(5)), &[], options(), &Silent));
    assert!(matches!(again, Err(Error::PartnerMissing { .. })), "{again:?}");
    merge(&disks).expect("merged");
    // When it is done there may be another merge, with another way back.
    let tag = run(read_tag(cow)).expect("read").expect("a tag");
    assert_eq!(tag.state, TagState::Plain);
}

#[test]
fn an_origin_that_was_written_without_the_way_back_is_refused() {
    let world = world();
    let disks = disks(&world, &blank(&world), &Power::steady());
    merge(&disks).expect("merged");
    let mut content = disks[1].content();
    // A chunk that the merge did not write.
    let untouched = (0..51).find(|old| !scattered(40, 51, 3).contains(old)).expect("one");
    let at = usize::try_from(untouched).expect("small") * 1024;
    content[at] ^= 1;
    let [cow, _, way_back] = &disks;
    let origin = Disk::new(content.clone(), 512, &Power::steady());
    let told = refused(run(ops::undo((cow, &origin), way_back, &[], options(), &Silent)));
    assert!(told.contains(&format!("from byte {at} on differ")), "{told}");
    assert!(origin.content() == content);
}

#[cfg(feature = "planted")]
#[test]
fn what_breaks_the_way_back_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    let merge_cut = no_cut_of_a_merge_leaves_less_than_its_promise_and_the_same_call_goes_on;
    let back_cut = no_cut_of_a_way_back_leaves_less_than_its_promise;
    let laws: [(_, fn()); 4] = [
        (Planted::KeepAfterMerge, merge_cut),
        (Planted::HeaderBeforeArea, merge_cut),
        (Planted::TagBeforeHeader, merge_cut),
        (Planted::UndoWithoutKeeping, back_cut),
    ];
    for (law, check) in laws {
        plant(Some(law));
        let kept = std::panic::catch_unwind(check).is_ok();
        plant(None);
        assert!(!kept, "{law:?}");
    }
}
