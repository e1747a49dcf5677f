//! A store's metadata, made again from a list of its exceptions.

use dmsnap::device::{Device, Memory};
use dmsnap::ops::{self, Entry, Error, ListEnd, ListError, ListSum, PlacedRun, Restored};
use dmsnap_sim::{Disk, Power, run};

use crate::common::{World, bytes, scattered};
use crate::kernel_stores::kernel_stores;

fn listed(content: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut list = Vec::new();
    let cow = Memory::from(content.to_vec());
    run(ops::list(&cow, |entry| {
        list.push(entry);
        Ok(())
    }))?;
    Ok(list)
}

fn restore(list: &[Entry], cow: &impl Device, force: bool) -> Result<Restored, Error> {
    run(ops::restore(cow, || Ok(list.iter().copied().map(Ok)), force))
}

fn plan(list: &[Entry], cow: &impl Device, force: bool) -> Result<Restored, Error> {
    run(ops::plan_restore(cow, || Ok(list.iter().copied().map(Ok)), force))
}

fn disk(content: &[u8]) -> Disk {
    Disk::new(content.to_vec(), 512, &Power::steady())
}

/// The bytes that make a store: its header, and its list with the terminator.
fn slots_end(content: &[u8]) -> Vec<std::ops::Range<usize>> {
    let info = run(ops::info(&Memory::from(content.to_vec()))).expect("a store");
    let chunk = bytes(u64::from(info.chunk_size_sectors) * 512);
    let mut ranges: Vec<_> = std::iter::once(0..16).collect();
    let (per_area, mut left) = (chunk / 16, bytes(info.exceptions) + 1);
    let mut area = chunk;
    while left > 0 {
        let here = left.min(per_area);
        ranges.push(area..area + here * 16);
        left -= here;
        area += (per_area + 1) * chunk;
    }
    ranges
}

/// On the device of the store itself, whose header and areas were lost: every byte of both comes back as it was,
/// and all data stays.
fn assert_comes_back(content: &[u8], told: &str) {
    let list = listed(content).unwrap_or_else(|error| panic!("{told}: {error}"));
    let mut lost = content.to_vec();
    for range in slots_end(content) {
        lost[range].fill(0x5A);
    }
    let cow = Memory::from(lost.clone());
    let planned = plan(&list, &cow, false).unwrap_or_else(|error| panic!("{told}: {error}"));
    assert!(cow.content() == lost, "{told}: a plan has written");
    let restored = restore(&list, &cow, false).unwrap_or_else(|error| panic!("{told}: {error}"));
    assert_eq!(planned, restored, "{told}");
    let (back, info) = (cow.content(), run(ops::info(&cow)).expect("a store"));
    for range in slots_end(content) {
        assert!(back[range.clone()] == content[range.clone()], "{told}: bytes {range:?}");
    }
    let before = run(ops::info(&Memory::from(content.to_vec()))).expect("a store");
    assert_eq!(format!("{info:?}"), format!("{before:?}"), "{told}");
    assert_eq!((restored.status, restored.exceptions), (info.status, info.exceptions), "{told}");
    assert_eq!(listed(&back).expect("a store"), list, "{told}");
    let mut findings = Vec::new();
    run(ops::check(&cow, None::<&Memory>, |it| findings.push(it.damage.name()))).expect("read");
    findings.retain(|kind| *kind == "stray-slots" || *kind == "missing-terminator");
    assert!(findings.is_empty(), "{told}: {findings:?}");
    // Nothing but areas and the header's chunk was written.
    let chunk = bytes(u64::from(before.chunk_size_sectors) * 512);
    for (n, (now, old)) in back.chunks(chunk).zip(content.chunks(chunk)).enumerate() {
        assert!(now == old || n == 0 || n % (chunk / 16 + 1) == 1, "{told}: data chunk {n}");
    }
}

#[test]
fn every_kernel_store_comes_back_from_its_list() {
    for store in kernel_stores() {
        assert_comes_back(&store.content, &store.name);
    }
}

fn world() -> World {
    World::new(1, 200, 400).with_exceptions(&scattered(70, 400, 3))
}

#[test]
fn any_sound_store_comes_back_from_its_list() {
    for count in [0, 1, 31, 32, 33, 63, 64, 65, 160] {
        let mut world = World::new(1, 200, 400).with_exceptions(&scattered(count, 400, 9));
        assert_comes_back(&world.cow, &format!("{count} exceptions"));
        world.invalidate();
        assert_comes_back(&world.cow, &format!("{count} exceptions, dropped"));
    }
    let mut out_of_order = world();
    for (index, new) in [(3, 150), (4, 131), (40, 151), (69, 5)] {
        out_of_order.put_slot(index, 390 + index, new);
    }
    assert_comes_back(&out_of_order.cow, "chunks that nobody gives out in order");
    let large = World::new(256, 12, 256 * 30).with_exceptions(&scattered(9, 30, 1));
    assert_comes_back(&large.cow, "large chunks");
}

