//! Every finding of a check, provoked once by a store made by hand: its kind, its severity, its
//! place. And what a check says to everything that a kernel does not cope with.

use dmsnap::device::Memory;
use dmsnap::ops::{self, Error, MergeOptions, Report, Severity, Silent};
use dmsnap_sim::{Disk, Power, run};

use crate::common::{World, bytes, scattered};

use Severity::{Damage, Note};

type Found = (Severity, &'static str, Option<u64>, Option<u64>, Option<u64>);

fn check(cow: &[u8], origin: Option<&[u8]>) -> (Vec<Found>, Report) {
    let power = Power::steady();
    let disk = |content: &[u8]| {
        let mut content = content.to_vec();
        // Only whole blocks are part of a disk.
        content.truncate(content.len() - content.len() % 512);
        Disk::new(content, 512, &power)
    };
    let (cow, origin) = (disk(cow), origin.map(disk));
    let mut found = Vec::new();
    let report = run(ops::check(&cow, origin.as_ref(), |it| {
        assert!(!it.damage.to_string().contains('\n'), "{it:?}");
        assert!(!it.damage.to_string().is_empty(), "{it:?}");
        let (severity, kind, place) = (it.damage.severity(), it.damage.name(), it.place);
        found.push((severity, kind, place.chunk, place.area, place.slot));
    }));
    let report = report.expect("readable");
    assert_eq!(cow.log(), [], "a check wrote to the COW device");
    assert!(origin.is_none_or(|origin| origin.log().is_empty()), "a check wrote to the origin");
    assert_eq!(power.operations(), 0);
    let of = |severity| found.iter().filter(|it| it.0 == severity).count() as u64;
    assert_eq!((report.damaged, report.notes), (of(Damage), of(Note)));
    assert_eq!(report.sound, report.damaged == 0);
    (found, report)
}

const fn header(severity: Severity, kind: &'static str) -> Found {
    (severity, kind, Some(0), None, None)
}

const fn nowhere(severity: Severity, kind: &'static str) -> Found {
    (severity, kind, None, None, None)
}

const fn slot(severity: Severity, kind: &'static str, chunk: u64, area: u64, slot: u64) -> Found {
    (severity, kind, Some(chunk), Some(area), Some(slot))
}

/// 600 chunks of 4 KiB, 1024 on the origin: two whole areas and a third on the device.
fn world(exceptions: u64) -> World {
    World::new(8, 600, 8 * 1024).with_exceptions(&scattered(exceptions, 1024, 5))
}

#[track_caller]
fn assert_finds(world: &World, wanted: &[Found]) -> Report {
    let (found, report) = check(&world.cow, Some(&world.origin));
    assert_eq!(found, wanted);
    report
}

#[test]
fn a_sound_store_gives_no_finding() {
    for count in [0, 1, 255, 256, 257, 511, 512, 513, 590] {
        let world = world(count);
        for origin in [None, Some(&*world.origin)] {
            let (found, report) = check(&world.cow, origin);
            assert_eq!(found, [], "{count} exceptions");
            let sums = (report.exceptions, report.holes, report.out_of_order, report.areas);
            assert_eq!(sums, (Some(count), Some(0), Some(0), Some(count / 256 + 1)));
        }
    }
    // One-sector chunks, and a last chunk of the origin that is cut short.
    let world = World::new(1, 200, 100).with_exceptions(&scattered(99, 100, 5));
    assert_finds(&world, &[]);
    let world = World::new(8, 200, 8 * 99 + 3).with_exceptions(&scattered(99, 100, 5));
    assert_finds(&world, &[]);
}

#[test]
fn a_header_that_no_kernel_opens() {
    type Spoil = fn(&mut [u8]);
    let spoilt: [(Spoil, &'static str); 10] = [
        (|cow| cow[..4].fill(0), "blank"),
        (|cow| cow[..4].copy_from_slice(b"pAnS"), "bad-magic"),
        (|cow| cow[8] = 0, "bad-version"),
        (|cow| cow[8] = 2, "bad-version"),
        (|cow| cow[11] = 1, "bad-version"),
        (|cow| cow[12..16].copy_from_slice(&0_u32.to_le_bytes()), "impossible-chunk-size"),
        (|cow| cow[12..16].copy_from_slice(&7_u32.to_le_bytes()), "impossible-chunk-size"),
        (|cow| cow[12..16].copy_from_slice(&24_u32.to_le_bytes()), "impossible-chunk-size"),
        (|cow| cow[12..16].copy_from_slice(&(1_u32 << 22).to_le_bytes()), "impossible-chunk-size"),
        (|cow| cow[12..16].copy_from_slice(&u32::MAX.to_le_bytes()), "impossible-chunk-size"),
    ];
    for (spoil, kind) in spoilt {
        let mut world = world(20);
        spoil(&mut world.cow);
        let report = assert_finds(&world, &[header(Damage, kind)]);
        assert_eq!((report.exceptions, report.areas), (None, None), "{kind}");
    }
}

#[test]
fn what_is_no_store_at_all_is_an_error() {
    type Spoil = fn(&mut [u8]);
    let spoilt: [Spoil; 4] = [
        |cow| cow.fill(0),
        |cow| cow.fill(0xAA),
        |cow| cow[..16].fill(0),
        |cow| cow[..16].copy_from_slice(b"pAnS\x01\0\0\0\x02\0\0\0\x08\0\0\0"),
    ];
    for spoil in spoilt {
        let mut world = world(20);
        spoil(&mut world.cow);
        let cow = Memory::from(world.cow);
        let checked = run(ops::check(&cow, None::<&Memory>, |_| {}));
        assert!(matches!(checked, Err(Error::Header(_))), "{checked:?}");
    }
}

#[test]
fn the_valid_flag() {
    let mut dropped = world(20);
    dropped.invalidate();
    // What was saved is counted all the same.
    let report = assert_finds(&dropped, &[header(Damage, "invalid")]);
    assert_eq!(report.exceptions, Some(20));
    for valid in [2, 7, u32::MAX] {
        let mut odd = world(20);
        odd.cow[4..8].copy_from_slice(&valid.to_le_bytes());
        assert_finds(&odd, &[header(Note, "odd-valid-flag")]);
    }
}

/// Each exception is put into slot `index` of a store with 300 in order.
#[test]
fn an_exception_that_cannot_be() {
    let olds = scattered(300, 1024, 5);
    let lock_step = |index: u64| world(0).layout.lock_step_chunk(index).get();
    for (index, old, new, kind) in [
        (300, 1024, lock_step(300), "old-beyond-origin"),
        (300, u64::MAX, lock_step(300), "old-beyond-origin"),
        (300, olds[7], lock_step(300), "duplicate-old"),
        (300, olds[299], lock_step(300), "duplicate-old"),
        (300, 1000, 1, "new-is-metadata"),
        (300, 1000, 258, "new-is-metadata"),
        (300, 1000, 515, "new-is-metadata"),
        (300, 1000, 600, "new-beyond-device"),
        (300, 1000, 80_000, "new-beyond-device"),
        (300, 1000, (1 << 56) - 1, "new-beyond-device"),
        (300, 1000, 1 << 56, "new-too-large"),
        (300, 1000, u64::MAX, "new-too-large"),
        (300, 1000, lock_step(0), "duplicate-new"),
        (300, 1000, lock_step(299), "duplicate-new"),
        (10, 1000, 1, "new-is-metadata"),
        (255, 1000, 700, "new-beyond-device"),
        (256, 1000, u64::MAX, "new-too-large"),
        (299, olds[3], lock_step(299), "duplicate-old"),
        (10, 1000, lock_step(9), "duplicate-new"),
    ] {
        let mut world = world(0);
        let free = (0..1024).find(|chunk| !olds.contains(chunk)).expect("one is free");
        world = world.with_exceptions(&olds);
        world.put_slot(index, if old == 1000 { free } else { old }, new);
        let chunk = if index < 256 { 1 } else { 258 };
        let place = slot(Damage, kind, chunk, index / 256, index % 256);
        let report = assert_finds(&world, &[place]);
        assert_eq!(report.exceptions, Some(300.max(index + 1)), "{kind}");
    }
}

/// A chunk taken out of step is named where it occurs the second time, too.
#[test]
fn a_cow_chunk_used_before_its_own_slot() {
    let mut world = world(20);
    world.put_slot(4, 1001, world.layout.lock_step_chunk(11).get());
    let (found, _) = check(&world.cow, None);
    assert_eq!(found, [slot(Damage, "duplicate-new", 1, 0, 11)]);
}

/// The earlier slot is part of the message; many repetitions do not take much more.
#[test]
fn duplicates_name_the_earlier_slot() {
    let mut world = world(300);
    let (first, second) = (world.layout.lock_step_chunk(300).get(), 1023);
    world.put_slot(300, second, first);
    world.put_slot(301, second, first);
    world.put_slot(302, second, first + 2);
    let mut told = Vec::new();
    let disk = Disk::new(world.cow.clone(), 512, &Power::steady());
    run(ops::check(&disk, None::<&Disk>, |it| told.push(it.to_string()))).expect("readable");
    assert_eq!(told.len(), 2, "{told:?}");
    for line in &told {
        assert!(line.contains("slot: area 1 (chunk 258), slot 44"), "{line}");
    }
    assert!(told[0].starts_with("area 1 (chunk 258), slot 45: "), "{}", told[0]);
    assert!(told[1].starts_with("area 1 (chunk 258), slot 46: "), "{}", told[1]);

    let mut many = World::new(8, 6000, 8 * 1024).with_exceptions(&[]);
    for index in 0..5000 {
        let (area, slot) = many.layout.position(index);
        if slot == 0 {
            let at = bytes(many.layout.area_location(area).get()) * many.chunk_bytes();
            many.cow[at..at + 4096].fill(0);
        }
        many.put_slot(index, 3, many.layout.lock_step_chunk(index).get());
    }
    let (found, report) = check(&many.cow, None);
    assert_eq!(report.damaged, 4999);
    assert!(found.iter().all(|it| it.1 == "duplicate-old"));
}

/// Slots after the first empty one: one finding for each stretch of them.
#[test]
fn strays_behind_the_terminator() {
    let mut strayed = world(300);
    for index in [302, 303, 304, 400, 511] {
        strayed.put_slot(index, index, strayed.layout.lock_step_chunk(index).get());
    }
    let strays = [46, 144, 255].map(|first| slot(Damage, "stray-slots", 258, 1, first));
    let report = assert_finds(&strayed, &strays);
    assert_eq!(report.exceptions, Some(300));
    // Garbage counts as well; areas that cannot be reached do not.
    let mut garbage = world(300);
    garbage.put_slot(310, u64::MAX, u64::MAX);
    garbage.put_slot(512, 5, 5);
    assert_finds(&garbage, &[slot(Damage, "stray-slots", 258, 1, 54)]);
    // The first slot is empty, the others are not.
    let mut first = world(20);
    first.put_slot(0, 0, 0);
    assert_finds(&first, &[slot(Damage, "stray-slots", 1, 0, 1)]);
    // The terminator itself names a chunk of the origin.
    let mut named = world(20);
    named.put_slot(20, 77, 0);
    assert_finds(&named, &[slot(Damage, "stray-slots", 1, 0, 20)]);
}

#[test]
fn an_area_whose_front_was_zeroed() {
    for (count, area_chunk, zeroed, kind, first) in [
        (300, 258, 512, "front-of-area-zeroed", 32),
        (512, 258, 2048, "front-of-area-zeroed", 128),
        (200, 1, 1024, "front-of-area-zeroed", 64),
        (40, 1, 512, "front-of-area-zeroed", 32),
        // Not on the bound of a sector: no discard does that.
        (300, 258, 16 * 31, "stray-slots", 31),
    ] {
        let mut world = world(count);
        let at = area_chunk * 4096;
        world.cow[at..at + zeroed].fill(0);
        let place = slot(Damage, kind, area_chunk as u64, area_chunk as u64 / 257, first);
        assert_finds(&world, &[place]);
    }
    // Nor are chunks out of step what was in an area before.
    let mut stale = world(40);
    stale.cow[4096..4096 + 512].fill(0);
    stale.put_slot(33, 9, 100);
    assert_finds(&stale, &[slot(Damage, "stray-slots", 1, 0, 32)]);
}

#[test]
fn holes_and_disorder_are_counted_and_no_damage() {
    let mut holes = world(20);
    holes.put_slot(20, 1000, 50);
    let (found, report) = check(&holes.cow, None);
    assert_eq!(found, [nowhere(Note, "holes"), nowhere(Note, "out-of-order")]);
    assert!(report.sound);
    assert_eq!((report.holes, report.out_of_order), (Some(28), Some(1)));
    // As kernels before 2013 left it: no hole, another order.
    let mut mixed = world(20);
    let olds = scattered(20, 1024, 5);
    for (index, new) in (0..20).zip(scattered(20, 20, 9)) {
        mixed.put_slot(index, olds[bytes(index)], new + 2);
    }
    let (found, report) = check(&mixed.cow, Some(&mixed.origin));
    assert_eq!(found, [nowhere(Note, "out-of-order")]);
    assert_eq!((report.sound, report.holes), (true, Some(0)));
    assert!(report.out_of_order.is_some_and(|count| count > 10));
    // A hole that spans a whole area counts its data chunks only.
    let mut far = world(20);
    far.put_slot(20, 1000, 520);
    let (_, report) = check(&far.cow, None);
    assert_eq!(report.holes, Some(518 - 2 - 20));
}

#[test]
fn sizes_worth_a_note() {
    let full = World::new(8, 20, 8 * 30).with_exceptions(&scattered(18, 30, 5));
    assert_finds(&full, &[nowhere(Note, "full")]);
    let hazard = World::new(8, 258, 8 * 300).with_exceptions(&scattered(254, 300, 5));
    assert_finds(&hazard, &[nowhere(Note, "kernel-loses-last-chunk")]);
    let mut lost = World::new(8, 258, 8 * 300).with_exceptions(&scattered(255, 300, 5));
    assert_finds(&lost, &[nowhere(Note, "full")]);
    lost.invalidate();
    assert_finds(&lost, &[header(Damage, "invalid"), nowhere(Note, "dropped-at-last-chunk")]);
    let mut partial = world(20);
    partial.cow.extend([0xAA; 512]);
    assert_finds(&partial, &[(Note, "partial-chunk", Some(600), None, None)]);
    // A file can end inside a sector, too.
    let mut torn = World::new(1, 110, 100).with_exceptions(&[3]).cow;
    torn.extend([0xAA; 100]);
    let mut found = Vec::new();
    let checked = run(ops::check(&Memory::from(torn), None::<&Memory>, |it| found.push(it)));
    assert!(checked.expect("readable").sound);
    assert!(
        found.iter().all(|it| it.damage.name() == "partial-chunk" && it.place.chunk == Some(110))
    );
    assert!(found.len() == 1 && found[0].to_string().contains("100 bytes"), "{found:?}");
    // Two chunks hold nothing and are a store all the same.
    assert_finds(&World::new(8, 2, 8 * 30), &[]);
}

#[test]
fn a_first_area_that_was_never_zeroed() {
    let mut stale = world(0);
    for index in 0..256 {
        stale.put_slot(index, 0xAAAA_AAAA_AAAA_AAAA, 0xAAAA_AAAA_AAAA_AAAA);
    }
    let (found, _) = check(&stale.cow, None);
    assert_eq!(found[0], slot(Damage, "new-too-large", 1, 0, 0));
    assert_eq!(found[1], slot(Note, "stale-first-area", 1, 0, 0));
    assert_eq!(found.iter().filter(|it| it.1 == "stale-first-area").count(), 1);
    // An origin of the wrong size, or a file cut short, is another matter.
    let world = world(1);
    let (found, _) = check(&world.cow, Some(&[0; 512]));
    let old = scattered(1, 1024, 5)[0];
    assert!(old > 0);
    assert_eq!(found, [slot(Damage, "old-beyond-origin", 1, 0, 0)]);
    let (found, _) = check(&world.cow[..2 * 4096], None);
    assert_eq!(found, [slot(Damage, "truncated", 1, 0, 0)]);
}

#[test]
fn an_origin_that_begins_like_a_store() {
    let mut world = world(20);
    world.origin[..16].copy_from_slice(&world.cow[..16]);
    assert_finds(&world, &[nowhere(Damage, "origin-begins-with-header")]);
    // The other way round it is the caller's mistake.
    let power = Power::steady();
    let (data, store) = (vec![7; 1 << 20], world.cow);
    let (cow, origin) = (Disk::new(data, 512, &power), Disk::new(store, 512, &power));
    let swapped = run(ops::check(&cow, Some(&origin), |_| {}));
    assert!(matches!(swapped, Err(Error::Swapped)));
}

/// A file of 600 chunks with 300 exceptions in order (up to chunk 302), cut at every kind of place.
#[test]
fn a_file_that_was_cut_short() {
    let whole = world(300);
    let missing = |area: u64| {
        let chunk = 1 + 257 * area;
        (Damage, "missing-terminator", Some(chunk), Some(area), None)
    };
    let partial = |chunk: u64| (Note, "partial-chunk", Some(chunk), None, None);
    let too_small = header(Damage, "truncated");
    for (len, first, damaged, exceptions) in [
        // In the header, in chunk 0.
        (0, too_small, 1, None),
        (100, too_small, 1, None),
        (512, too_small, 1, None),
        (1023, too_small, 1, None),
        (1024, partial(0), 1, Some(0)),
        (4096, missing(0), 1, Some(0)),
        // In area 0.
        (4096 + 512, partial(1), 1, Some(0)),
        (8191, partial(1), 1, Some(0)),
        // In data: of all of area 0, of some of it, up to the next area.
        (8192, slot(Damage, "truncated", 1, 0, 0), 257, Some(256)),
        (8192 + 512, partial(2), 257, Some(256)),
        (4096 * 257, slot(Damage, "truncated", 1, 0, 255), 2, Some(256)),
        (4096 * 258, missing(1), 1, Some(256)),
        // In area 1.
        (4096 * 258 + 512, partial(258), 1, Some(256)),
        (4096 * 259 - 512, partial(258), 1, Some(256)),
        (4096 * 259, slot(Damage, "truncated", 258, 1, 0), 44, Some(300)),
        // In the data of the last exception.
        (4096 * 302, slot(Damage, "truncated", 258, 1, 43), 1, Some(300)),
        (4096 * 303 - 512, partial(302), 1, Some(300)),
    ] {
        let (found, report) = check(&whole.cow[..len], Some(&whole.origin));
        assert_eq!(found[0], first, "{len} bytes");
        assert_eq!((report.damaged, report.exceptions), (damaged, exceptions), "{len} bytes");
        assert!(!report.sound);
        let areas = if len < 4096 * 2 {
            0
        } else if len < 4096 * 259 {
            1
        } else {
            2
        };
        assert_eq!(report.areas, exceptions.map(|_| areas), "{len} bytes: areas");
        let machine = |power: &Power| {
            let mut cow = whole.cow[..len].to_vec();
            cow.truncate(len - len % 512);
            (Disk::new(cow, 512, power), Disk::new(whole.origin.clone(), 512, power))
        };
        let power = Power::steady();
        let (cow, origin) = machine(&power);
        run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).expect_err("cut short");
        assert_eq!(power.operations(), 0, "{len} bytes: merged something");
    }
    // Behind everything that is in use, nothing is lost.
    assert_eq!(check(&whole.cow[..4096 * 303], None).0, [nowhere(Note, "full")]);
    assert_eq!(check(&whole.cow[..4096 * 304], None).0, []);
    assert_eq!(check(&whole.cow[..4096 * 304 + 512], None).0, [partial(304)]);
    assert_eq!(check(&world(256).cow[..4096 * 259], None).0, [nowhere(Note, "full")]);
}

/// What a store that kernels do not cope with is to us.
struct Verdict {
    what: &'static str,
    world: World,
    /// In the order told, each once.
    kinds: &'static [&'static str],
    merges: bool,
}

