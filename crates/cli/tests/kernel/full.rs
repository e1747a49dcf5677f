use crate::common::Ran;
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::pair::{Pair, sha256};
use crate::kernel::random::Random;

const CHUNK_BYTES: u64 = 4 << 10;
const COW_CHUNKS: u64 = 32;
const ORIGIN_SECTORS: u64 = 1 << 11;

/// The kernel fills a store to its last chunk, and then tries once more.
#[test]
fn an_overflowed_store_is_exported_and_merged_and_an_invalid_one_refused() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = ["overflowed", "invalid"]
        .map(|name| Pair::create(name, CHUNK_BYTES, ORIGIN_SECTORS, Some(COW_CHUNKS), &mut random));
    let mut guest = Guest::new();
    for (pair, store) in pairs.iter_mut().zip(["PO", "P"]) {
        fill(pair, store, &mut guest, &mut random);
    }
    let [overflowed, invalid] = &pairs;
    let name = &overflowed.name;
    guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
    guest.line(format!("unmap {name}; map {name} $DISK0 $DISK1"));
    guest.line(format!("status {name} again; unmap {name}; unmap {}", invalid.name));
    let capacity = overflowed.info()["capacity_exceptions"].as_u64().expect("capacity is a number");
    let said = guest.run();

    assert_eq!(said.get(name, "full"), "Overflow");
    assert_eq!(said.get(name, "again"), overflowed.status());
    assert_eq!(said.get(name, "snapshot"), sha256(&overflowed.snapshot), "{name}: the model");
    assert_eq!(overflowed.exceptions(), capacity, "{name}");
    overflowed.assert_exported(name);
    overflowed.assert_merges(name);

    assert_eq!(said.get(&invalid.name, "full"), "Invalid");
    assert_eq!(invalid.status(), "Invalid");
    let out = invalid.path("out");
    let ran = dmsnap!("export", invalid.cow, invalid.origin, out);
    assert_refused(ran);
    assert!(!out.exists(), "the refused export left something");
    assert_refused(dmsnap!("merge", invalid.cow, invalid.origin));
    assert_eq!(dmsnap!("check", invalid.cow, invalid.origin).status, 1);
}

#[track_caller]
fn assert_refused(ran: Ran) {
    let said = ran.failed();
    assert!(said.contains("invalid"), "{said}");
}

/// As many chunks as there is room for after the header and the one area; the next must fail.
fn fill(pair: &mut Pair, store: &str, guest: &mut Guest, random: &mut Random) {
    let (disks, name) = (pair.disks(guest), pair.name.clone());
    guest.line(format!("map {name} {disks} {store}"));
    pair.write_chunks(0..COW_CHUNKS - 2, guest, random);
    let beyond = 200 * CHUNK_BYTES;
    guest.line(format!("if put_direct /dev/zero /dev/mapper/{name} {beyond} 512"));
    guest.line("then echo 'there was room'; exit 1; fi");
    guest.line(format!("status {name} full"));
}
