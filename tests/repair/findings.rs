//! Each finding, provoked by a store made by hand, with what is done about it.

use dmsnap::format::{ChunkSize, Layout};
use dmsnap::ops::{Condition, Duplicates, Error, RepairOptions};

use super::view::View;
use super::{Outcome, agreed, assert_sound, needs, repair};
use crate::common::{World, bytes, scattered};

/// 600 chunks of 4 KiB with 300 exceptions, 1024 chunks on the origin.
fn world() -> World {
    World::new(8, 600, 8 * 1024).with_exceptions(&scattered(300, 1024, 5))
}

fn olds() -> Vec<u64> {
    scattered(300, 1024, 5)
}

/// The bytes of the origin that chunk `old` of 4 KiB has.
fn origin(old: u64) -> Option<std::ops::Range<u64>> {
    Some(old * 4096..(old + 1) * 4096)
}

/// The snapshot is what it was, but for these chunks, which show the origin.
#[track_caller]
fn assert_repaired(world: &World, outcome: &Outcome, lost: &[u64]) {
    let (made, _) = outcome.made.as_ref().expect("repaired");
    assert_sound(made, Some(&world.origin), "repaired");
    let view = View::of(made, 4096, world.origin.len(), Duplicates::First);
    for old in 0..1024 {
        let at = bytes(old) * 4096..bytes(old + 1) * 4096;
        let wanted = if lost.contains(&old) { &world.origin } else { &world.snapshot };
        assert!(view.show(made, &world.origin, 4096, old) == &wanted[at], "chunk {old}");
    }
    assert_eq!(outcome.plan.needed_bytes, made.len() as u64);
}

#[track_caller]
fn fix(world: &World, options: RepairOptions) -> Outcome {
    repair(&world.cow, Some(&world.origin), options).expect("a store")
}

#[test]
fn nothing_is_told_of_a_sound_store_and_a_copy_of_it_is_sound() {
    for count in [0, 1, 255, 256, 257, 512, 590] {
        let world = World::new(8, 600, 8 * 1024).with_exceptions(&scattered(count, 1024, 5));
        let outcome = fix(&world, RepairOptions::default());
        assert!(outcome.plan.sound && outcome.told.is_empty(), "{count}: {:?}", outcome.told);
        assert_eq!((outcome.plan.exceptions, outcome.plan.kept), (count, count));
        assert_repaired(&world, &outcome, &[]);
    }
}

/// Each exception is put into slot 7 or 270 of a store that has another one there.
#[test]
fn an_exception_without_data_is_dropped_and_named() {
    for (index, new, kind) in [
        (7, 1, "new-is-metadata"),
        (270, 258, "new-is-metadata"),
        (7, 600, "new-beyond-device"),
        (270, 1 << 56, "new-too-large"),
    ] {
        let mut world = world();
        let lost = olds()[bytes(index)];
        world.put_slot(index, lost, new);
        let outcome = fix(&world, RepairOptions::default());
        assert_eq!(outcome.told, [(kind, "drop", Some(index % 256), origin(lost))]);
        assert_eq!(needs(&outcome), [Condition::Drop]);
        assert!(matches!(outcome.made, Err(Error::Needs(Condition::Drop))));
        let outcome = fix(&world, agreed());
        assert_eq!((outcome.plan.exceptions, outcome.plan.kept), (300, 299));
        assert_repaired(&world, &outcome, &[lost]);
    }
}

#[test]
fn an_exception_beyond_the_origin_is_dropped_without_asking() {
    let mut world = world();
    world.put_slot(300, 1024, world.layout.lock_step_chunk(300).get());
    world.put_slot(301, 5000, 7000);
    let outcome = fix(&world, RepairOptions::default());
    let told = [
        ("old-beyond-origin", "drop-unseen", Some(44), None),
        ("new-beyond-device", "drop-unseen", Some(45), None),
    ];
    assert_eq!(outcome.told, told);
    assert_repaired(&world, &outcome, &[]);
}