/// The list on a larger device, where nothing of it was before.
#[test]
fn a_store_comes_back_on_another_device() {
    let world = world();
    let list = listed(&world.cow).expect("a store");
    let cow = disk(&vec![0; world.cow.len() + 5120]);
    let restored = restore(&list, &cow, false).expect("fits");
    assert_eq!(restored.exceptions, 70);
    let info = run(ops::info(&cow)).expect("a store");
    assert_eq!((info.status, info.total_sectors), (restored.status, 210));
    let again = listed(&cow.content()).expect("a store");
    let runs = 1..list.len() - 1;
    assert_eq!(again[runs.clone()], list[runs]);
}

#[test]
fn a_list_that_is_not_whole_is_refused_before_anything_is_written() {
    let world = world();
    let list = listed(&world.cow).expect("a store");
    let mut blank = world.cow.clone();
    blank[..16].fill(0);
    let refused = |list: &[Entry], told: &str| {
        let cow = disk(&blank);
        let error = restore(list, &cow, true).expect_err(told);
        assert!(cow.content() == blank, "{told}: something was written");
        assert_eq!(plan(list, &cow, true).expect_err(told).to_string(), error.to_string());
        match error {
            Error::List(error) => error,
            error => panic!("{told}: {error}"),
        }
    };
    assert!(matches!(refused(&[], "empty"), ListError::NoStore));
    assert!(matches!(refused(&list[1..], "no store"), ListError::NoStore));
    for len in 1..list.len() {
        match refused(&list[..len], "cut off") {
            ListError::CutOff { lines } => assert_eq!(lines, len as u64),
            error => panic!("{error}"),
        }
    }
    for n in 0..list.len() {
        let mut without = list.clone();
        without.remove(n);
        refused(&without, "an entry is missing");
        let mut twice = list.clone();
        twice.insert(n, list[n]);
        refused(&twice, "an entry is there twice");
        if n + 1 < list.len() {
            let mut exchanged = list.clone();
            exchanged.swap(n, n + 1);
            refused(&exchanged, "two entries are exchanged");
        }
        for field in 0..5 {
            for bit in 0..64 {
                let mut other = list.clone();
                if flip(&mut other[n], field, bit) {
                    refused(&other, &format!("entry {n}, field {field}, bit {bit}"));
                }
            }
        }
    }
}

/// Flips a bit of an entry; false if it has none there.
fn flip(entry: &mut Entry, field: usize, bit: u32) -> bool {
    let narrow = |number: &mut u32| {
        *number ^= 1_u32.checked_shl(bit).unwrap_or(0);
        bit < 32
    };
    match (entry, field) {
        (Entry::Run(run), _) => {
            let PlacedRun { old, new, len, area, slot } = run;
            *[old, new, len, area, slot][field] ^= 1 << bit;
            true
        }
        (Entry::Store { store }, 0) => {
            store.valid = !store.valid;
            bit == 0
        }
        (Entry::Store { store }, 1) => narrow(&mut store.version),
        (Entry::Store { store }, 2) => narrow(&mut store.chunk_size_sectors),
        (Entry::Store { store }, 3) => {
            store.total_sectors ^= 1 << bit;
            true
        }
        (Entry::End { end }, 0) => {
            end.exceptions ^= 1 << bit;
            true
        }
        (Entry::End { end }, 1) => narrow(&mut end.crc32c),
        _ => false,
    }
}

/// With a sum that fits, so that only sense can refuse it.
fn summed(mut list: Vec<Entry>) -> Vec<Entry> {
    list.pop();
    let Some(Entry::Store { store }) = list.first() else { panic!("a store comes first") };
    let mut sum = ListSum::new(*store).expect("legal");
    let mut exceptions = 0_u64;
    for entry in &list {
        if let Entry::Run(run) = entry {
            sum.add(run);
            exceptions = exceptions.wrapping_add(run.len);
        }
    }
    list.push(Entry::End { end: ListEnd { exceptions, crc32c: sum.value() } });
    list
}

