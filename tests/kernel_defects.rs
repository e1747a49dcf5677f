//! What the kernel's snapshot targets get wrong, each as a defect with a number: dmsnap does
//! better, and `check` recognises what a kernel's mistake leaves on the disks.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Caching, Device, DynDevice, File, Memory, Mode};
use dmsnap::format::{
    ChunkSize, CowChunk, Exception, ExceptionFault, Extents, Layout, OriginChunk, Tally,
};
use dmsnap::ops::{self, Error, MergeOptions, Silent};
use dmsnap::store::{
    self, End, Fault as Unbelievable, Persistent, Store, StoreError, Strays, read_exceptions,
    read_header, read_strays,
};
use dmsnap::volume::SnapshotOptions;
use dmsnap_sim::{Disk, Power, RequestFault, run};

use crate::common::live::any_volume;
use crate::common::{World, bytes, scattered};

type Found = (&'static str, Option<u64>, Option<u64>, Option<u64>);

/// What a check says: kind, chunk, area, slot of every finding.
fn check(cow: &[u8], origin: Option<&[u8]>) -> Vec<Found> {
    let power = Power::steady();
    let cow = steady(cow, &power);
    let origin = origin.map(|origin| steady(origin, &power));
    let mut found = Vec::new();
    let report = run(ops::check(&cow, origin.as_ref(), |it| {
        found.push((it.damage.name(), it.place.chunk, it.place.area, it.place.slot));
    }));
    report.expect("readable");
    assert_eq!(power.operations(), 0, "a check wrote something");
    found
}

fn steady(content: &[u8], power: &Power) -> Disk {
    Disk::new(content.to_vec(), 512, power)
}

fn slot(kind: &'static str, chunk: u64, area: u64, slot: u64) -> Found {
    (kind, Some(chunk), Some(area), Some(slot))
}

fn nowhere(kind: &'static str) -> Found {
    (kind, None, None, None)
}

/// What a kernel that opens this store takes for exceptions, and how many slots it keeps after
/// them.
fn kernel_reads(cow: &[u8], layout: Layout) -> (Vec<Exception>, u64) {
    let disk = steady(cow, &Power::steady());
    let mut all = Vec::new();
    let read = read_exceptions(&disk, Extents::new(layout, cow.len() as u64, None), |_, it| {
        all.push(it);
        Ok::<_, StoreError>(())
    });
    let (count, end) = run(read).expect("readable");
    assert_eq!(end, End::Terminator);
    let mut strays = 0;
    run(read_strays(&disk, layout, count, |_, _| strays += 1)).expect("readable");
    (all, strays)
}

fn olds(exceptions: &[Exception]) -> Vec<u64> {
    exceptions.iter().map(|it| it.old.get()).collect()
}

/// Fills `store` with copies for `olds` until it has no more room, publishing after each
/// `at_once`; tells how many found room.
fn fill(store: &Persistent<&Disk>, olds: impl Iterator<Item = u64>, at_once: usize) -> u64 {
    let chunk = store.chunk_size().bytes();
    for (n, old) in olds.enumerate() {
        let prepared = match store.prepare() {
            Ok(prepared) => prepared,
            Err(error) => {
                assert!(matches!(error, StoreError::Full), "{error}");
                break;
            }
        };
        let data = data_of(old, chunk);
        run(store.device().write(prepared.chunk().get() * chunk, data)).expect("written");
        store.commit(prepared, OriginChunk::new(old));
        if (n + 1) % at_once == 0 {
            run(store.publish()).expect("published");
        }
    }
    run(store.publish()).expect("published");
    store.published()
}

fn data_of(old: u64, chunk: u64) -> Bytes {
    (1 << 50 | old).to_le_bytes().repeat(bytes(chunk / 8)).into()
}

fn export(cow: &[u8], origin: &[u8]) -> Result<Vec<u8>, Error> {
    let power = Power::steady();
    let output = Memory::zeroed(origin.len());
    let (cow, origin) = (steady(cow, &power), steady(origin, &power));
    run(ops::export(&cow, &origin, &output, Default::default(), &Silent))?;
    assert_eq!(power.operations(), 0, "an export wrote to its sources");
    Ok(output.content())
}

/// Everything that would believe the store refuses it, and writes nothing.
fn assert_refused(world: &World, told: &str) -> StoreError {
    let power = Power::steady();
    let cow = steady(&world.cow, &power);
    let origin = steady(&world.origin, &power);
    let options = MergeOptions::default();
    let merged = run(ops::merge(&cow, &origin, options, &Silent)).expect_err(told);
    let planned = run(ops::plan_merge(&cow, &origin, options)).expect_err(told);
    let exported = export(&world.cow, &world.origin).expect_err(told);
    assert_eq!(merged.to_string(), planned.to_string(), "{told}");
    assert_eq!(merged.to_string(), exported.to_string(), "{told}");
    assert_eq!(power.operations(), 0, "{told}: something was written");
    // Reading goes on where believing ends.
    run(ops::info(&cow)).expect(told);
    run(ops::dump(&cow, |_| Ok(()))).expect(told);
    let origin_bytes = Some(world.origin.len() as u64);
    run(Persistent::open(&cow, origin_bytes, Strays::Refuse, |_| {})).expect_err(told)
}

/// D1. When the write that clears merged exceptions fails, the kernel has cleared them in memory
/// already. Going on, it takes an empty slot for the exception 0 -> 0, and copies the header of
/// the store over the first chunk of the origin.
#[test]
fn d1_a_failed_clear_never_brings_the_header_to_the_origin() {
    let from_1: Vec<u64> = scattered(70, 99, 8).iter().map(|old| old + 1).collect();
    let world = World::new(1, 120, 100).with_exceptions(&from_1);
    let options = MergeOptions { window_bytes: 512 * 9, ..Default::default() };
    let mut failed = 0;
    for fault in [RequestFault::Fails, RequestFault::DropsWrites] {
        for operation in 0.. {
            // Only the COW device's operations are counted: each is part of a clear.
            let failing = Power::steady();
            failing.fail(operation, fault);
            let cow = Disk::new(world.cow.clone(), 512, &failing);
            let origin = steady(&world.origin, &Power::steady());
            let merge = || run(ops::merge(&cow, &origin, options, &Silent));
            let told = format!("{fault:?} at operation {operation}");
            let Err(error) = merge() else { break };
            failed += 1;
            assert!(error.to_string().contains("injected"), "{error}: {told}");
            assert_eq!(origin.content()[..512], world.origin[..512], "{told}");
            let left = kernel_reads(&cow.content(), world.layout);
            assert!(from_1.starts_with(&olds(&left.0)) && left.1 == 0, "{told}");
            merge().unwrap_or_else(|error| panic!("{error}: {told}"));
            assert!(origin.content() == world.snapshot, "{told}");
            assert_eq!(kernel_reads(&cow.content(), world.layout), (vec![], 0), "{told}");
        }
    }
    assert!(failed >= 30, "{failed} clears failed only");
}

/// Inside one opening of the store, too: it is of no more use, and what it remembers is what the
/// medium holds.
#[test]
fn d1_a_store_whose_clear_failed_forgets_nothing() {
    let world = World::new(1, 120, 100).with_exceptions(&scattered(70, 100, 8));
    let power = Power::steady();
    let disk = Disk::new(world.cow.clone(), 512, &power);
    let store = run(Persistent::open(&disk, None, Strays::Refuse, |_| {})).expect("sound");
    let before = run(store.read_range(0..70)).expect("readable");
    let opened = disk.log();
    power.fail(power.operations(), RequestFault::Fails);
    assert!(matches!(run(store.clear(10)), Err(StoreError::Io { .. })));
    assert_eq!(store.published(), 70);
    assert_eq!(run(store.read_range(0..70)).expect("readable"), before);
    assert!(matches!(run(store.clear(1)), Err(StoreError::Broken)));
    assert_eq!(disk.log(), opened, "written after a failure");
}

#[test]
fn d1_check_recognises_an_origin_that_begins_with_a_header() {
    let mut world = World::new(8, 40, 8 * 100).with_exceptions(&[9, 3, 7]);
    let chunk = world.chunk_bytes();
    world.origin[..chunk].copy_from_slice(&world.cow[..chunk]);
    let found = check(&world.cow, Some(&world.origin));
    assert_eq!(found, [nowhere("origin-begins-with-header")]);
    let power = Power::steady();
    let (cow, origin) = (steady(&world.cow, &power), steady(&world.origin, &power));
    let merged = run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent));
    assert!(matches!(merged, Err(Error::OriginIsStore)));
    assert_eq!(power.operations(), 0);
}