fn verdict(
    what: &'static str,
    kinds: &'static [&'static str],
    merges: bool,
    spoil: impl FnOnce(&mut World),
) -> Verdict {
    let mut world = world(3);
    spoil(&mut world);
    Verdict { what, world, kinds, merges }
}

fn with_header(at: usize, value: u32) -> impl FnOnce(&mut World) {
    move |world| world.cow[at..at + 4].copy_from_slice(&value.to_le_bytes())
}

/// Slot 3 of a store with three exceptions; 0 stands for an origin chunk of those three.
fn with_slot(old: u64, new: u64) -> impl FnOnce(&mut World) {
    move |world| {
        let taken = scattered(3, 1024, 5);
        let free = (1..).find(|chunk| !taken.contains(chunk)).expect("one is free");
        let old = match old {
            0 => taken[1],
            1 => free,
            other => other,
        };
        world.put_slot(3, old, new);
        if new == 5 && old == free {
            world.put_data(old, new, &[0x55; 4096]);
        }
    }
}

fn full_area(chunks: u64, after: u8) -> impl FnOnce(&mut World) {
    move |world| {
        *world = self::world(256);
        let at = 258 * 4096;
        world.cow[at..at + 4096].fill(after);
        world.cow.truncate(bytes(chunks) * 4096);
    }
}

