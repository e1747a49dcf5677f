//! Where metadata and data lie on a COW device: no chunk is both, none is forgotten, and the ways
//! to name a place agree. For every legal chunk size.

use std::collections::BTreeSet;

use crate::common::{any_layout, layouts};
use dmsnap_format::{ChunkSize, CowChunk, Extents, Layout, Role};
use proptest::prelude::*;

/// Sizes whose first few strides can be walked chunk by chunk.
fn walkable() -> impl Iterator<Item = Layout> {
    layouts().filter(|layout| layout.exceptions_per_area() <= 8192)
}

/// The role of each chunk of a device with `areas` whole areas, laid out one after the other.
fn laid_out(layout: Layout, areas: u64) -> Vec<Role> {
    let mut roles = vec![Role::Header];
    for area in 0..areas {
        roles.push(Role::Area(area));
        roles.extend((0..layout.exceptions_per_area()).map(|_| Role::Data));
    }
    roles
}

/// Chunks around the first areas, around some far ones, and around both ends of the numbers.
fn telling_chunks(layout: Layout) -> BTreeSet<u64> {
    let last = (u64::MAX - 1) / layout.stride();
    let areas = (0..5).chain([1 << 20, last / 3, last - 1, last]);
    let around = areas.flat_map(|area| {
        let at = area * layout.stride() + 1;
        at.saturating_sub(3)..=at.saturating_add(3)
    });
    around.chain(0..8).chain(u64::MAX - 8..=u64::MAX).collect()
}

fn is_data(layout: Layout, chunk: u64) -> bool {
    layout.role(CowChunk::new(chunk)) == Role::Data
}

#[test]
fn every_power_of_two_up_to_one_gib_is_a_chunk_size_and_nothing_else() {
    let legal: Vec<u32> =
        (0..=u32::from(u16::MAX) * 96).filter(|&s| ChunkSize::from_sectors(s).is_ok()).collect();
    let expected: Vec<u32> = layouts().map(|layout| layout.chunk_size().sectors()).collect();
    assert_eq!(legal, expected);
    assert_eq!(legal.len(), 22);
    assert_eq!(ChunkSize::MAX.bytes(), 1 << 30);
}

#[test]
fn roles_are_those_of_a_device_laid_out_by_hand() {
    for layout in walkable() {
        for (chunk, role) in (0..).zip(laid_out(layout, 3)) {
            assert_eq!(layout.role(CowChunk::new(chunk)), role, "chunk {chunk}, {layout:?}");
        }
    }
}

#[test]
fn an_area_lies_where_its_role_says() {
    for layout in walkable() {
        for (chunk, role) in (0..).zip(laid_out(layout, 3)) {
            if let Role::Area(area) = role {
                assert_eq!(layout.area_location(area), CowChunk::new(chunk), "{layout:?}");
            }
        }
    }
}

#[test]
fn the_table_of_usual_chunk_sizes_holds() {
    let table = [
        (1, 32, [1, 34, 67]),
        (2, 64, [1, 66, 131]),
        (8, 256, [1, 258, 515]),
        (16, 512, [1, 514, 1027]),
        (32, 1024, [1, 1026, 2051]),
        (64, 2048, [1, 2050, 4099]),
        (128, 4096, [1, 4098, 8195]),
        (1024, 32768, [1, 32770, 65539]),
    ];
    for (sectors, per_area, locations) in table {
        let layout = Layout::new(ChunkSize::from_sectors(sectors).expect("legal"));
        assert_eq!(layout.exceptions_per_area(), per_area, "{sectors} sectors");
        assert_eq!(layout.stride(), per_area + 1, "{sectors} sectors");
        assert_eq!([0, 1, 2].map(|area| layout.area_location(area).get()), locations);
    }
}

#[test]
fn the_largest_chunk_number_is_never_metadata() {
    // Locations and candidates saturate there: it must not look like an area.
    for layout in layouts() {
        assert_eq!(layout.role(CowChunk::new(u64::MAX)), Role::Data, "{layout:?}");
        assert_eq!(layout.area_location(u64::MAX), CowChunk::new(u64::MAX));
        let extents = Extents { layout, cow_chunks: u64::MAX, origin_chunks: None };
        assert!(!extents.has_area(u64::MAX));
    }
}

/// The candidate is moved up over header and areas, over nothing else, and never down.
fn assert_skips_only_metadata(layout: Layout, chunk: u64) {
    let found = layout.skip_metadata(CowChunk::new(chunk)).get();
    assert!(found >= chunk, "chunk {chunk} went down to {found}, {layout:?}");
    assert!(is_data(layout, found), "chunk {chunk} became metadata chunk {found}, {layout:?}");
    for skipped in chunk..found {
        assert!(!is_data(layout, skipped), "data chunk {skipped} was skipped, {layout:?}");
    }
}

#[test]
fn skipping_metadata_never_ends_on_it_and_never_skips_data() {
    for layout in layouts() {
        for chunk in telling_chunks(layout) {
            assert_skips_only_metadata(layout, chunk);
        }
    }
    for layout in walkable() {
        for chunk in 0..3 * layout.stride() {
            assert_skips_only_metadata(layout, chunk);
        }
    }
}

#[test]
fn an_in_order_writer_visits_every_data_chunk_once() {
    for layout in walkable() {
        let data = (0..).zip(laid_out(layout, 3)).filter(|(_, role)| *role == Role::Data);
        for (index, (chunk, _)) in (0..).zip(data) {
            assert_eq!(layout.lock_step_chunk(index), CowChunk::new(chunk), "{layout:?}");
        }
    }
}

