//! `docs/format.md` against the code: every number and every byte of its tables and its worked
//! example is computed here, from the few that the example starts with.

use std::collections::BTreeMap;

use crate::document::{evaluate, hexdump, number, numbers, table};
use dmsnap_format::{
    ChunkSize, CowChunk, Exception, Extents, Header, Layout, OriginChunk, RawException, RawHeader,
    Role, Tally,
};
use zerocopy::IntoBytes;

const CHUNK_SECTORS: u32 = 2;
const COW_SECTORS: u64 = 281;
const ORIGIN_SECTORS: u64 = 1001;

fn layout_of(sectors: u64) -> Layout {
    let sectors = u32::try_from(sectors).expect("a chunk size");
    Layout::new(ChunkSize::from_sectors(sectors).expect("a legal chunk size"))
}

fn layout() -> Layout {
    layout_of(u64::from(CHUNK_SECTORS))
}

fn extents() -> Extents {
    Extents::new(layout(), COW_SECTORS * 512, Some(ORIGIN_SECTORS * 512))
}

fn exception(old: u64, new: u64) -> Exception {
    Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
}

/// The exceptions of the document's table of runs, in the order of their slots.
fn exceptions() -> Vec<Exception> {
    let mut list = Vec::new();
    for row in table(&["first exception", "chunks", "old", "new", "area", "slot", "slot at byte"]) {
        let [first, len, old, new, area, slot, byte] = numbers(&row);
        assert_eq!(list.len() as u64, first, "runs follow one another: {row:?}");
        assert_eq!(layout().position(first), (area, slot), "{row:?}");
        assert_eq!(layout().slot_byte(first), Some(byte), "{row:?}");
        list.extend((0..len).map(|i| exception(old + i, new + i)));
    }
    list
}

fn tally(list: &[Exception]) -> Tally {
    let mut tally = Tally::new(layout());
    list.iter().for_each(|&exception| tally.add(exception));
    tally
}

/// The slot that outlived the power cut: of the 31 exceptions after the last, the one that is
/// first in the second sector of its area.
fn stray() -> (u64, Exception) {
    let (area, _) = layout().position(exceptions().len() as u64);
    let index = area * layout().exceptions_per_area() + layout().slots_per_unit(512);
    (index, exception(430, layout().lock_step_chunk(index).get()))
}

/// The metadata chunks of the example as the crate writes them, 16 bytes at each offset.
fn written() -> BTreeMap<u64, [u8; 16]> {
    let chunk = layout().chunk_size().bytes();
    let (last_area, _) = layout().position(exceptions().len() as u64);
    let areas =
        (0..=last_area).filter_map(|area| layout().area_location(area).byte(layout().chunk_size()));
    let mut all: BTreeMap<u64, [u8; 16]> = std::iter::once(0)
        .chain(areas)
        .flat_map(|at| (at..at + chunk).step_by(16))
        .map(|at| (at, [0; 16]))
        .collect();
    let header = RawHeader::new(layout().chunk_size(), true);
    all.insert(0, header.as_bytes().try_into().expect("16 bytes"));
    for (index, exception) in (0..).zip(exceptions()).chain([stray()]) {
        let at = layout().slot_byte(index).expect("near the start");
        let raw = RawException::from(exception);
        let before = all.insert(at, raw.as_bytes().try_into().expect("16 bytes"));
        assert_eq!(before, Some([0; 16]), "slot {index} lies in an area and was free");
    }
    all
}

#[test]
fn the_dump_is_what_the_crate_writes() {
    let (shown, written) = (hexdump(), written());
    assert!(shown.keys().eq(written.keys()), "the dump shows header and areas, and all of them");
    for (offset, bytes) in &shown {
        assert_eq!(bytes.as_slice(), written[offset], "at {offset:#x}");
    }
}