fn headers() -> Vec<Verdict> {
    let impossible: &[&str] = &["impossible-chunk-size"];
    vec![
        verdict("magic 0", &["blank"], false, with_header(0, 0)),
        verdict("another magic", &["bad-magic"], false, with_header(0, 0x6e53_7041)),
        verdict("version 0", &["bad-version"], false, with_header(8, 0)),
        verdict("version 2", &["bad-version"], false, with_header(8, 2)),
        verdict("chunk size 0", impossible, false, with_header(12, 0)),
        verdict("chunk size 7", impossible, false, with_header(12, 7)),
        verdict("chunk size 2^22", impossible, false, with_header(12, 1 << 22)),
        verdict("chunk size 2^32 - 1", impossible, false, with_header(12, u32::MAX)),
        verdict("chunk size 2^21", &["partial-chunk", "missing-terminator"], false, |world| {
            with_header(12, 1 << 21)(world);
        }),
        verdict("valid 0", &["invalid"], false, with_header(4, 0)),
        verdict("valid 2", &["odd-valid-flag"], true, with_header(4, 2)),
        verdict("bytes after the header", &[], true, |world| world.cow[16..4096].fill(0xAA)),
        verdict("another chunk size", &[], true, |world| {
            *world = World::new(16, 300, 8 * 1024).with_exceptions(&[3, 9]);
        }),
    ]
}