/// D2. With a device of 1 mod (E + 1) chunks the kernel gives out the last one, finds no room for
/// the area that has to follow, and drops the snapshot. Round sizes are such: 256 MiB at 4 KiB.
#[test]
fn d2_a_device_of_a_hazardous_size_is_filled_to_the_brim_and_stays_valid() {
    // The last two of E * E and E * E + 1 chunks.
    for (sectors, chunks, most) in
        [(8, 257, 255), (8, 258, 255), (8, 259, 256), (8, 260, 257), (1, 1024, 991), (1, 1025, 992)]
    {
        for at_once in [1, 7, usize::MAX] {
            let told = format!("{chunks} chunks, {at_once} at once");
            let origin_chunks = chunks + 10;
            let mut world = World::new(sectors, chunks, origin_chunks * u64::from(sectors));
            let disk = steady(&world.cow, &Power::steady());
            let store = run(Persistent::open(&disk, None, Strays::Refuse, |_| {})).expect("sound");
            let count = fill(&store, 5..origin_chunks, at_once);
            assert_eq!(count, most, "{told}");
            assert_eq!(count, world.layout.capacity(chunks), "{told}");
            world.cow = disk.content();
            assert!(run(read_header(&disk)).expect("a header").valid, "{told}");
            assert_eq!(kernel_reads(&world.cow, world.layout).0.len() as u64, most, "{told}");
            assert_eq!(check(&world.cow, Some(&world.origin)), [nowhere("full")], "{told}");
            let chunk = world.layout.chunk_size().bytes();
            for old in 5..5 + count {
                let data = data_of(old, chunk);
                world.snapshot[bytes(old * chunk)..][..bytes(chunk)].copy_from_slice(&data);
            }
            assert!(export(&world.cow, &world.origin).expect(&told) == world.snapshot, "{told}");
            let again = run(Persistent::open(&disk, None, Strays::Refuse, |_| {})).expect("sound");
            assert!(matches!(again.prepare(), Err(StoreError::Full)), "{told}");
        }
    }
    let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
    for (chunks, most, lost) in [(65_536, 65_279, true), (65_537, 65_280, false)] {
        assert_eq!(layout.capacity(chunks), most);
        assert_eq!(layout.kernel_loses_last_chunk(chunks), lost);
        // The area that ends the list lies on the device, and none would for one more.
        let needed = layout.chunks_needed(most);
        assert!(needed <= chunks && layout.chunks_needed(most + 1) > chunks);
    }
}

