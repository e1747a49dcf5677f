//! The arithmetic of the status line, against figures that kernels printed.

use crate::common::{any_layout, layouts};
use dmsnap_format::{
    ChunkSize, CowChunk, Exception, Extents, Layout, OriginChunk, Role, Tally, Usage,
};
use proptest::prelude::*;

fn layout(sectors: u32) -> Layout {
    Layout::new(ChunkSize::from_sectors(sectors).expect("a legal chunk size"))
}

fn exception(old: u64, new: u64) -> Exception {
    Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
}

/// Of a store with these new chunks, in this order.
fn tally(layout: Layout, new: impl IntoIterator<Item = u64>) -> Tally {
    let mut tally = Tally::new(layout);
    for (old, new) in (0..).zip(new) {
        tally.add(exception(old, new));
    }
    tally
}

/// Of a store that was filled in order.
fn in_order(layout: Layout, exceptions: u64) -> Tally {
    tally(layout, (0..exceptions).map(|index| layout.lock_step_chunk(index).get()))
}

/// The status line of a store filled in order, on a device of `total` sectors.
fn status(layout: Layout, exceptions: u64, total: u64) -> String {
    in_order(layout, exceptions).usage(total * 512).to_string()
}

#[test]
fn the_table_for_4_kib_chunks_holds() {
    let table = [
        (0, 2, "16/8192 16"),
        (1, 3, "24/8192 16"),
        (255, 257, "2056/8192 16"),
        (256, 259, "2072/8192 24"),
        (257, 260, "2080/8192 24"),
        (512, 516, "4128/8192 32"),
    ];
    for (exceptions, next_free, line) in table {
        let tally = in_order(layout(8), exceptions);
        assert_eq!(tally.next_free(), CowChunk::new(next_free), "{exceptions} exceptions");
        assert_eq!(tally.exceptions(), exceptions);
        assert_eq!(status(layout(8), exceptions, 8192), line, "{exceptions} exceptions");
    }
}

#[test]
fn a_store_that_grows_says_what_a_kernel_said() {
    // One origin write, two snapshot writes, then 64 origin chunks at once.
    for (exceptions, line) in
        [(0, "16/4096 16"), (1, "24/4096 16"), (3, "40/4096 16"), (67, "552/4096 16")]
    {
        assert_eq!(status(layout(8), exceptions, 4096), line);
    }
    assert_eq!(in_order(layout(8), 67).next_free(), CowChunk::new(69));
    // One sector a chunk, one exception.
    assert_eq!(status(layout(1), 1, 2048), "3/2048 2");
}

#[test]
fn full_devices_say_what_a_kernel_said() {
    let full = [(257, "2056/2056 16"), (259, "2072/2072 24"), (260, "2080/2080 24")];
    for (chunks, line) in full {
        let layout = layout(8);
        assert_eq!(status(layout, layout.capacity(chunks), chunks * 8), line);
    }
    for (exceptions, line) in [(255, "2056/2080 16"), (256, "2072/2080 24"), (257, "2080/2080 24")]
    {
        assert_eq!(status(layout(8), exceptions, 2080), line);
    }
}

#[test]
fn a_shrinking_store_says_what_a_kernel_said() {
    // 520 exceptions being merged: what is left in area 1, then in area 0, then nothing.
    assert_eq!(status(layout(8), 520, 8192), "4192/8192 32");
    for (area, left, line) in [
        (1, 185, "3552/8192 24"),
        (1, 32, "2328/8192 24"),
        (0, 236, "1904/8192 16"),
        (0, 29, "248/8192 16"),
        (0, 0, "16/8192 16"),
    ] {
        assert_eq!(status(layout(8), area * 256 + left, 8192), line);
    }
}

#[test]
fn a_status_line_gives_back_area_and_slot() {
    let table = [(397_896, 1560, (193, 134)), (180_480, 712, (87, 199)), (16, 16, (0, 0))];
    for (allocated, metadata, position) in table {
        let usage = Usage { total: 2_097_152, allocated, metadata };
        let exceptions = usage.data() / 8;
        assert_eq!(layout(8).position(exceptions), position, "{usage}");
        assert_eq!(layout(8).lock_step_chunk(exceptions).get() * 8, allocated, "{usage}");
        assert_eq!(in_order(layout(8), exceptions).usage(1 << 30), usage);
    }
    // Between two areas a merging kernel already counts the lower one as current, but its next
    // free chunk still is the first of the upper one: one data chunk more than the area has slots.
    let usage = Usage { total: 2_097_152, allocated: 281_688, metadata: 1104 };
    let area = usage.metadata / 8 - 2;
    assert_eq!((area, usage.data() / 8), (136, 136 * 256 + 257));
    assert_eq!(layout(8).area_location(area + 1).plus(1).get() * 8, usage.allocated);
}

#[test]
fn any_order_of_new_chunks_gives_the_same_next_free_one() {
    let scattered = tally(layout(8), [9, 2, 300, 5]);
    assert_eq!(scattered.next_free(), CowChunk::new(301));
    // 2..=300 less area 1 are 298 data chunks; four are in use.
    assert_eq!(scattered.holes(), 294);
    assert_eq!(scattered.usage(8192 * 512).to_string(), "2408/8192 16");
}

#[test]
fn the_next_free_chunk_of_a_full_area_is_behind_the_next_area() {
    for layout in layouts() {
        let last_of_area_0 = layout.exceptions_per_area() + 1;
        let found = tally(layout, [last_of_area_0]).next_free();
        assert_eq!(found, layout.area_location(1).plus(1), "{layout:?}");
    }
}