fn exceptions() -> Vec<Verdict> {
    let beyond: &[&str] = &["new-beyond-device"];
    vec![
        verdict("an origin chunk twice", &["duplicate-old"], false, with_slot(0, 5)),
        verdict("a COW chunk twice", &["duplicate-new"], false, with_slot(1, 2)),
        verdict("old just beyond", &["old-beyond-origin"], false, with_slot(1024, 5)),
        verdict("old far beyond", &["old-beyond-origin"], false, with_slot(1 << 40, 5)),
        verdict("old of 2^56 and more", &["old-beyond-origin"], false, with_slot(1 << 56 | 1, 5)),
        verdict("old 2^64 - 1", &["old-beyond-origin"], false, with_slot(u64::MAX, 5)),
        verdict("new just beyond", beyond, false, with_slot(1, 600)),
        verdict("new far beyond", beyond, false, with_slot(1, 9_999)),
        verdict("new is area 0", &["new-is-metadata"], false, with_slot(1, 1)),
        verdict("new is area 1", &["new-is-metadata"], false, with_slot(1, 258)),
        verdict("new of 2^56 and more", &["new-too-large"], false, with_slot(1, 1 << 56 | 5)),
        verdict("new of 2^63 and more", &["new-too-large"], false, with_slot(1, 1 << 63 | 5)),
        verdict("new 2^64 - 1", &["new-too-large"], false, with_slot(1, u64::MAX)),
        verdict("out of order", &["out-of-order"], true, |world| {
            with_slot(1, 5)(world);
            let taken = scattered(2, 1024, 5);
            world.put_slot(0, taken[1], 3);
            world.put_slot(1, taken[0], 2);
        }),
        verdict("a hole", &["holes", "out-of-order"], true, |world| {
            world.put_slot(3, 1, 9);
            world.put_data(1, 9, &[0x99; 4096]);
        }),
    ]
}