#[test]
fn the_dump_reads_back_as_the_runs() {
    let shown: Vec<u8> = hexdump().into_values().flatten().collect();
    let chunk = usize::try_from(layout().chunk_size().bytes()).expect("small");
    let (header, areas) = shown.split_at(chunk);
    let header = RawHeader::from_prefix(header).and_then(|raw| raw.validate().ok());
    assert_eq!(header, Some(Header { chunk_size: layout().chunk_size(), valid: true }));

    let slots = RawException::slots(areas);
    let list: Vec<Exception> = slots.iter().map_while(RawException::decode).collect();
    assert_eq!(list, exceptions());
    let strays: Vec<_> =
        (0..).zip(slots).skip(list.len()).filter_map(|(i, s)| Some((i, s.decode()?))).collect();
    assert_eq!(strays, [stray()]);
    for exception in list {
        assert_eq!(extents().check(exception), Ok(()), "the example is a sound store");
    }
}

#[test]
fn the_notes_beside_the_dump_say_what_the_bytes_say() {
    let shown = hexdump();
    let mut checked = 0;
    for (offset, area, slot, old, new) in crate::document::notes() {
        let index = area * layout().exceptions_per_area() + slot;
        assert_eq!(layout().slot_byte(index), Some(offset), "area {area}, slot {slot}");
        let decoded = RawException::slots(&shown[&offset])[0].decode();
        assert_eq!(decoded, Some(exception(old, new)), "area {area}, slot {slot}");
        checked += 1;
    }
    assert_eq!(checked, 7, "lines of the dump with an exception");
}

#[test]
fn every_quantity_is_what_the_crate_computes_and_what_its_derivation_says() {
    let (layout, extents, list) = (layout(), extents(), exceptions());
    let (tally, usage) = (tally(&list), tally(&list).usage(COW_SECTORS * 512));
    let end = tally.exceptions();
    let byte = |index| layout.slot_byte(index).expect("near the start");
    let largest = list.iter().map(|exception| exception.new.get()).max();
    let mut expected = BTreeMap::from([
        ("bytes in a chunk", layout.chunk_size().bytes()),
        ("slots in an area", layout.exceptions_per_area()),
        ("stride", layout.stride()),
        ("chunks of the COW device", extents.cow_chunks),
        ("chunks of the origin", extents.origin_chunks.expect("an origin")),
        ("chunk of area 0", layout.area_location(0).get()),
        ("chunk of area 1", layout.area_location(1).get()),
        ("byte of area 0", byte(0)),
        ("byte of area 1", byte(layout.exceptions_per_area())),
        ("exceptions", end),
        ("area of the terminator", layout.position(end).0),
        ("slot of the terminator", layout.position(end).1),
        ("byte of the terminator", byte(end)),
        ("slot of the stray", layout.position(stray().0).1),
        ("byte of the stray", byte(stray().0)),
        ("largest new chunk", largest.expect("there are exceptions")),
        ("next free chunk", tally.next_free().get()),
        ("holes", tally.holes()),
        ("allocated sectors", usage.allocated),
        ("total sectors", usage.total),
        ("metadata sectors", usage.metadata),
        ("data sectors", usage.data()),
        ("chunks needed", layout.chunks_needed(end)),
        ("capacity", layout.capacity(extents.cow_chunks)),
    ]);
    for row in table(&["quantity", "value", "from"]) {
        let [name, value, from] = row.try_into().expect("three columns");
        let computed = expected.remove(name.as_str()).expect("a quantity, and only once");
        assert_eq!(number(&value), computed, "{name}");
        assert_eq!(evaluate(&from), computed, "{name} = {from}");
    }
    assert!(expected.is_empty(), "the document does not give {expected:?}");
}

#[test]
fn the_example_starts_from_the_numbers_in_its_text() {
    let start = format!(
        "A snapshot with chunks of {CHUNK_SECTORS} sectors on a COW device of {COW_SECTORS} \
         sectors, of an origin of {ORIGIN_SECTORS} sectors."
    );
    assert!(crate::document::TEXT.contains(&start), "the document does not say: {start}");
    let written = format!("gave it {} exceptions", exceptions().len());
    assert!(crate::document::TEXT.contains(&written), "the document does not say: {written}");
}

