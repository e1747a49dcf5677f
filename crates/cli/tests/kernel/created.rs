use crate::kernel::guest::{Guest, skipped};
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

/// Chunk sizes in bytes, and sectors of the origin: most end in the middle of a chunk.
const STORES: [(u64, u64); 5] = [
    (512, 4099),
    (4 << 10, 8195),
    (16 << 10, 8192 + 31),
    (64 << 10, 16384 + 1),
    (512 << 10, 16384),
];

#[test]
fn a_kernel_fills_a_created_store_and_dmsnap_reads_it() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut pairs = STORES.map(|(chunk_bytes, origin_sectors)| {
        Pair::create(&format!("c{chunk_bytes}"), chunk_bytes, origin_sectors, None, &mut random)
    });
    let empty = pairs.each_ref().map(Pair::status);
    let mut guest = Guest::new();
    for pair in &mut pairs {
        fill(pair, &mut guest, &mut random);
    }
    let said = guest.run();
    for (pair, empty) in pairs.iter().zip(empty) {
        let name = &pair.name;
        assert_eq!(said.get(name, "empty"), empty);
        assert_eq!(said.get(name, "filled"), pair.status());
        assert_eq!(said.get(name, "snapshot"), sha256(&pair.snapshot), "{name}: the model");
        assert_eq!(said.get(name, "origin"), sha256(&pair.current), "{name}: the model");
        pair.assert_exported(name);
        if pair.chunk_bytes <= 4 << 10 {
            assert!(pair.exceptions() > pair.chunk_bytes / 16, "{name}: only one area was used");
        }
        pair.assert_merges(name);
    }
}

/// Writes to the snapshot, the origin, and both in turn.
fn fill(pair: &mut Pair, guest: &mut Guest, random: &mut Random) {
    let disks = pair.disks(guest);
    let name = pair.name.clone();
    guest.line(format!("map {name} {disks}"));
    guest.line(format!("status {name} empty"));
    for _ in 0..5 {
        pair.write(To::Snapshot, 3, guest, random);
        pair.write(To::Origin, 3, guest, random);
    }
    guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
    guest.line(format!("content {name} origin /dev/mapper/{name}-origin"));
    guest.line(format!("status {name} filled"));
    guest.line(format!("unmap {name}"));
}