fn lists() -> Vec<Verdict> {
    let strays: &[&str] = &["stray-slots"];
    let endless: &[&str] = &["missing-terminator"];
    vec![
        verdict("entries after a gap", strays, true, |world| world.put_slot(5, 1, 7)),
        verdict("first slot empty", strays, true, |world| {
            world.put_slot(0, 0, 0);
            world.snapshot.clone_from(&world.origin);
        }),
        verdict("an empty area with garbage", strays, true, |world| {
            *world = self::world(0);
            world.cow[8191 - 16] = 1;
        }),
        verdict("no room for the next area", &["missing-terminator"], false, |world| {
            full_area(258, 0)(world);
        }),
        verdict(
            "the next area is cut short",
            &["partial-chunk", "missing-terminator"],
            false,
            |world| {
                full_area(259, 0)(world);
                world.cow.truncate(258 * 4096 + 2048);
            },
        ),
        verdict("one chunk", endless, false, |world| world.cow.truncate(4096)),
        verdict("a chunk and a half", &["partial-chunk", "missing-terminator"], false, |world| {
            world.cow.truncate(6144);
        }),
        verdict(
            "garbage in the next areas",
            &["new-too-large", "missing-terminator"],
            false,
            full_area(600, 0xAA),
        ),
        verdict("the next area is empty", &[], true, full_area(600, 0)),
        verdict("garbage that cannot be reached", &[], true, |world| {
            world.cow[258 * 4096..259 * 4096].fill(0x11);
        }),
        verdict("two chunks, empty", &[], true, |world| *world = World::new(8, 2, 8 * 1024)),
        verdict("full to the last chunk", &["full"], true, |world| {
            *world = self::world(255);
            world.cow.truncate(258 * 4096);
        }),
    ]
}