#[test]
fn the_status_lines_of_the_example_hold() {
    let rows = table(&["exceptions", "next free chunk", "status line", "percent"]);
    for row in &rows {
        let count = number(&row[0]);
        let list: Vec<_> = (0..count)
            .map(|index| exception(index, layout().lock_step_chunk(index).get()))
            .collect();
        let (tally, usage) = (tally(&list), tally(&list).usage(COW_SECTORS * 512));
        assert_eq!(tally.next_free().get(), number(&row[1]), "{row:?}");
        assert_eq!(usage.to_string(), row[2], "{row:?}");
        assert_eq!(format!("{:.2}", usage.percent()), row[3], "{row:?}");
    }
    let full = layout().capacity(extents().cow_chunks);
    assert_eq!(
        rows.last().map(|row| number(&row[0])),
        Some(full),
        "the last line is the full store"
    );
}

#[test]
fn the_table_of_chunk_sizes_holds() {
    let header =
        ["sectors in a chunk", "chunk, bytes", "E", "stride", "area 0", "area 1", "area 2"];
    for row in table(&[&header[..], &["data of an area, bytes"]].concat()) {
        let [sectors, bytes, per_area, stride, areas @ .., data] = numbers::<8>(&row);
        let layout = layout_of(sectors);
        assert_eq!(layout.chunk_size().bytes(), bytes, "{row:?}");
        assert_eq!(layout.exceptions_per_area(), per_area, "{row:?}");
        assert_eq!(layout.stride(), stride, "{row:?}");
        assert_eq!([0, 1, 2].map(|area| layout.area_location(area).get()), areas, "{row:?}");
        assert_eq!(per_area * bytes, data, "{row:?}");
    }
}

#[test]
fn the_table_of_status_lines_holds() {
    let header = ["exceptions", "terminator: area", "slot", "next free chunk", "status line"];
    for row in table(&header) {
        let [exceptions, area, slot, next_free] = numbers(&row[..4]);
        let layout = layout_of(8);
        let mut tally = Tally::new(layout);
        (0..exceptions).for_each(|i| tally.add(exception(i, layout.lock_step_chunk(i).get())));
        assert_eq!(layout.position(exceptions), (area, slot), "{row:?}");
        assert_eq!(tally.next_free().get(), next_free, "{row:?}");
        assert_eq!(tally.usage(8192 * 512).to_string(), row[4], "{row:?}");
    }
}

#[test]
fn the_tables_of_capacities_hold() {
    for row in table(&["whole chunks", "exceptions", "a kernel that fills it"]) {
        let [chunks, exceptions] = numbers(&row[..2]);
        let layout = layout_of(8);
        let lost = layout.kernel_loses_last_chunk(chunks);
        assert_eq!(layout.capacity(chunks), exceptions, "{row:?}");
        assert_eq!(row[2], if lost { "drops the snapshot" } else { "is full" }, "{row:?}");
    }
    for row in table(&["sectors in a chunk", "COW device, MiB", "whole chunks"]) {
        let [sectors, mib, chunks] = numbers(&row);
        let layout = layout_of(sectors);
        assert_eq!(Extents::new(layout, mib << 20, None).cow_chunks, chunks, "{row:?}");
        assert_eq!(chunks, layout.exceptions_per_area().pow(2), "{row:?}");
        assert!(layout.kernel_loses_last_chunk(chunks), "{row:?}");
    }
}

#[test]
fn the_story_of_the_stray_holds() {
    // The cut lost slots 2 to 31; a kernel would fill just these, and the stray would follow.
    let (end, (index, stray)) = (exceptions().len() as u64, stray());
    let first = layout().lock_step_chunk(end).get();
    let last = layout().lock_step_chunk(index - 1).get();
    let new = CowChunk::new(last + 1);
    assert_eq!((new, layout().role(new)), (stray.new, Role::Data));
    let told = format!(
        "made {} more exceptions, they would fill slots {} to {} and take chunks {first} to {last}.",
        index - end,
        layout().position(end).1,
        layout().position(index - 1).1,
    );
    let text = crate::document::TEXT.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&told), "the document does not say: {told}");
    let shown = format!(
        "the {}th exception, and the snapshot shows whatever is in chunk {new} as origin chunk {}.",
        index + 1,
        stray.old
    );
    assert!(text.contains(&shown), "the document does not say: {shown}");
}
