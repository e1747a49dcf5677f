use rustix::process::Signal;

use crate::kernel::guest::{Guest, skipped};
use crate::kernel::merge::stop_merge;
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

/// The names, the signal that stops each merge, and chunk sizes in bytes.
const MERGES: [(&str, Signal, u64); 2] =
    [("interrupted", Signal::INT, 4 << 10), ("killed", Signal::KILL, 512)];

#[test]
fn a_kernel_opens_refills_and_finishes_what_a_stopped_merge_left() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = MERGES
        .map(|(name, _, chunk_bytes)| Pair::create(name, chunk_bytes, 4 << 11, None, &mut random));
    fill(&mut pairs, &mut random);
    let left = stop(&pairs, &mut random);

    let stopped = pairs.each_ref().map(|pair| (pair.status(), sha256(&pair.snapshot)));
    let mut guest = Guest::new();
    let twins = pairs.each_mut().map(|pair| refill_and_finish(pair, &mut guest, &mut random));
    let said = guest.run();

    for (index, (pair, twin)) in pairs.iter().zip(&twins).enumerate() {
        let name = &pair.name;
        let (status, snapshot) = &stopped[index];
        assert_eq!(said.get(name, "stopped"), status);
        assert_eq!(said.get(name, "snapshot-stopped"), snapshot, "{name}: another snapshot");
        assert_eq!(said.get(name, "snapshot-refilled"), sha256(&pair.snapshot), "{name}");
        assert_eq!(said.get(name, "origin-merged"), sha256(&pair.snapshot), "{name}");
        assert_eq!(said.get(name, "merged"), pair.status());
        pair.assert_merged(&format!("{name}, finished by the kernel"));

        assert_eq!(said.get(name, "refilled"), twin.status());
        assert!(twin.exceptions() > left[index], "{name}: no chunk was used again");
        twin.assert_exported(&format!("{name}, refilled by the kernel"));
        twin.assert_merges(&format!("{name}, refilled by the kernel"));
    }
}

/// The kernel writes enough for several areas.
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
        assert!(pair.exceptions() > pair.chunk_bytes / 16, "{}: only one area", pair.name);
    }
}

/// dmsnap merges until somewhere between a quarter and three quarters are left.
fn stop(pairs: &[Pair; 2], random: &mut Random) -> [u64; 2] {
    let mut left = [0; 2];
    for ((pair, (_, signal, _)), left) in pairs.iter().zip(MERGES).zip(&mut left) {
        let before = pair.exceptions();
        *left = stop_merge(pair, signal, before / 4 + random.below(before / 2));
        pair.assert_exported(&pair.name);
    }
    left
}

/// The kernel opens the pair as a plain snapshot and writes anew, then both devices are copied to
/// a twin, then the kernel merges.
fn refill_and_finish(pair: &mut Pair, guest: &mut Guest, random: &mut Random) -> Pair {
    let disks = pair.disks(guest);
    let name = pair.name.clone();
    guest.line(format!("map {name} {disks}"));
    guest.line(format!("status {name} stopped"));
    guest.line(format!("content {name} snapshot-stopped /dev/mapper/{name}"));
    pair.write(To::Snapshot, 8, guest, random);
    pair.write(To::Origin, 8, guest, random);
    guest.line(format!("content {name} snapshot-refilled /dev/mapper/{name}"));
    guest.line(format!("status {name} refilled"));
    guest.line(format!("unmap {name}"));
    let twin = pair.twin();
    let twin_disks = twin.disks(guest);
    guest.line(format!("copy {disks} {twin_disks}"));
    guest.line(format!("merge {name} {disks}"));
    guest.line(format!("until_merged {name}"));
    let origin = disks.split(' ').next().expect("the first word");
    guest.line(format!("content {name} origin-merged {origin}"));
    twin
}
