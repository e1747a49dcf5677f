//! What lies on a device is named as `blkid` names it, kind by kind.

mod image; // a file as a device
mod by_hand; // superblocks, byte by byte
mod made; // by the tools that are there
mod members; // disks of md arrays

use std::collections::BTreeSet;

use dmsnap::signature::{self, Class, Found};
use futures_executor::block_on;

use image::Image;

fn found(image: &Image) -> Vec<Found> {
    block_on(signature::look(image)).expect("readable")
}

/// The first name, and that `blkid` says the same.
#[track_caller]
fn assert_named(image: &Image, name: &str) {
    let found = found(image);
    let first = found.first().map(|it| it.kind.name);
    assert_eq!(first, Some(name), "{found:?}");
    let tag = match found[0].kind.class {
        Class::PartitionTable => "PTTYPE",
        _ => "TYPE",
    };
    assert_eq!(image.blkid(tag), name);
}

#[test]
fn every_kind_made_by_hand_is_named_as_blkid_does() {
    let (mut known, mut wrong) = (BTreeSet::new(), Vec::new());
    for case in by_hand::cases() {
        let image = Image::new(case.len_bytes);
        (case.make)(&image);
        let found = found(&image);
        let first = found.first().map(|it| it.kind.name);
        let said = image.blkid("TYPE");
        let may_miss = case.checksummed && said.is_empty();
        if first != Some(case.name) || said != case.name && !may_miss {
            wrong.push(format!("{}: found {found:?}, blkid says `{said}`", case.what));
        }
        known.insert(case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let by_tools = made::NAMES.into_iter().chain(by_hand::UNKNOWN_TO_BLKID.map(|(name, ..)| name));
    known.extend(by_tools);
    let missing: Vec<_> = signature::kinds().filter(|kind| !known.contains(kind.name)).collect();
    assert!(missing.is_empty(), "no test makes {missing:?}");
}

#[test]
fn formats_of_images_and_compressed_files_are_named() {
    for (name, at, magic) in by_hand::UNKNOWN_TO_BLKID {
        let image = Image::new(8 << 20);
        image.put(at, magic);
        let found = found(&image);
        assert_eq!(found.first().map(|it| it.kind.name), Some(name), "{found:?}");
        let packed = block_on(signature::packed(&image));
        assert_eq!(packed.map(|it| it.kind.name), Some(name));
    }
}

#[test]
fn nothing_is_found_where_nothing_lies() {
    for len in [0, 1, 511, 512, 4096, 5000, 70_000, 1 << 20, 3 << 20, (64 << 20) + 77] {
        let image = Image::new(len);
        assert_eq!(found(&image), [], "{len} zeroes");
        image.fill(0x55);
        assert_eq!(found(&image), [], "{len} bytes 55");
        image.fill(0xff);
        assert_eq!(found(&image), [], "{len} bytes ff");
    }
}
