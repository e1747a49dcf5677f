//! How many exceptions a device holds: against a naive kernel that fills it one by one.

use crate::common::{any_layout, layouts};
use dmsnap_format::{ChunkSize, Extents, Layout};
use proptest::prelude::*;

fn layout(sectors: u32) -> Layout {
    Layout::new(ChunkSize::from_sectors(sectors).expect("a legal chunk size"))
}

/// How filling a device ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The next allocation found no room; the store is intact.
    NoRoom,
    /// The zeroing of the next area failed; the snapshot is gone.
    Dropped,
}

/// Fills a device as the kernel does, one exception at a time, and counts those that were
/// committed before the end. Knows nothing of closed formulas.
fn fill(layout: Layout, total_sectors: u64) -> (u64, End) {
    let chunk = u64::from(layout.chunk_size().sectors());
    let slots = chunk * 512 / 16;
    let fits = |number: u64| (number + 1) * chunk <= total_sectors;
    let (mut next_free, mut area_chunk, mut in_area, mut committed) = (2, 1, 0, 0);
    loop {
        // Allocate.
        if !fits(next_free) {
            return (committed, End::NoRoom);
        }
        next_free += 1;
        if next_free == area_chunk + slots + 1 {
            next_free += 1;
        }
        // Commit; a full area first needs a zeroed one after it.
        in_area += 1;
        if in_area == slots {
            area_chunk += slots + 1;
            in_area = 0;
            if !fits(area_chunk) {
                return (committed, End::Dropped);
            }
        }
        committed += 1;
    }
}

#[test]
fn capacity_is_what_a_kernel_commits_before_it_ends() {
    // 32, 64, 128 and 256 exceptions in an area; every size up to 6 strides.
    for layout in [1, 2, 4, 8].map(layout) {
        for chunks in 2..6 * layout.stride() + 3 {
            let sectors = chunks * u64::from(layout.chunk_size().sectors());
            let (committed, end) = fill(layout, sectors);
            let lost = layout.kernel_loses_last_chunk(chunks);
            assert_eq!(layout.capacity(chunks), committed, "{chunks} chunks, {layout:?}");
            assert_eq!(lost, end == End::Dropped, "{chunks} chunks, {layout:?}");
        }
    }
}

#[test]
fn a_trailing_part_of_a_chunk_changes_nothing() {
    for layout in [2, 4, 8].map(layout) {
        let size = layout.chunk_size();
        for sectors in 2 * u64::from(size.sectors())..3 * layout.stride() * 4 {
            let chunks = Extents::new(layout, sectors * 512, None).cow_chunks;
            let (committed, end) = fill(layout, sectors);
            assert_eq!(layout.capacity(chunks), committed, "{sectors} sectors, {layout:?}");
            assert_eq!(layout.kernel_loses_last_chunk(chunks), end == End::Dropped);
        }
    }
}

#[test]
fn a_device_without_room_for_an_area_holds_nothing() {
    for layout in layouts() {
        assert_eq!([0, 1, 2, 3].map(|chunks| layout.capacity(chunks)), [0, 0, 0, 1]);
        // A kernel gives no chunk of these away, so it loses none.
        assert!(!(0..4).any(|chunks| layout.kernel_loses_last_chunk(chunks)), "{layout:?}");
    }
}

#[test]
fn chunks_needed_counts_header_areas_and_data() {
    for layout in [1, 2, 8].map(layout) {
        let per_area = layout.exceptions_per_area();
        let mut areas = 1; // the one with the terminator
        for exceptions in 0..4 * per_area {
            if exceptions > 0 && exceptions % per_area == 0 {
                areas += 1;
            }
            assert_eq!(layout.chunks_needed(exceptions), 1 + areas + exceptions, "{layout:?}");
        }
    }
}

#[test]
fn the_table_for_4_kib_chunks_holds() {
    let table = [
        (2, 0),
        (3, 1),
        (257, 255),
        (258, 255),
        (259, 256),
        (260, 257),
        (515, 511),
        (516, 512),
        (65536, 65279),
        (65537, 65280),
    ];
    for (chunks, exceptions) in table {
        assert_eq!(layout(8).capacity(chunks), exceptions, "{chunks} chunks");
    }
    let lost = [257, 258, 259, 260].map(|chunks| layout(8).kernel_loses_last_chunk(chunks));
    assert_eq!(lost, [false, true, false, false]);
}

/// 256 MiB at 4 KiB chunks, 2 GiB at 8 KiB, 16 GiB at 16 KiB, 128 GiB at 32 KiB, 1 TiB at 64 KiB.
#[test]
fn round_sizes_lose_their_last_chunk() {
    let sizes = [(8, 256 << 20), (16, 2 << 30), (32, 16 << 30), (64, 128 << 30), (128, 1 << 40)];
    for (sectors, cow_bytes) in sizes {
        let chunks = Extents::new(layout(sectors), cow_bytes, None).cow_chunks;
        assert!(layout(sectors).kernel_loses_last_chunk(chunks), "{sectors} sectors");
    }
    for layout in layouts() {
        let square = layout.exceptions_per_area() * layout.exceptions_per_area();
        assert!(layout.kernel_loses_last_chunk(square), "{layout:?}");
        assert!(!layout.kernel_loses_last_chunk(square - 1), "{layout:?}");
        assert!(!layout.kernel_loses_last_chunk(square + 1), "{layout:?}");
    }
}

/// Sizes whose interesting places are near: multiples of the stride, give or take a few.
fn device_chunks() -> impl Strategy<Value = (Layout, u64)> {
    (any_layout(), 0..1_u64 << 30, 0..8_u64, any::<bool>(), 2..1_u64 << 62).prop_map(
        |(layout, strides, beyond, boundary, any)| {
            (layout, if boundary { (strides * layout.stride() + beyond).max(2) } else { any })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn capacity_is_the_most_that_fits((layout, chunks) in device_chunks()) {
        let most = layout.capacity(chunks);
        prop_assert!(layout.chunks_needed(most) <= chunks);
        prop_assert!(layout.chunks_needed(most + 1) > chunks);
    }

    /// The kernel hands out a chunk more than fits exactly at the sizes named.
    #[test]
    fn the_chunk_behind_the_capacity_is_inside_only_where_a_kernel_loses_it(
        (layout, chunks) in device_chunks(),
    ) {
        let next = layout.lock_step_chunk(layout.capacity(chunks)).get();
        prop_assert_eq!(next < chunks, layout.kernel_loses_last_chunk(chunks));
    }

    #[test]
    fn no_number_panics(layout in any_layout(), a in any::<u64>(), b in any::<u64>()) {
        let (less, more) = (a.min(b), a.max(b));
        for (less, more) in [(less, more), (more, u64::MAX)] {
            prop_assert!(layout.capacity(less) <= layout.capacity(more));
            prop_assert!(layout.chunks_needed(less) <= layout.chunks_needed(more));
        }
        prop_assert!(!layout.kernel_loses_last_chunk(a) || a % layout.stride() == 1);
    }
}
