use std::ops::Range;

use crate::common::{Dir, parsed, read};
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::random::Random;

/// The size of a store: a header, an area and room for ten exceptions, but not less than a kernel reads ahead.
fn store_bytes(chunk_bytes: u64) -> u64 {
    (12 * chunk_bytes).max(64 << 10)
}

/// Where a tag lies in its store.
const TAG: Range<usize> = 64..512;

/// What a kernel does with a store, after it has opened and written it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Merged,
    /// It fills, and stays as it is.
    Full,
    /// It fills, and is dropped.
    Dropped,
}

struct Tagged {
    name: String,
    chunk_bytes: u64,
    fate: Fate,
    /// How many exceptions it has room for.
    capacity: u64,
    /// Where it lies on the disk that all of them share.
    at: u64,
    tag: Vec<u8>,
}

/// 512 bytes, and every size from 4 KiB to 1 MiB.
fn chunk_sizes() -> impl Iterator<Item = u64> {
    [512].into_iter().chain((12..=20).map(|power| 1 << power))
}

/// A kernel opens a store with a tag, writes to it and to its origin, merges it or fills it: the tag stays as it
/// was, with every chunk size. Only a store that is dropped loses it, with its exceptions.
#[test]
fn a_kernel_leaves_the_tag_alone_but_in_a_store_that_it_drops() {
    if skipped() {
        return;
    }
    let (dir, mut random) = (Dir::new(), Random::new());
    let origin = dir.file("origin", &random.bytes(16 << 20));
    let (mut stores, mut image) = (Vec::new(), Vec::new());
    for chunk_bytes in chunk_sizes() {
        for fate in [Fate::Merged, Fate::Full, Fate::Dropped] {
            let name = format!("{fate:?}{chunk_bytes}").to_lowercase();
            let cow = dir.path(&name);
            let (chunk, size) = (chunk_bytes.to_string(), store_bytes(chunk_bytes).to_string());
            dmsnap!("create", "--base", origin, "--chunk-size", chunk, "--size", size, cow).ok();
            let info = parsed(&dmsnap!("info", cow, "--json").ok());
            let capacity = info["capacity_exceptions"].as_u64().expect("a number");
            let (at, bytes) = (image.len() as u64, read(&cow));
            let tag = bytes[TAG].to_vec();
            assert!(tag.starts_with(b"dmsnapT1"), "{name}");
            image.extend(bytes);
            stores.push(Tagged { name, chunk_bytes, fate, capacity, at, tag });
        }
    }
    let cows = dir.file("cows", &image);
    let mut guest = Guest::new();
    let (origin, disk) = (guest.disk(&origin), guest.disk(&cows));
    for store in &stores {
        live(store, &origin, &disk, &mut guest);
    }
    let said = guest.run();

    let after = read(&cows);
    for Tagged { name, fate, at, tag, .. } in &stores {
        let store = &after[usize::try_from(*at).expect("small")..];
        let found = &store[TAG];
        match fate {
            Fate::Merged | Fate::Full => assert!(found == tag, "{name}: another tag"),
            Fate::Dropped => {
                assert_eq!(store[4..8], [0; 4], "{name}: still valid");
                assert!(found == tag || found.iter().all(|byte| *byte == 0), "{name}: half a tag");
            }
        }
        match fate {
            Fate::Merged => assert!(said.get(name, "merged").contains('/'), "{name}: no numbers"),
            Fate::Full => assert_eq!(said.get(name, "full"), "Overflow"),
            Fate::Dropped => assert_eq!(said.get(name, "full"), "Invalid"),
        }
    }
}

/// What the kernel does with one store, in the guest's words.
fn live(store: &Tagged, origin: &str, disk: &str, guest: &mut Guest) {
    let Tagged { name, chunk_bytes, fate, capacity, at, .. } = store;
    let (first, sectors) = (at / 512, store_bytes(*chunk_bytes) / 512);
    guest.line(format!("dmsetup create {name}-cow --table \"0 {sectors} linear {disk} {first}\""));
    let cow = format!("/dev/mapper/{name}-cow");
    let kind = if *fate == Fate::Full { "PO" } else { "P" };
    guest.line(format!("map {name} {origin} {cow} {kind}"));
    let put = |to: &str, chunk: u64| {
        format!("put_direct {origin} /dev/mapper/{to} {} {chunk_bytes}", chunk * chunk_bytes)
    };
    guest.line(put(name, 1));
    guest.line(put(&format!("{name}-origin"), 3));
    guest.line(format!("unmap {name}; map {name} {origin} {cow} {kind}"));
    match fate {
        Fate::Merged => {
            guest.line(format!("unmap {name}; merge {name} {origin} {cow}; until_merged {name}"));
        }
        Fate::Full | Fate::Dropped => {
            for chunk in 4..capacity + 2 {
                guest.line(put(name, chunk));
            }
            guest.line(format!("if {}", put(name, capacity + 3)));
            guest.line("then echo 'there was room'; exit 1; fi");
            guest.line(format!("status {name} full; unmap {name}"));
        }
    }
    guest.line(format!("dmsetup remove {name}-cow"));
}
