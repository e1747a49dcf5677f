use rustix::process::Signal;

use crate::common::read;
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::merge::stop_merge_with;
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

/// The names, and chunk sizes in bytes.
const PAIRS: [(&str, u64); 2] = [("small", 512), ("usual", 4 << 10)];

#[test]
fn a_kernel_reads_the_old_origin_of_a_killed_merge_and_finishes_it() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = PAIRS
        .map(|(name, chunk_bytes)| Pair::create(name, chunk_bytes, 4 << 11, None, &mut random));
    fill(&mut pairs, &mut random);
    for pair in &pairs {
        let way_back = pair.path("undo").display().to_string();
        let before = pair.exceptions();
        let target = before / 4 + random.below(before / 2);
        stop_merge_with(pair, &["--undo", &way_back], Signal::KILL, target);
    }

    // Both stores over the half merged origin; then the kernel merges the rest, which the way back survives.
    let mut guest = Guest::new();
    for pair in &pairs {
        let disks = pair.disks(&mut guest);
        let origin = disks.split(' ').next().expect("the first word").to_owned();
        let undo = guest.disk(&pair.path("undo"));
        let name = &pair.name;
        for (what, pair_of) in [("undo", format!("{origin} {undo}")), ("snapshot", disks.clone())] {
            guest.line(format!("map {name} {pair_of}"));
            guest.line(format!("content {name} {what} /dev/mapper/{name}"));
            guest.line(format!("unmap {name}"));
        }
        guest.line(format!("merge {name} {disks}"));
        guest.line(format!("until_merged {name}"));
        guest.line(format!("map {name} {origin} {undo}"));
        guest.line(format!("content {name} undo-merged /dev/mapper/{name}"));
        guest.line(format!("unmap {name}"));
    }
    let said = guest.run();
    for pair in &pairs {
        let name = &pair.name;
        assert_eq!(said.get(name, "undo"), sha256(&pair.current), "{name}: another old origin");
        assert_eq!(said.get(name, "snapshot"), sha256(&pair.snapshot), "{name}");
        assert_eq!(said.get(name, "undo-merged"), sha256(&pair.current), "{name}");
        pair.assert_merged(&format!("{name}, finished by the kernel"));
    }
    take_back(&pairs);
}

/// The kernel writes enough for several areas; what it leaves on the origin is the old one.
fn fill(pairs: &mut [Pair], random: &mut Random) {
    let mut guest = Guest::new();
    for pair in &mut *pairs {
        let disks = pair.disks(&mut guest);
        guest.line(format!("map {} {disks}", pair.name));
        pair.write(To::Snapshot, 30, &mut guest, random);
        pair.write(To::Origin, 15, &mut guest, random);
        guest.line(format!("unmap {}", pair.name));
    }
    guest.run();
    for pair in pairs {
        assert!(read(&pair.origin) == pair.current, "{}: the origin", pair.name);
    }
}

/// dmsnap takes what the kernel has finished back, and the kernel reads the snapshot again.
fn take_back(pairs: &[Pair]) {
    for pair in pairs {
        dmsnap!("undo", pair.cow, pair.origin, pair.path("undo")).ok();
        assert!(read(&pair.origin) == pair.current, "{}: the old origin", pair.name);
        pair.assert_exported(&format!("{}, taken back", pair.name));
    }
    let mut guest = Guest::new();
    for pair in pairs {
        let disks = pair.disks(&mut guest);
        let name = &pair.name;
        guest.line(format!("map {name} {disks}"));
        guest.line(format!("status {name} status"));
        guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
        guest.line(format!("unmap {name}"));
    }
    let said = guest.run();
    for pair in pairs {
        assert_eq!(said.get(&pair.name, "snapshot"), sha256(&pair.snapshot), "{}", pair.name);
        assert_eq!(said.get(&pair.name, "status"), pair.status());
    }
}