#[test]
fn d2_check_warns_of_the_size_and_knows_a_snapshot_that_it_cost() {
    let empty = World::new(8, 258, 8 * 300);
    assert_eq!(check(&empty.cow, None), [nowhere("kernel-loses-last-chunk")]);
    // The kernel zeroes nothing, marks the store and leaves the last exception out.
    let mut dropped = empty.with_exceptions(&(0..255).collect::<Vec<_>>());
    dropped.invalidate();
    let found = check(&dropped.cow, Some(&dropped.origin));
    assert_eq!(found, [("invalid", Some(0), None, None), nowhere("dropped-at-last-chunk")]);
    let mut harmless = World::new(8, 260, 8 * 300).with_exceptions(&(0..257).collect::<Vec<_>>());
    harmless.invalidate();
    let found = check(&harmless.cow, Some(&harmless.origin));
    assert_eq!(found, [("invalid", Some(0), None, None)]);
}

/// Three exceptions, a gap, and what an older snapshot left after it: in the same sector, and at
/// the begin of the next.
fn with_strays() -> World {
    let mut world = World::new(2, 110, 2 * 200).with_exceptions(&[10, 11, 12]);
    for index in [4, 5, 32, 33] {
        world.put_slot(index, 60 + index, world.layout.lock_step_chunk(index).get());
    }
    world
}