/// The stores that a real kernel was given: it merges metadata and cut numbers into the origin,
/// gets stuck in the middle, or brings old entries back to life. Here each is either merged
/// rightly or refused before the first write.
#[test]
fn every_store_that_kernels_do_not_cope_with_has_a_verdict() {
    let verdicts: Vec<_> = [headers(), exceptions(), lists()].into_iter().flatten().collect();
    assert_eq!(verdicts.len(), 40);
    for Verdict { what, world, kinds, merges } in verdicts {
        let (found, _) = check(&world.cow, Some(&world.origin));
        let mut told: Vec<_> = found.iter().map(|it| it.1).collect();
        told.dedup();
        assert_eq!(told, kinds, "{what}");
        let power = Power::steady();
        let cow = Disk::new(world.cow, 512, &power);
        let origin = Disk::new(world.origin, 512, &power);
        let merged = run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent));
        assert_eq!(merged.is_ok(), merges, "{what}: {merged:?}");
        match merges {
            true => assert!(origin.content() == world.snapshot, "{what}: wrong content"),
            false => assert_eq!(power.operations(), 0, "{what}: something was written"),
        }
        if merges {
            let (found, report) = check(&cow.content(), Some(&origin.content()));
            assert!(report.sound && report.exceptions == Some(0), "{what}: {found:?}");
        }
    }
}