#[test]
fn a_shared_chunk_is_copied() {
    let mut world = world();
    let taken = world.layout.lock_step_chunk(17).get();
    let old = (0..1024).find(|old| !olds().contains(old)).expect("one is free");
    world.put_slot(300, old, taken);
    let data = world.cow[bytes(taken) * 4096..][..4096].to_vec();
    world.put_data(old, taken, &data);
    let outcome = fix(&world, RepairOptions::default());
    assert_eq!(outcome.told, [("duplicate-new", "copy-chunk", Some(44), None)]);
    assert_repaired(&world, &outcome, &[]);
}

#[test]
fn of_two_exceptions_for_one_chunk_the_one_that_was_chosen_is_kept() {
    let first = olds()[40];
    let mut world = world();
    let new = world.layout.lock_step_chunk(300).get();
    world.put_slot(300, first, new);
    // The same data: nothing to choose.
    let copied = bytes(world.layout.lock_step_chunk(40).get()) * 4096;
    world.cow.copy_within(copied..copied + 4096, bytes(new) * 4096);
    let outcome = fix(&world, RepairOptions::default());
    assert_eq!(outcome.told, [("duplicate-old", "drop-repeat", Some(44), None)]);
    assert_repaired(&world, &outcome, &[]);
    // Other data.
    world.cow[bytes(new) * 4096 + 4095] ^= 1;
    let outcome = fix(&world, agreed());
    assert_eq!(outcome.told, [("duplicate-old", "choose", Some(44), origin(first))]);
    assert_eq!(needs(&outcome), [Condition::Duplicates]);
    let choose = |rule| RepairOptions { duplicates: Some(rule), ..RepairOptions::default() };
    assert_repaired(&world, &fix(&world, choose(Duplicates::First)), &[]);
    let data = world.cow[bytes(new) * 4096..][..4096].to_vec();
    world.put_data(first, new, &data);
    let outcome = fix(&world, choose(Duplicates::Last));
    assert_repaired(&world, &outcome, &[]);
    assert_eq!((outcome.plan.exceptions, outcome.plan.kept), (301, 300));
}

/// Three for one chunk, of which the first has no data: the second is the first that counts.
#[test]
fn an_exception_without_data_gives_way_to_one_that_has_some() {
    let old = olds()[40];
    let mut world = world();
    let lock_step = |index| world.layout.lock_step_chunk(index).get();
    let (a, b) = (lock_step(300), lock_step(301));
    let moved = bytes(lock_step(40)) * 4096;
    world.put_slot(40, old, 900);
    world.put_slot(300, old, a);
    world.cow.copy_within(moved..moved + 4096, bytes(a) * 4096);
    let outcome = fix(&world, agreed());
    let lost = ("new-beyond-device", "drop", Some(40), origin(old));
    let kept = ("duplicate-old", "keep-repeat", Some(44), None);
    assert_eq!(outcome.told, [lost.clone(), kept.clone()]);
    assert_repaired(&world, &outcome, &[]);
    world.put_slot(301, old, b);
    let outcome = fix(&world, agreed());
    assert_eq!(outcome.told, [lost, kept, ("duplicate-old", "choose", Some(45), origin(old))]);
    let first = RepairOptions { duplicates: Some(Duplicates::First), ..agreed() };
    assert_repaired(&world, &fix(&world, first), &[]);
}

#[test]
fn strays_are_zeroed_and_the_front_of_an_area_is_named_as_lost() {
    let mut world = world();
    world.put_slot(310, 3, 400);
    world.put_slot(400, 4, 401);
    let outcome = fix(&world, RepairOptions::default());
    let strays = |slot| ("stray-slots", "zero-slots", Some(slot), None);
    assert_eq!(outcome.told, [strays(54), strays(144)]);
    assert_repaired(&world, &outcome, &[]);
}

