use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::process::Signal;

use crate::common;
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::merge::stop_merge;
use crate::kernel::pair::{Pair, sha256};
use crate::kernel::random::Random;

const CHUNK_BYTES: u64 = 4 << 10;
const ORIGIN_CHUNKS: u64 = 128;

/// Exceptions in slots 0 to 11, for every second chunk of the origin. Slot 12 is the first empty
/// one.
const LIVE: u64 = 12;

/// Slots after the empty ones that still look like exceptions, for chunks from `STRAY_OLD` on.
///
/// They are in another sector than those that a merge clears, so nothing but the care that is due
/// to them takes them away.
const STRAYS: Range<u64> = 32..36;
const STRAY_OLD: u64 = 64;

/// What the kernel writes into, to fill the gap.
const FRESH_OLD: u64 = 2 * LIVE;

/// A kernel that stopped in the middle of writing an area leaves slots after the first empty
/// one. It takes no notice of them, but keeps them, and when new exceptions have filled the gap
/// they are alive again: the snapshot shows chunks of another time.
#[test]
fn what_lay_behind_the_end_is_not_raised_by_a_kernel_once_dmsnap_has_written() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs =
        ["untouched", "interrupted", "killed", "merged"].map(|name| store(name, &mut random));
    let [_, interrupted, killed, merged] = &pairs;
    stop_merge(interrupted, Signal::INT, 4 + random.below(LIVE - 8));
    stop_merge(killed, Signal::KILL, 4 + random.below(LIVE - 8));
    dmsnap!("merge", merged.cow, merged.origin).ok();

    let mut guest = Guest::new();
    for pair in &mut pairs {
        fill_the_gap(pair, &mut guest, &mut random);
    }
    let said = guest.run();

    for pair in &pairs {
        let (name, expected) = (&pair.name, sha256(&pair.snapshot));
        assert_eq!(said.get(name, "snapshot-filled"), expected, "{name}: at once");
        assert_eq!(said.get(name, "again"), pair.status(), "{name}");
        if name == "untouched" {
            // The control: without dmsnap, this kernel does raise them.
            assert_ne!(said.get(name, "snapshot-again"), expected, "{name}: nothing was raised");
            assert_eq!(pair.exceptions(), STRAYS.end);
        } else {
            assert_eq!(said.get(name, "snapshot-again"), expected, "{name}: a stray is back");
            assert_eq!(pair.exceptions(), STRAYS.start);
            pair.assert_exported(name);
            pair.assert_merges(name);
        }
    }
}

/// A store by hand: in lock-step, with strays.
fn store(name: &str, random: &mut Random) -> Pair {
    let sectors = ORIGIN_CHUNKS * CHUNK_BYTES / 512;
    let mut pair = Pair::create(name, CHUNK_BYTES, sectors, None, random);
    let cow = File::options().write(true).open(&pair.cow).expect("the COW device is there");
    let put = |at: u64, bytes: &[u8]| cow.write_all_at(bytes, at).expect("it can be written");
    for slot in (0..LIVE).chain(STRAYS) {
        let live = slot < LIVE;
        let old = if live { 2 * slot } else { STRAY_OLD + slot };
        let (new, data) = (slot + 2, random.bytes(CHUNK_BYTES));
        put(CHUNK_BYTES + 16 * slot, &[old.to_le_bytes(), new.to_le_bytes()].concat());
        put(new * CHUNK_BYTES, &data);
        if live {
            common::write_at(&mut pair.snapshot, old * CHUNK_BYTES, &data);
        }
    }
    assert_eq!(pair.exceptions(), LIVE);
    pair
}

/// The kernel makes as many exceptions as reach the first stray, then opens the store anew.
fn fill_the_gap(pair: &mut Pair, guest: &mut Guest, random: &mut Random) {
    let fresh = STRAYS.start - pair.exceptions();
    let (disks, name) = (pair.disks(guest), pair.name.clone());
    guest.line(format!("map {name} {disks}"));
    pair.write_chunks(FRESH_OLD..FRESH_OLD + fresh, guest, random);
    guest.line(format!("content {name} snapshot-filled /dev/mapper/{name}"));
    guest.line(format!("unmap {name}"));
    guest.line(format!("map {name} {disks}"));
    guest.line(format!("content {name} snapshot-again /dev/mapper/{name}"));
    guest.line(format!("status {name} again"));
    guest.line(format!("unmap {name}"));
}