/// D3. The kernel keeps what lies after the first empty slot and writes it again with every
/// commit. Once the gap is filled, the next activation takes it for exceptions.
#[test]
fn d3_strays_never_come_back_to_life() {
    let world = with_strays();
    let act = |disk: &Disk| -> Result<(), StoreError> {
        // Up to the slot in front of the second sector.
        for first in [20, 21, 22].into_iter().chain((23..49).step_by(2)) {
            let store = run(Persistent::open(disk, None, Strays::Refuse, |_| {}))?;
            for old in first..(first + 1 + u64::from(first > 22)) {
                let prepared = store.prepare()?;
                let at = prepared.chunk().get() * 1024;
                let written = run(disk.write(at, data_of(old, 1024)));
                written.map_err(|source| StoreError::Io { doing: "fill".into(), source })?;
                store.commit(prepared, OriginChunk::new(old));
            }
            run(store.publish())?;
        }
        Ok(())
    };
    let expected: Vec<u64> = (10..13).chain(20..49).collect();
    let whole = Power::steady();
    let disk = steady(&world.cow, &whole);
    act(&disk).expect("works");
    let (exceptions, strays) = kernel_reads(&disk.content(), world.layout);
    assert_eq!((olds(&exceptions), strays), (expected.clone(), 0));
    assert_eq!(exceptions.len(), 32);
    assert_eq!(check(&disk.content(), Some(&world.origin)), []);

    let mut reboots = 0;
    for cut in 0..whole.operations() {
        let disk = Disk::new(world.cow.clone(), 512, &Power::cut_after(cut));
        act(&disk).expect_err("the power was cut");
        for content in disk.reboots(cut) {
            reboots += 1;
            let (exceptions, strays) = kernel_reads(&content, world.layout);
            assert!(expected.starts_with(&olds(&exceptions)), "cut after {cut}: {exceptions:?}");
            // They may still be there, but only as long as the gap is.
            assert!(strays == 0 || exceptions.len() == 3, "cut after {cut}: {strays} strays");
        }
    }
    assert!(reboots > 300, "{reboots} reboots only");
}

#[test]
fn d3_check_recognises_strays_and_a_merge_leaves_none() {
    let world = with_strays();
    let strays = [slot("stray-slots", 1, 0, 4), slot("stray-slots", 1, 0, 32)];
    assert_eq!(check(&world.cow, Some(&world.origin)), strays);
    let (cow, origin) =
        (steady(&world.cow, &Power::steady()), steady(&world.origin, &Power::steady()));
    run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).expect("merges");
    assert!(origin.content() == world.snapshot);
    assert_eq!(check(&cow.content(), Some(&origin.content())), []);
}

/// D4. The kernel marks a store as invalid without a flush: the origin may change without copies
/// and a power cut then bring the snapshot back, valid and wrong.
#[test]
fn d4_an_invalid_store_is_so_durably_before_the_origin_may_change() {
    let world = World::new(1, 120, 100).with_exceptions(&scattered(40, 100, 8));
    let act = |cow: &Disk, origin: &Disk| -> Result<(), StoreError> {
        let store = run(Persistent::open(cow, None, Strays::Refuse, |_| {}))?;
        run(store.invalidate())?;
        let written = run(origin.write(0, Bytes::from_static(&[0xEE; 512])));
        written.map_err(|source| StoreError::Io { doing: "origin".into(), source })
    };
    let whole = Power::steady();
    let cow = steady(&world.cow, &whole);
    act(&cow, &steady(&world.origin, &whole)).expect("works");
    assert_eq!(cow.reboots(1).count(), 1, "the mark waits for nothing");

    let mut changed = 0;
    for cut in 0..=whole.operations() {
        let power = Power::cut_after(cut);
        let cow = Disk::new(world.cow.clone(), 512, &power);
        let origin = Disk::new(world.origin.clone(), 512, &power);
        let returned = act(&cow, &origin).is_ok();
        assert_eq!(returned, cut == whole.operations());
        for cow in cow.reboots(cut) {
            let header = run(read_header(&steady(&cow, &Power::steady()))).expect("a header");
            for origin in origin.reboots(cut) {
                let same = origin == world.origin;
                assert!(same || !header.valid, "cut after {cut}: valid and wrong");
                changed += u64::from(!same);
            }
            // Nothing but the mark has changed.
            assert_eq!(cow[8..], world.cow[8..]);
        }
    }
    assert!(changed > 0, "no cut left a changed origin");
}