#[test]
fn data_chunks_before_is_a_count() {
    for layout in walkable() {
        let mut count = 0;
        for (chunk, role) in (0..).zip(laid_out(layout, 3)) {
            assert_eq!(layout.data_chunks_before(CowChunk::new(chunk)), count, "{layout:?}");
            count += u64::from(role == Role::Data);
        }
    }
}

#[test]
fn a_unit_of_slots_is_what_the_device_writes_untorn_but_at_most_an_area() {
    for layout in layouts() {
        assert_eq!(layout.slots_per_unit(0), 32, "a device writes at least a sector untorn");
        for shift in 0..32 {
            let unit = 1_u32 << shift;
            let bytes = u64::from(unit.max(512)).min(layout.chunk_size().bytes());
            let slots = layout.slots_per_unit(unit);
            assert_eq!(slots, bytes / 16, "unit {unit}, {layout:?}");
            assert_eq!(layout.exceptions_per_area() % slots, 0, "unit {unit}, {layout:?}");
        }
    }
}

#[test]
fn a_device_has_the_areas_that_fit_wholly() {
    for layout in layouts() {
        let chunk = layout.chunk_size().bytes();
        for area in 0..4 {
            let begin = layout.area_location(area).byte(layout.chunk_size()).expect("small");
            for (cow_bytes, has) in [(begin + chunk - 512, false), (begin + chunk, true)] {
                // Where a chunk is one sector, 512 bytes less is one whole chunk less.
                let extents = Extents::new(layout, cow_bytes, None);
                assert_eq!(extents.has_area(area), has, "area {area}, {layout:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn area_location_is_injective(layout in any_layout(), area in any::<u64>()) {
        let area = area % ((u64::MAX - 1) / layout.stride() + 1);
        // The role leads back to the area, so no two areas share a chunk.
        prop_assert_eq!(layout.role(layout.area_location(area)), Role::Area(area));
    }

    #[test]
    fn metadata_is_what_is_1_modulo_the_stride(layout in any_layout(), chunk in any::<u64>()) {
        let stride = 32 * u64::from(layout.chunk_size().sectors()) + 1;
        let metadata = chunk == 0 || chunk % stride == 1;
        prop_assert_eq!(is_data(layout, chunk), !metadata);
        assert_skips_only_metadata(layout, chunk);
    }

    #[test]
    fn the_next_in_order_chunk_is_the_next_free_one(
        layout in any_layout(),
        index in 0..1_u64 << 55,
        near_boundary in 0..3_u64,
    ) {
        // Half way through an area nothing happens: look at its ends as well.
        let area_start = index - index % layout.exceptions_per_area();
        for index in [index, area_start + near_boundary, (area_start + near_boundary).saturating_sub(2)] {
            let this = layout.lock_step_chunk(index);
            let next = layout.lock_step_chunk(index + 1);
            prop_assert!(is_data(layout, this.get()));
            prop_assert!(next > this);
            prop_assert_eq!(next, layout.skip_metadata(this.plus(1)));
            prop_assert_eq!(layout.data_chunks_before(this), index);
        }
    }

    #[test]
    fn data_chunks_before_grows_by_one_with_each_data_chunk(
        layout in any_layout(),
        chunk in 0..u64::MAX,
    ) {
        let step = layout.data_chunks_before(CowChunk::new(chunk + 1))
            - layout.data_chunks_before(CowChunk::new(chunk));
        prop_assert_eq!(step, u64::from(is_data(layout, chunk)));
    }

    #[test]
    fn position_and_slot_byte_agree(layout in any_layout(), bits in 0..64_u32, index in any::<u64>()) {
        let index = index >> bits;
        let (area, slot) = layout.position(index);
        prop_assert!(slot < layout.exceptions_per_area());
        prop_assert_eq!(area * layout.exceptions_per_area() + slot, index);

        let chunk = u128::from(area) * u128::from(layout.stride()) + 1;
        let byte = chunk * u128::from(layout.chunk_size().bytes()) + u128::from(slot) * 16;
        prop_assert_eq!(layout.slot_byte(index), u64::try_from(byte).ok());
    }

    #[test]
    fn nothing_panics_on_any_number(layout in any_layout(), n in any::<u64>(), unit in any::<u32>()) {
        let chunk = CowChunk::new(n);
        let within = layout.data_chunks_before(chunk);
        prop_assert!(within <= n);
        prop_assert!(layout.lock_step_chunk(n) >= chunk);
        prop_assert!(layout.area_location(n) >= chunk);
        prop_assert!((32..=layout.exceptions_per_area()).contains(&layout.slots_per_unit(unit)));
        let extents = Extents::new(layout, n, Some(n));
        prop_assert!(extents.cow_chunks <= extents.origin_chunks.expect("an origin was given"));
    }

    #[test]
    fn whole_chunks_fit_and_touched_chunks_cover(layout in any_layout(), bytes in any::<u64>()) {
        let size = layout.chunk_size();
        let (bytes_wide, chunk) = (u128::from(bytes), u128::from(size.bytes()));
        let (whole, touched) = (size.whole_chunks(bytes), size.touched_chunks(bytes));
        prop_assert!(u128::from(whole) * chunk <= bytes_wide);
        prop_assert!(u128::from(touched) * chunk >= bytes_wide);
        prop_assert_eq!(touched - whole, u64::from(bytes_wide % chunk != 0));
    }
}
