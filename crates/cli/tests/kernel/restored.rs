use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::common::read;
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

/// Chunk sizes in bytes, and sectors of the origin.
const STORES: [(u64, u64); 4] =
    [(512, 4099), (4 << 10, 8195), (16 << 10, 8192 + 31), (64 << 10, 16384 + 1)];

/// How the metadata comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Dump,
    Pack,
}

/// A kernel fills a store. Its header and every area are lost, and made again from what was kept; the kernel
/// opens it, says the same of it, shows the same snapshot and goes on writing.
#[test]
fn a_kernel_opens_a_store_whose_metadata_was_made_again() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = Vec::new();
    for by in [By::Dump, By::Pack] {
        for (chunk_bytes, sectors) in STORES {
            let name = format!("{by:?}{chunk_bytes}").to_lowercase();
            pairs.push((by, Pair::create(&name, chunk_bytes, sectors, None, &mut random)));
        }
    }
    let mut guest = Guest::new();
    for (_, pair) in &mut pairs {
        let (disks, name) = (pair.disks(&mut guest), pair.name.clone());
        guest.line(format!("map {name} {disks}"));
        pair.write(To::Snapshot, 9, &mut guest, &mut random);
        pair.write(To::Origin, 9, &mut guest, &mut random);
        guest.line(format!("status {name} filled"));
        guest.line(format!("unmap {name}"));
    }
    let filled = guest.run();

    let mut guest = Guest::new();
    let before: Vec<_> = pairs.iter().map(|(_, pair)| sha256(&pair.snapshot)).collect();
    for (by, pair) in &mut pairs {
        lose_and_make_again(*by, pair);
        let (disks, name) = (pair.disks(&mut guest), pair.name.clone());
        guest.line(format!("map {name} {disks}"));
        guest.line(format!("status {name} again"));
        guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
        pair.write(To::Snapshot, 3, &mut guest, &mut random);
        pair.write(To::Origin, 3, &mut guest, &mut random);
        guest.line(format!("content {name} snapshot-later /dev/mapper/{name}"));
        guest.line(format!("unmap {name}"));
    }
    let said = guest.run();
    for ((_, pair), before) in pairs.iter().zip(before) {
        let name = &pair.name;
        assert_eq!(said.get(name, "again"), filled.get(name, "filled"), "{name}");
        assert_eq!(said.get(name, "snapshot"), before, "{name}: what it showed");
        assert_eq!(said.get(name, "snapshot-later"), sha256(&pair.snapshot), "{name}: later");
        pair.assert_exported(name);
        pair.assert_merges(name);
    }
}

/// Overwrites the header and every area with noise, and brings them back.
fn lose_and_make_again(by: By, pair: &Pair) {
    let (kept, before) = (pair.path("kept"), read(&pair.cow));
    match by {
        By::Dump => {
            let dump = dmsnap!("dump", "--restorable", pair.cow).ok();
            std::fs::write(&kept, dump).expect("the dump can be written");
        }
        By::Pack => drop(dmsnap!("pack", pair.cow, kept).ok()),
    }
    let (chunk, slots) = (pair.chunk_bytes, pair.chunk_bytes / 16);
    let areas = pair.exceptions() / slots + 1;
    let cow = File::options().write(true).open(&pair.cow).expect("the COW device is there");
    let noise = vec![0x6B; usize::try_from(chunk).expect("small")];
    for lost in std::iter::once(0).chain((0..areas).map(|area| 1 + area * (slots + 1))) {
        cow.write_all_at(&noise, lost * chunk).expect("it can be written");
    }
    // As long as somebody may write to it, it is in use.
    drop(cow);
    dmsnap!("info", pair.cow).failed();
    match by {
        By::Dump => dmsnap!("restore", kept, pair.cow).ok(),
        By::Pack => dmsnap!("unpack", kept, pair.cow).ok(),
    };
    let after = read(&pair.cow);
    let header = usize::try_from(chunk).expect("small");
    assert!(after[header..] == before[header..], "{}: other areas, or data", pair.name);
    assert!(after[..512] == before[..512], "{}: another header", pair.name);
}