/// A full store that still says it is valid is what is left of the lost mark.
#[test]
fn d4_check_suspects_a_full_store_that_is_valid() {
    let world = World::new(8, 20, 8 * 30).with_exceptions(&(0..18).collect::<Vec<_>>());
    assert_eq!(check(&world.cow, Some(&world.origin)), [nowhere("full")]);
}

/// D5. The kernel writes the header of a new store before it has zeroed the first area, and
/// flushes neither: a crash can leave a store whose exceptions are what lay there before.
#[test]
fn d5_a_creation_cut_anywhere_never_shows_stale_exceptions() {
    let mut reboots = 0;
    for (before, after) in [(1, 1), (1, 8), (8, 1), (8, 8), (8, 16), (16, 8)] {
        let old = World::new(before, 80, 1000).with_exceptions(&scattered(60, 62, 3));
        let listed = kernel_reads(&old.cow, old.layout);
        let chunk_size = ChunkSize::from_sectors(after).expect("legal");
        let act = |disk: &Disk| run(store::format(disk, chunk_size));
        let whole = Power::steady();
        act(&steady(&old.cow, &whole)).expect("works");
        for cut in 0..=whole.operations() {
            let disk = Disk::new(old.cow.clone(), 512, &Power::cut_after(cut));
            assert_eq!(act(&disk).is_ok(), cut == whole.operations());
            for content in disk.reboots(cut) {
                reboots += 1;
                let told = format!("{before} to {after} sectors, cut after {cut}");
                let header = run(read_header(&steady(&content, &Power::steady())));
                let Ok(header) = header else {
                    assert!(cut < whole.operations(), "{told}: no store");
                    continue;
                };
                let found = kernel_reads(&content, Layout::new(header.chunk_size));
                let untouched = content == old.cow && found == listed;
                assert!(untouched || found == (vec![], 0), "{told}: {found:?}");
                assert!(untouched || header.chunk_size == chunk_size, "{told}");
            }
        }
    }
    assert!(reboots > 500, "{reboots} reboots only");
}

#[test]
fn d5_check_recognises_a_first_area_that_was_not_zeroed() {
    // Over an older store with smaller chunks the first area holds what was its data.
    let old = World::new(1, 80, 100).with_exceptions(&scattered(60, 100, 3));
    let mut torn = old.cow;
    torn[..16].copy_from_slice(&World::new(8, 2, 8).cow[..16]);
    let found = check(&torn, None);
    assert_eq!(found[0], slot("new-beyond-device", 1, 0, 0));
    assert!(found.contains(&slot("stale-first-area", 1, 0, 0)), "{found:?}");
    assert_eq!(found.iter().filter(|it| it.0 == "stale-first-area").count(), 1);
}

/// D6. A discard that is not aligned to chunks makes the kernel zero the wrong halves: the second
/// of one COW chunk and the first of the next, no matter which, even if that is an area.
#[test]
fn d6_zeroing_a_part_of_a_chunk_never_touches_its_neighbours() {
    // The last data chunk in front of area 1, and the first after it.
    let world = World::new(2, 80, 2 * 100).with_exceptions(&scattered(70, 100, 8));
    let chunk = world.layout.chunk_size().bytes();
    assert_eq!(world.layout.area_location(1).get(), 66);
    let path = std::env::temp_dir().join(format!("dmsnap-d6-{}", std::process::id()));
    let removed = Removed(path);
    std::fs::write(&removed.0, &world.cow).expect("written");
    let runtime = compio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let memory = Memory::from(world.cow.clone());
        let disk = steady(&world.cow, &Power::steady());
        let file = File::open(&removed.0, Mode::Write, Caching::Buffered).await.expect("opened");
        zero_every_part(&memory, &world, [65, 67], chunk).await;
        zero_every_part(&disk, &world, [65, 67], chunk).await;
        zero_every_part(&file, &world, [65, 67], chunk).await;
    });
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn zero_every_part<D: Device>(cow: &D, world: &World, chunks: [u64; 2], chunk: u64) {
    for new in chunks {
        for (start, len) in [(0, chunk), (0, chunk / 2), (chunk / 2, chunk / 2)] {
            for way in 0..3 {
                let at = new * chunk + start;
                match way {
                    0 => cow.write_zeroes(at, len, Allocation::MayPunch).await.expect("zeroed"),
                    1 => cow.write_zeroes(at, len, Allocation::Keep).await.expect("zeroed"),
                    _ => cow.discard(at, len).await.expect("discarded"),
                }
                let content = cow.read(0, world.cow.len()).await.expect("read");
                let (from, to) = (bytes(at), bytes(at + len));
                let told = format!("chunk {new}, {start} + {len}, way {way}");
                assert!(content[..from] == world.cow[..from], "in front: {told}");
                assert!(content[to..] == world.cow[to..], "after it: {told}");
                assert!(way == 2 || content[from..to].iter().all(|byte| *byte == 0), "{told}");
                let whole = world.cow[bytes(new * chunk)..][..bytes(chunk)].to_vec();
                cow.write(new * chunk, Bytes::from(whole)).await.expect("put back");
            }
        }
    }
}