#[test]
fn a_list_that_fits_no_device_is_refused_by_name() {
    let mut world = World::new(1, 100, 400);
    world = world.with_exceptions(&[1, 2, 3, 10]);
    let list = listed(&world.cow).expect("a store");
    assert_eq!(list.len(), 4, "two runs");
    assert_eq!(summed(list.clone()), list);
    let with = |change: fn(&mut PlacedRun)| {
        let mut list = list.clone();
        let Entry::Run(run) = &mut list[2] else { panic!("a run") };
        change(run);
        summed(list)
    };
    let refused = |list: &[Entry]| {
        let cow = disk(&vec![0; 100 * 512]);
        let error = restore(list, &cow, true).expect_err("refused");
        assert!(cow.content().iter().all(|byte| *byte == 0), "written");
        error.to_string()
    };
    let line = "line 3: the exception";
    assert_eq!(
        refused(&with(|run| run.new = 34)),
        format!("{line} 10 -> 34 points to a metadata chunk of the COW device")
    );
    assert_eq!(
        refused(&with(|run| run.new = 3)),
        format!("{line} 10 -> 3 repeats the COW chunk of an earlier slot")
    );
    assert_eq!(
        refused(&with(|run| run.old = 3)),
        format!("{line} 3 -> 5 repeats the origin chunk of an earlier slot")
    );
    assert!(refused(&with(|run| run.new = 1 << 56)).contains("2^56 or more"));
    let short = |needed: u64| format!("has 51200 bytes; the store needs {needed}");
    assert_eq!(refused(&with(|run| run.new = 100)), short(101 * 512));
    // What a line claims is not gone through one by one.
    assert_eq!(
        refused(&with(|run| run.len = 1 << 40)),
        short(world.layout.chunks_needed((1 << 40) + 3) * 512)
    );
    let impossible = "the dump is damaged: line 3 has an impossible length";
    assert_eq!(refused(&with(|run| run.len = u64::MAX)), impossible);
    assert_eq!(refused(&with(|run| run.len = 0)), impossible);
}

#[test]
fn what_would_be_lost_is_not_restored_over() {
    let world = world();
    let list = listed(&world.cow).expect("a store");
    let refused = |content: &[u8]| {
        let cow = disk(content);
        let error = restore(&list, &cow, false).expect_err("refused");
        assert!(cow.content() == content, "something was written");
        restore(&list, &cow, true).expect("forced");
        error
    };
    let mut other = world.cow.clone();
    other[512..516].fill(9);
    assert!(matches!(refused(&other), Error::StoreExists));
    let mut ext4 = vec![0; world.cow.len()];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
    assert!(matches!(refused(&ext4), Error::Occupied { .. }));
    let mut raid = vec![0; 64 << 10];
    raid[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    raid[4100] = 1;
    raid[4096 + 144] = 8;
    let cow = disk(&raid);
    let error = restore(&listed(&World::new(1, 2, 4).cow).expect("a store"), &cow, true);
    assert!(matches!(error, Err(Error::RaidMember { .. })), "{error:?}");
}

/// After a cut there is what was there before, no store, or the whole one; and the same call makes that.
#[test]
fn a_restore_cut_at_any_operation_leaves_no_store_or_the_whole_one() {
    let world = world();
    let list = listed(&world.cow).expect("a store");
    let mut lost = world.cow.clone();
    lost[512..1024].fill(0x33);
    lost[34 * 512..35 * 512].fill(0x33);
    // Over a valid store of another chunk size, whose first area is a data chunk of the one to come.
    let older = World::new(8, 25, 8 * 30).with_exceptions(&[1, 2]);
    for (before, told) in [(lost, "areas were lost"), (older.cow, "another store was there")] {
        let whole = Power::steady();
        let cow = Disk::new(before.clone(), 512, &whole);
        restore(&list, &cow, true).expect("restores");
        let expected = cow.content();
        let (mut none, mut there, mut old) = (0, 0, 0);
        for cut in 0..whole.operations() {
            let cow = Disk::new(before.clone(), 512, &Power::cut_after(cut));
            restore(&list, &cow, true).expect_err("the power was cut");
            for content in cow.reboots(cut + 1) {
                let cow = disk(&content);
                match run(ops::info(&cow)) {
                    Ok(_) if content == before => old += 1,
                    Ok(info) => {
                        assert_eq!(info.exceptions, 70, "{told}: cut after {cut}");
                        assert!(content == expected, "{told}: cut after {cut}: half a store");
                        there += 1;
                    }
                    Err(Error::Header(_)) => none += 1,
                    Err(error) => panic!("{told}: cut after {cut}: {error}"),
                }
                restore(&list, &cow, true).expect("restores");
                assert!(cow.content() == expected, "{told}: cut after {cut}: not made again");
            }
        }
        assert!(none > 10 && there > 0 && old > 0, "{told}: {none}, {there}, {old}");
    }
}

/// A list that changes between its two readings leaves no store.
#[test]
fn a_list_that_changes_meanwhile_leaves_no_store() {
    let world = world();
    let list = listed(&world.cow).expect("a store");
    let cow = disk(&vec![0; world.cow.len()]);
    let readings = std::cell::Cell::new(0);
    let ended = run(ops::restore(
        &cow,
        || {
            readings.set(readings.get() + 1);
            let mut list = list.clone();
            if readings.get() == 2 {
                flip(&mut list[5], 0, 0);
            }
            Ok(list.into_iter().map(Ok))
        },
        false,
    ));
    assert!(matches!(ended, Err(Error::List(ListError::Changed))), "{ended:?}");
    assert!(run(ops::info(&cow)).is_err());
}