/// A discard has zeroed the front of area 0, which was full: the rest of it and area 1 are read on.
#[test]
fn what_a_discard_left_is_moved_up() {
    let mut world = world();
    world.cow[4096..4096 + 64 * 16].fill(0);
    let outcome = fix(&world, RepairOptions::default());
    assert_eq!(outcome.told, [("front-of-area-zeroed", "move-up", Some(64), None)]);
    assert_eq!(needs(&outcome), [Condition::Drop]);
    let outcome = fix(&world, agreed());
    assert_eq!((outcome.plan.exceptions, outcome.plan.kept), (236, 236));
    assert_repaired(&world, &outcome, &olds()[..64]);
    // The same of area 1, with something strange in what is left.
    let mut world = self::world();
    let area = bytes(world.layout.area_location(1).get()) * 4096;
    world.cow[area..area + 32 * 16].fill(0);
    world.put_slot(295, 1023, world.layout.lock_step_chunk(295).get());
    world.put_slot(296, olds()[2], world.layout.lock_step_chunk(296).get());
    let outcome = fix(&world, agreed());
    let left = ("front-of-area-zeroed", "move-up", Some(32), None);
    assert_eq!(outcome.told[0], left);
    assert_eq!(outcome.told[1].0, "duplicate-old");
}

#[test]
fn a_store_without_an_end_gets_one() {
    // 258 chunks: header, area 0 and its 256 chunks. Area 1 would be the next one.
    let olds = scattered(256, 1024, 5);
    let mut world = World::new(8, 600, 8 * 1024).with_exceptions(&olds);
    world.cow.truncate(258 * 4096);
    let outcome = fix(&world, RepairOptions::default());
    assert_eq!(outcome.told, [("missing-terminator", "end-list", None, None)]);
    assert_repaired(&world, &outcome, &[]);
    assert_eq!(outcome.plan.needed_bytes, 259 * 4096);
    // Cut off in the data: what lay there is lost.
    world.cow.truncate(250 * 4096 + 100);
    let outcome = fix(&world, agreed());
    let lost: Vec<_> = outcome.told.iter().filter(|it| it.1 == "drop").map(|it| it.2).collect();
    assert_eq!(lost, (248..256).map(Some).collect::<Vec<_>>());
    assert!(outcome.told.iter().filter(|it| it.1 == "drop").all(|it| it.0 == "truncated"));
    assert_repaired(&world, &outcome, &olds[248..]);
}

type Spoil = fn(&mut [u8]);

#[test]
fn a_lost_header_is_found_again() {
    let spoilt: [(Spoil, &str); 6] = [
        (|cow| cow[..4096].fill(0), "blank"),
        (|cow| cow[..4].fill(0), "blank"),
        (|cow| cow[..512].fill(0xA5), "bad-magic"),
        (|cow| cow[2] ^= 1, "bad-magic"),
        (|cow| cow[8] = 3, "bad-version"),
        (|cow| cow[12] = 24, "impossible-chunk-size"),
    ];
    for (spoil, kind) in spoilt {
        for count in [2, 256, 300] {
            let olds = scattered(count, 1024, 5);
            let mut world = World::new(8, 600, 8 * 1024).with_exceptions(&olds);
            spoil(&mut world.cow);
            let outcome = fix(&world, RepairOptions::default());
            assert_eq!(outcome.told, [(kind, "write-header", None, None)], "{count}");
            assert_repaired(&world, &outcome, &[]);
        }
    }
}