#[test]
fn d6_check_recognises_an_area_whose_front_was_zeroed() {
    let olds: Vec<u64> = (0..812).collect();
    let world = World::new(16, 900, 16 * 900).with_exceptions(&olds);
    assert_eq!(check(&world.cow, Some(&world.origin)), []);
    for sectors in [4, 8] {
        let mut torn = world.clone();
        let area = 514 * torn.chunk_bytes();
        torn.cow[area..area + sectors * 512].fill(0);
        let found = check(&torn.cow, Some(&torn.origin));
        assert_eq!(found, [slot("front-of-area-zeroed", 514, 1, sectors as u64 * 32)]);
    }
}

/// Opened for writing, what is left of the area would be wiped.
#[test]
fn d6_a_store_that_has_lost_the_front_of_an_area_is_not_opened_unasked() {
    let olds: Vec<u64> = (0..812).collect();
    let world = World::new(16, 900, 16 * 900).with_exceptions(&olds);
    let open = |cow: &[u8], strays: Strays| {
        let power = Power::steady();
        let volume = any_volume(Memory::zeroed(world.origin.len()));
        let options = SnapshotOptions { strays, ..SnapshotOptions::default() };
        let disk = Rc::new(steady(cow, &power));
        let opened = run(volume.open("s", DynDevice::new(disk.clone()), options));
        let opened = opened.map_err(Error::of_opening);
        let wipes = strays == Strays::Wipe;
        assert_eq!(disk.counts().writes > 0, wipes, "what opening wrote to the store");
        opened.map(|snapshot| snapshot.exceptions())
    };
    assert_eq!(open(&world.cow, Strays::default()).expect("sound"), 812);
    let mut torn = world.clone();
    let area = 514 * torn.chunk_bytes();
    torn.cow[area..area + 4 * 512].fill(0);
    let left = match open(&torn.cow, Strays::default()) {
        Err(Error::FrontZeroed(StoreError::FrontZeroed { area: 1, chunk: 514, left })) => left,
        other => panic!("{other:?}"),
    };
    assert_eq!(left, 812 - 512 - 4 * 32);
    assert_eq!(open(&torn.cow, Strays::Wipe).expect("asked for"), 512);
}

fn with_slot(old: u64, new: u64) -> World {
    let mut world = World::new(8, 40, 8 * 100).with_exceptions(&[9, 3, 7]);
    world.put_slot(3, old, new);
    world
}

fn assert_fault(error: &StoreError, wanted: Unbelievable, index: u64, told: &str) {
    match error {
        StoreError::Fault { place, fault, .. } => {
            assert_eq!((*fault, place.slot), (wanted, index), "{told}");
        }
        other => panic!("{other}: {told}"),
    }
}