#[test]
fn a_device_that_was_cut_short_is_more_than_full() {
    let usage = in_order(layout(8), 255).usage(100 * 8 * 512);
    assert_eq!(usage.to_string(), "2056/800 16");
    assert_eq!(usage.percent(), 257.0);
}

#[test]
fn a_trailing_part_of_a_chunk_counts_in_the_total() {
    assert_eq!(in_order(layout(8), 0).usage(4099 * 512).to_string(), "16/4099 16");
    assert_eq!(in_order(layout(8), 0).usage(4099 * 512 + 511).to_string(), "16/4099 16");
}

#[test]
fn percent_counts_as_lvm_does() {
    let percent = |exceptions, kib: u64| in_order(layout(8), exceptions).usage(kib << 10).percent();
    assert_eq!(percent(0, 100), 0.0, "metadata alone is nothing");
    assert_eq!(percent(1, 100), 12.0);
    assert_eq!(percent(1, 12), 100.0);
    assert_eq!(percent(0, 8), 0.0, "a store with room for nothing");
    assert_eq!(percent(1, 0), 100.0, "no device, but something on it");
    assert_eq!(percent(0, 0), 0.0);
}

#[test]
fn data_is_what_metadata_leaves() {
    assert_eq!(Usage { total: 100, allocated: 24, metadata: 16 }.data(), 8);
    // The scan stopped in area 3, but every new chunk it met was low.
    let low = Usage { total: 100, allocated: 24, metadata: 40 };
    assert_eq!(low.data(), 0);
    assert_eq!(low.percent(), 24.0, "not an empty store");
}

#[test]
fn numbers_near_the_end_saturate() {
    for layout in layouts() {
        for new in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 56) - 1] {
            let tally = tally(layout, [new]);
            let expected =
                u128::from(tally.next_free().get()) * u128::from(layout.chunk_size().sectors());
            let usage = tally.usage(u64::MAX);
            assert!(tally.next_free().get() >= new, "wrapped at {new}, {layout:?}");
            assert_eq!(layout.role(tally.next_free()), Role::Data, "{new}, {layout:?}");
            assert_eq!(usage.allocated, u64::try_from(expected).unwrap_or(u64::MAX));
            assert!(tally.holes() > 0, "{new}, {layout:?}");
            assert!(usage.percent() > 0.0 && usage.data() > 0);
        }
    }
}

proptest! {
    #[test]
    fn an_in_order_store_counts_exactly_its_exceptions(
        layout in any_layout(),
        exceptions in 0..3000_u64,
        cow_bytes in any::<u64>(),
    ) {
        let chunk = u64::from(layout.chunk_size().sectors());
        let tally = in_order(layout, exceptions);
        let usage = tally.usage(cow_bytes);
        let (area, slot) = layout.position(exceptions);
        prop_assert_eq!(tally.next_free(), layout.lock_step_chunk(exceptions));
        prop_assert_eq!(tally.next_free(), layout.area_location(area).plus(1 + slot));
        prop_assert_eq!(tally.holes(), 0);
        prop_assert_eq!(usage.data(), exceptions * chunk);
        prop_assert_eq!(usage.metadata, (area + 2) * chunk);
        prop_assert_eq!(usage.total, cow_bytes / 512);
        prop_assert_eq!(usage.percent() == 0.0, exceptions == 0);
        prop_assert_eq!(
            usage.to_string(),
            format!("{}/{} {}", usage.allocated, usage.total, usage.metadata)
        );
    }

    #[test]
    fn holes_are_the_data_chunks_nobody_names(
        layout in any_layout(),
        indexes in prop::collection::btree_set(0..2000_u64, 0..50),
    ) {
        let new: Vec<u64> =
            indexes.iter().rev().map(|&index| layout.lock_step_chunk(index).get()).collect();
        let tally = tally(layout, new.iter().copied());
        let end = tally.next_free().get();
        let unnamed = (0..end)
            .filter(|&chunk| layout.role(CowChunk::new(chunk)) == Role::Data)
            .filter(|chunk| !new.contains(chunk))
            .count() as u64;
        prop_assert_eq!(tally.holes(), unnamed);
        prop_assert!(new.iter().all(|&chunk| chunk < end));
    }

    #[test]
    fn no_list_panics_and_the_next_free_chunk_is_above_it_and_data(
        layout in any_layout(),
        new in prop::collection::vec((any::<u64>(), 0..64_u32).prop_map(|(n, bits)| n >> bits), 0..80),
        cow_bytes in any::<u64>(),
    ) {
        let tally = tally(layout, new.iter().copied());
        let usage = tally.usage(cow_bytes);
        let next_free = tally.next_free();
        let above = new.iter().copied().max().unwrap_or(0).saturating_add(1).max(2);
        prop_assert_eq!(layout.role(next_free), Role::Data);
        prop_assert!(next_free.get() == above || next_free.get() == above + 1);
        prop_assert_eq!(tally.exceptions(), new.len() as u64);
        prop_assert!(tally.holes() <= next_free.get());
        prop_assert!(usage.percent() >= 0.0);
        prop_assert!(usage.data() <= usage.allocated);
        // What the kernel would give out next is what the check against the device would pass.
        let extents = Extents::new(layout, cow_bytes, None);
        let fits = next_free.get() < extents.cow_chunks && next_free.get() >> 56 == 0;
        prop_assert_eq!(extents.check(exception(0, next_free.get())).is_ok(), fits);
    }
}
