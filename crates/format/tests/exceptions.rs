//! Slots, exceptions and runs: what is written comes back, the list ends at the first slot whose
//! new chunk is 0, and nothing impossible passes the check against the devices.

use crate::common::{any_layout, layouts};
use dmsnap_format::{
    CowChunk, Exception, ExceptionFault, Extents, Layout, OriginChunk, RawException, Role, Run,
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn exception(old: u64, new: u64) -> Exception {
    Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
}

fn slot_bytes(old: u64, new: u64) -> Vec<u8> {
    [old.to_le_bytes(), new.to_le_bytes()].concat()
}

/// The exceptions of one area, up to its terminator.
fn listed(area: &[u8]) -> Vec<Exception> {
    RawException::slots(area).iter().map_while(RawException::decode).collect()
}

/// Numbers of every magnitude, and the two ends.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![(any::<u64>(), 0..64_u32).prop_map(|(n, bits)| n >> bits), Just(0), Just(u64::MAX)]
}

fn any_exception() -> impl Strategy<Value = Exception> {
    (number(), number()).prop_map(|(old, new)| exception(old, new.max(1)))
}

#[test]
fn a_slot_is_two_little_endian_numbers() {
    let raw = RawException::from(exception(0x0102_0304_0506_0708, 0x1112_1314_1516_1718));
    let expected = [8, 7, 6, 5, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11];
    assert_eq!(raw.as_bytes(), expected);
}

#[test]
fn the_first_origin_chunk_is_a_chunk_like_any_other() {
    assert_eq!(listed(&slot_bytes(0, 2)), [exception(0, 2)]);
}

#[test]
fn a_new_chunk_of_0_ends_the_list_whatever_old_says() {
    for old in [0, 1, 7, u64::MAX] {
        let area = [slot_bytes(10, 2), slot_bytes(old, 0), slot_bytes(11, 3)].concat();
        assert_eq!(listed(&area), [exception(10, 2)], "old {old}");
    }
}

proptest! {
    #[test]
    fn any_list_comes_back_and_ends_at_its_terminator(
        list in prop::collection::vec(any_exception(), 0..70),
        terminator_old in number(),
        strays in prop::collection::vec(any_exception(), 0..5),
    ) {
        let mut area: Vec<u8> = list
            .iter()
            .flat_map(|&exception| RawException::from(exception).as_bytes().to_vec())
            .collect();
        prop_assert_eq!(area.len(), 16 * list.len());
        area.extend(slot_bytes(terminator_old, 0));
        for stray in strays {
            area.extend(RawException::from(stray).as_bytes());
        }
        prop_assert_eq!(listed(&area), list);
    }

    #[test]
    fn any_bytes_are_slots_and_a_part_of_one_is_left_out(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        shift in 0..3_usize,
    ) {
        // Cut off at the front as well: slots need no alignment in memory.
        let bytes = bytes.get(shift..).unwrap_or_default();
        let slots = RawException::slots(bytes);
        prop_assert_eq!(slots.len(), bytes.len() / 16);
        for (slot, sixteen) in slots.iter().zip(bytes.chunks_exact(16)) {
            prop_assert_eq!(slot.as_bytes(), sixteen);
            let is_terminator = sixteen[8..].iter().all(|&byte| byte == 0);
            prop_assert_eq!(slot.decode().is_none(), is_terminator);
        }
    }
}

/// Devices of `cow_chunks` and `origin_chunks` whole chunks.
fn extents(layout: Layout, cow_chunks: u64, origin_chunks: u64) -> Extents {
    let bytes = layout.chunk_size().bytes();
    Extents::new(layout, cow_chunks * bytes, Some(origin_chunks * bytes))
}

#[test]
fn each_fault_is_found_and_its_neighbour_is_none() {
    for layout in layouts() {
        let area_1 = layout.area_location(1).get();
        let extents = extents(layout, area_1 + 10, 100);
        let check = |old, new| extents.check(exception(old, new));

        assert_eq!(check(0, 2), Ok(()));
        assert_eq!(check(99, area_1 + 9), Ok(()));
        assert_eq!(check(100, 2), Err(ExceptionFault::OldBeyondOrigin));
        assert_eq!(check(u64::MAX, 2), Err(ExceptionFault::OldBeyondOrigin));
        assert_eq!(check(0, area_1 + 10), Err(ExceptionFault::NewBeyondDevice));
        assert_eq!(check(0, (1 << 56) - 1), Err(ExceptionFault::NewBeyondDevice));
        assert_eq!(check(0, 1 << 56), Err(ExceptionFault::NewTooLarge));
        assert_eq!(check(0, u64::MAX), Err(ExceptionFault::NewTooLarge));
        for metadata in [0, 1, area_1] {
            assert_eq!(check(0, metadata), Err(ExceptionFault::NewIsMetadata), "{metadata}");
        }
        assert_eq!(check(0, area_1 - 1), Ok(()));
        assert_eq!(check(0, area_1 + 1), Ok(()));
    }
}

#[test]
fn the_worst_of_several_faults_is_told() {
    for layout in layouts() {
        let inside = layout.area_location(1).get();
        let outside = layout.area_location(2).get();
        // Metadata, beyond any device and with a bit too many, all at once.
        let area = (1_u64 << 56) / layout.stride() + 1;
        let huge = layout.area_location(area).get();
        assert_eq!(layout.role(CowChunk::new(huge)), Role::Area(area));

        let extents = extents(layout, outside, 100);
        let check = |old, new| extents.check(exception(old, new));
        assert_eq!(check(100, huge), Err(ExceptionFault::NewTooLarge));
        assert_eq!(check(100, outside), Err(ExceptionFault::NewBeyondDevice));
        assert_eq!(check(100, inside), Err(ExceptionFault::NewIsMetadata));
        assert_eq!(check(100, inside + 1), Err(ExceptionFault::OldBeyondOrigin));
    }
}