/// D7. The kernel takes the upper eight bits of a COW chunk number for the length of a run; two
/// such exceptions stop the whole machine.
#[test]
fn d7_a_chunk_number_with_upper_bits_is_refused() {
    let too_large = Unbelievable::Device(ExceptionFault::NewTooLarge);
    for upper in [1 << 56, 3 << 56, 1 << 63, 0xFF << 56] {
        let mut world = with_slot(50, upper | 5);
        world.put_slot(4, 51, upper | 6);
        let told = format!("{upper:x}");
        assert_fault(&assert_refused(&world, &told), too_large, 3, &told);
        let found = check(&world.cow, Some(&world.origin));
        assert_eq!(found, [slot("new-too-large", 1, 0, 3), slot("new-too-large", 1, 0, 4)]);
    }
}

/// D8. The kernel holds no exception against the devices: it shows and merges metadata as data,
/// gets stuck at the end of the origin, and computes its next free chunk from whatever is there.
#[test]
fn d8_an_exception_that_contradicts_the_devices_is_refused() {
    use ExceptionFault::{NewBeyondDevice, NewIsMetadata, NewTooLarge, OldBeyondOrigin};
    for (old, new, fault, kind) in [
        (50, 40, NewBeyondDevice, "new-beyond-device"),
        (50, 10_000, NewBeyondDevice, "new-beyond-device"),
        (50, (1 << 56) - 1, NewBeyondDevice, "new-beyond-device"),
        (50, 1, NewIsMetadata, "new-is-metadata"),
        (100, 5, OldBeyondOrigin, "old-beyond-origin"),
        (u64::MAX, 5, OldBeyondOrigin, "old-beyond-origin"),
        (1 << 56 | 9, 5, OldBeyondOrigin, "old-beyond-origin"),
        (50, u64::MAX, NewTooLarge, "new-too-large"),
    ] {
        let world = with_slot(old, new);
        let told = format!("{old} -> {new}");
        let error = assert_refused(&world, &told);
        assert_fault(&error, Unbelievable::Device(fault), 3, &told);
        assert_eq!(check(&world.cow, Some(&world.origin)), [slot(kind, 1, 0, 3)], "{told}");
    }
    // A second area's chunk, on a device that has it.
    let mut world = World::new(8, 300, 8 * 100).with_exceptions(&[9, 3, 7]);
    world.put_slot(3, 50, 258);
    assert_refused(&world, "area 1");
    assert_eq!(check(&world.cow, Some(&world.origin)), [slot("new-is-metadata", 1, 0, 3)]);
}

#[test]
fn d8_the_next_free_chunk_never_wraps() {
    let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
    for new in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 56] {
        let mut tally = Tally::new(layout);
        tally.add(Exception { old: OriginChunk::new(1), new: CowChunk::new(new) });
        assert!(tally.next_free().get() >= new, "{new} is followed by {}", tally.next_free());
        let info = run(ops::info(&steady(&with_slot(50, new).cow, &Power::steady())));
        assert!(info.expect("readable").next_free_chunk >= new);
    }
}

/// D9. Which of two exceptions for one origin chunk a kernel shows depends on its version, and a
/// merge ends with the earlier one: what is seen can change through it.
#[test]
fn d9_duplicates_are_refused_and_both_slots_named() {
    let mut world = World::new(8, 40, 8 * 300);
    for (index, (old, new)) in (0..).zip([(7, 2), (100, 3), (7, 4), (200, 5)]) {
        world.put_slot(index, old, new);
    }
    assert_fault(&assert_refused(&world, "old"), Unbelievable::DuplicateOld, 2, "old");
    assert_eq!(check(&world.cow, Some(&world.origin)), [slot("duplicate-old", 1, 0, 2)]);
    assert!(message(&world).contains("area 0 (chunk 1), slot 0"), "{}", message(&world));

    let world = with_slot(50, 3);
    assert_fault(&assert_refused(&world, "new"), Unbelievable::DuplicateNew, 3, "new");
    assert_eq!(check(&world.cow, Some(&world.origin)), [slot("duplicate-new", 1, 0, 3)]);
    assert!(message(&world).contains("area 0 (chunk 1), slot 1"), "{}", message(&world));
}

fn message(world: &World) -> String {
    let mut found = Vec::new();
    let disk = steady(&world.cow, &Power::steady());
    run(ops::check(&disk, None::<&Disk>, |it| found.push(it.to_string()))).expect("readable");
    found.join("\n")
}