/// One exception is no list, but the rest of the header says what it was.
#[test]
fn without_a_list_the_chunk_size_has_to_be_told() {
    let mut world = World::new(8, 600, 8 * 1024).with_exceptions(&[7]);
    world.cow[2] ^= 1;
    assert_repaired(&world, &fix(&world, RepairOptions::default()), &[]);
    world.cow[12] = 0;
    world.cow[2] ^= 1;
    let outcome = fix(&world, agreed());
    assert_eq!(outcome.told, [("impossible-chunk-size", "name-chunk-size", None, None)]);
    assert_eq!(needs(&outcome), [Condition::ChunkSize]);
    assert_eq!(outcome.plan.chunk_size_sectors, None);
    let told = RepairOptions { chunk_size: ChunkSize::from_sectors(8).ok(), ..agreed() };
    assert_repaired(&world, &fix(&world, told), &[]);
    // Of nothing at all nobody says that it was a store.
    world.cow[..4096].fill(0);
    let found = repair(&world.cow, Some(&world.origin), agreed());
    assert!(matches!(found.err(), Some(Error::Header(_))));
    assert_repaired(&world, &fix(&world, told), &[]);
}

/// The header says 512 bytes, where there is an empty list.
#[test]
fn the_caller_knows_better_than_the_header() {
    let mut world = world();
    world.cow[12] = 1;
    let outcome = fix(&world, RepairOptions::default());
    assert!(outcome.plan.sound && outcome.plan.exceptions == 0);
    let told =
        RepairOptions { chunk_size: ChunkSize::from_sectors(8).ok(), ..RepairOptions::default() };
    let outcome = fix(&world, told);
    assert!(!outcome.plan.sound && outcome.told.is_empty());
    assert_repaired(&world, &outcome, &[]);
}

#[test]
fn a_dropped_snapshot_is_revived_only_if_that_is_asked_for() {
    let mut world = world();
    world.invalidate();
    let outcome = fix(&world, RepairOptions { drop_lost: true, ..RepairOptions::default() });
    assert_eq!(outcome.told, [("invalid", "revive", None, None)]);
    assert!(matches!(outcome.made, Err(Error::Needs(Condition::Revive))));
    assert_repaired(&world, &fix(&world, agreed()), &[]);
    // Also where the magic is lost, but not the flag after it.
    world.cow[0] = 0;
    let outcome = fix(&world, RepairOptions::default());
    assert_eq!(needs(&outcome), [Condition::Revive]);
    assert_repaired(&world, &fix(&world, agreed()), &[]);
}

#[test]
fn an_origin_that_begins_with_a_header_is_not_repaired() {
    let mut world = world();
    world.put_slot(300, 2000, 7000);
    world.origin[..4].copy_from_slice(b"SnAp");
    let outcome = fix(&world, agreed());
    assert_eq!(outcome.told[0], ("origin-begins-with-header", "leave-origin", None, None));
    assert!(matches!(outcome.made, Err(Error::Needs(Condition::Impossible))));
}

#[test]
fn of_a_device_without_a_whole_area_nothing_is_left() {
    for len in [1536, 5000] {
        let mut world = world();
        world.cow.truncate(len);
        let outcome = fix(&world, agreed());
        assert_eq!(needs(&outcome), [Condition::Impossible], "{len} bytes");
        assert_eq!(outcome.told.last().map(|it| it.1), Some("nothing-left"), "{len} bytes");
    }
}

#[test]
fn every_chunk_size_is_recognised() {
    for chunk_size in ChunkSize::all().take(9) {
        let layout = Layout::new(chunk_size);
        let mut world = World::new(chunk_size.sectors(), 12, u64::from(chunk_size.sectors()) * 20)
            .with_exceptions(&[7, 3, 19, 4]);
        let whole = world.cow.clone();
        world.cow[..512].fill(0);
        let outcome = repair(&world.cow, None, RepairOptions::default()).expect("a store");
        assert_eq!(outcome.plan.chunk_size_sectors, Some(chunk_size.sectors()));
        let (made, repaired) = outcome.made.expect("repaired");
        let end = bytes(layout.chunks_needed(4) * chunk_size.bytes());
        let start = bytes(chunk_size.bytes());
        assert!(made[..16] == whole[..16] && made[start..end] == whole[start..end], "{chunk_size}");
        assert_eq!((repaired.exceptions, repaired.dropped), (4, 0));
        assert_eq!(repaired.bytes, 4 * chunk_size.bytes());
    }
}