#[test]
fn a_last_partial_chunk_exists_on_the_origin_but_not_on_the_cow_device() {
    for layout in layouts().filter(|layout| layout.chunk_size().sectors() > 1) {
        let chunk = layout.chunk_size().bytes();
        let extents = Extents::new(layout, 4 * chunk + 512, Some(4 * chunk + 512));
        assert_eq!(extents.check(exception(4, 3)), Ok(()));
        assert_eq!(extents.check(exception(5, 3)), Err(ExceptionFault::OldBeyondOrigin));
        assert_eq!(extents.check(exception(4, 4)), Err(ExceptionFault::NewBeyondDevice));
    }
}

#[test]
fn without_an_origin_any_old_chunk_passes() {
    for layout in layouts() {
        let extents = Extents { layout, cow_chunks: 3, origin_chunks: None };
        assert_eq!(extents.check(exception(u64::MAX, 2)), Ok(()));
        assert_eq!(extents.check(exception(u64::MAX, 3)), Err(ExceptionFault::NewBeyondDevice));
    }
}

#[test]
fn every_fault_has_words_of_its_own() {
    let faults = [
        ExceptionFault::NewIsMetadata,
        ExceptionFault::NewBeyondDevice,
        ExceptionFault::NewTooLarge,
        ExceptionFault::OldBeyondOrigin,
    ];
    let words: std::collections::BTreeSet<String> =
        faults.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), faults.len());
    assert!(!words.contains(""));
}

proptest! {
    #[test]
    fn what_passes_is_a_data_chunk_inside_the_devices(
        layout in any_layout(),
        cow_bytes in number(),
        origin_bytes in prop::option::of(number()),
        exception in any_exception(),
    ) {
        let chunk = u128::from(layout.chunk_size().bytes());
        let passed = Extents::new(layout, cow_bytes, origin_bytes).check(exception).is_ok();
        let (old, new) = (u128::from(exception.old.get()), u128::from(exception.new.get()));
        let sound = new < 1 << 56
            && (new + 1) * chunk <= u128::from(cow_bytes)
            && layout.role(exception.new) == Role::Data
            && origin_bytes.is_none_or(|bytes| old * chunk < u128::from(bytes));
        prop_assert_eq!(passed, sound);
    }
}

/// Cuts a list into runs, each as long as `extend` lets it be.
fn runs(list: &[Exception]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &exception in list {
        if !runs.last_mut().is_some_and(|run| run.extend(exception)) {
            runs.push(Run::from(exception));
        }
    }
    runs
}

#[test]
fn a_run_ends_where_either_side_jumps() {
    let list = [(10, 2), (11, 3), (12, 4), (50, 5), (13, 6), (14, 7), (15, 9), (16, 8)];
    let found: Vec<_> = runs(&list.map(|(old, new)| exception(old, new)))
        .iter()
        .map(|run| (run.old.get(), run.new.get(), run.len))
        .collect();
    assert_eq!(found, [(10, 2, 3), (50, 5, 1), (13, 6, 2), (15, 9, 1), (16, 8, 1)]);
}

#[test]
fn a_refused_exception_leaves_the_run_alone() {
    let before = Run { old: OriginChunk::new(10), new: CowChunk::new(2), len: 3 };
    for (old, new) in [(12, 4), (14, 5), (13, 6), (13, 4), (9, 1), (10, 2), (0, u64::MAX)] {
        let mut run = before;
        assert!(!run.extend(exception(old, new)), "({old}, {new})");
        assert_eq!(run, before);
    }
    let mut run = before;
    assert!(run.extend(exception(13, 5)));
    assert_eq!(run, Run { len: 4, ..before });
}

#[test]
fn nothing_follows_the_largest_chunk_number() {
    let max = u64::MAX;
    for (first, second) in [((max, 5), (max, 6)), ((5, max), (6, max)), ((max, max), (max, max))] {
        let mut run = Run::from(exception(first.0, first.1));
        assert!(!run.extend(exception(second.0, second.1)), "{second:?} after {first:?}");
        assert_eq!(run.len, 1);
    }
    let mut run = Run::from(exception(max - 1, max - 1));
    assert!(run.extend(exception(max, max)), "the largest number itself can be in a run");
    assert!(!run.extend(exception(max, max)), "but nothing follows it");
}

/// Steps of 0, 1 or more on both sides, so that runs occur; from anywhere in the number space.
fn stepping_list() -> impl Strategy<Value = Vec<Exception>> {
    let step = || prop_oneof![5 => Just(1_u64), 1 => 0..4_u64];
    let start = || prop_oneof![0..100_u64, u64::MAX - 20..=u64::MAX];
    (start(), start(), prop::collection::vec((step(), step()), 1..40)).prop_map(
        |(mut old, mut new, steps)| {
            let walk = steps.into_iter().map(|(old_step, new_step)| {
                old = old.saturating_add(old_step);
                new = new.saturating_add(new_step).max(1);
                exception(old, new)
            });
            walk.collect()
        },
    )
}

proptest! {
    #[test]
    fn runs_say_exactly_what_the_list_said(list in stepping_list()) {
        let mut told = Vec::new();
        for run in runs(&list) {
            for i in 0..run.len {
                let old = run.old.get().checked_add(i);
                let new = run.new.get().checked_add(i);
                told.push((old, new));
            }
        }
        let said: Vec<_> =
            list.iter().map(|e| (Some(e.old.get()), Some(e.new.get()))).collect();
        prop_assert_eq!(told, said);
    }
}
