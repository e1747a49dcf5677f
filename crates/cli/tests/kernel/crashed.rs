use crate::kernel::guest::{Guest, skipped};
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

const MARKER: &str = "far-enough";

/// Names and chunk sizes in bytes. They are merged at the same time.
const MERGES: [(&str, u64); 2] = [("small", 512), ("usual", 4 << 10)];

#[test]
fn dmsnap_finishes_a_merge_whose_machine_was_killed() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = MERGES
        .map(|(name, chunk_bytes)| Pair::create(name, chunk_bytes, 4 << 11, None, &mut random));
    let before = fill(&mut pairs, &mut random);

    // Whatever the other one has come to, the first is caught half-way.
    let first = before[0] / 4 + random.below(before[0] / 2);
    let mut guest = Guest::new();
    merge_slowly(&pairs, first * pairs[0].chunk_bytes / 512, &mut guest);
    let said = guest.crash(MARKER);

    let left = pairs.each_ref().map(Pair::exceptions);
    let told = format!("{before:?} exceptions, then {left:?}");
    assert!(0 < left[0] && left[0] <= first && first < before[0], "not caught: {told}");
    for pair in &pairs {
        let told = format!("{}: {told}", pair.name);
        assert_eq!(said.get(&pair.name, "snapshot"), sha256(&pair.snapshot), "{told}");
        pair.assert_exported(&told);
        pair.assert_merges(&told);
    }
}

fn fill(pairs: &mut [Pair; 2], random: &mut Random) -> [u64; 2] {
    let mut guest = Guest::new();
    for pair in &mut *pairs {
        let disks = pair.disks(&mut guest);
        guest.line(format!("map {} {disks}", pair.name));
        pair.write(To::Snapshot, 20, &mut guest, random);
        pair.write(To::Origin, 20, &mut guest, random);
        guest.line(format!("unmap {}", pair.name));
    }
    guest.run();
    pairs.each_ref().map(Pair::exceptions)
}

/// The kernel merges both, with COW devices so slow that a merge takes seconds, until the first
/// has only this many sectors of data left.
fn merge_slowly(pairs: &[Pair; 2], left_sectors: u64, guest: &mut Guest) {
    let disks = pairs.each_ref().map(|pair| pair.disks(guest));
    guest.line("/sbin/modprobe dm-delay");
    for (pair, disks) in pairs.iter().zip(&disks) {
        let (name, (origin, cow)) = (&pair.name, disks.split_once(' ').expect("two words"));
        guest.line(format!("map {name} {disks}"));
        guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
        guest.line(format!("unmap {name}"));
        guest.line(format!("slow {name}-cow {cow}"));
        guest.line(format!("merge {name} {origin} /dev/mapper/{name}-cow"));
    }
    guest.line(format!("until_left {} {left_sectors}", pairs[0].name));
    guest.line(format!("echo {MARKER}; sleep 60"));
}
