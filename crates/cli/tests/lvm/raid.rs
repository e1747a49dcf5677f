//! A physical volume on a disk of an array looks like one on the array, if the superblock lies at the
//! end. It is listed, and never written.

use std::fs;

use crate::lvm::samples::sample;

/// A superblock of version 1.0, and the place of one for a device of `len` bytes.
fn superblock(len: usize) -> (usize, Vec<u8>) {
    let at = (len & !0xfff) - 0x2000;
    let mut block = vec![0; 256];
    block[..8].copy_from_slice(b"\xfc\x4e\x2b\xa9\x01\0\0\0");
    block[144..152].copy_from_slice(&(at as u64 / 512).to_le_bytes());
    (at, block)
}

/// Puts one where a device of `len` bytes begins at `start`.
fn make_member(path: &std::path::Path, start: usize, len: Option<usize>) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("read");
    let len = len.unwrap_or(bytes.len() - start);
    let (at, block) = superblock(len);
    bytes[start + at..start + at + block.len()].copy_from_slice(&block);
    fs::write(path, &bytes).expect("write");
    bytes
}

#[test]
fn a_volume_group_on_a_disk_of_an_array_is_listed_and_never_written() {
    let sample = sample("one-pv");
    let before = make_member(&sample.images[0], 0, None);
    let (snapshot, _) = sample.snapshots().remove(0);
    assert_eq!(sample.lvm("list", &[]).status, 0);
    for options in [&[][..], &["--dry-run"], &["--no-metadata"]] {
        let volume = sample.volume(&snapshot);
        let line = sample.lvm("merge", &[&[&*volume], options].concat()).failed();
        assert!(line.contains("md RAID (metadata 1.0)"), "{line}");
        assert!(line.contains("mdadm --assemble"), "{line}");
    }
    assert!(fs::read(&sample.images[0]).expect("read") == before, "written to");
}

#[test]
fn so_is_one_on_a_partition_of_an_array() {
    for name in ["mbr", "gpt"] {
        let sample = sample(name);
        let image = fs::read(&sample.images[0]).expect("read");
        let found = |window: &[u8]| window.starts_with(b"LABELONE");
        let label = image.chunks(512).position(found).expect("a label") * 512;
        // The label lies in the second sector, and the partition reaches to some end.
        let start = label - 512;
        let ends: Vec<usize> = (start + (1 << 20)..=image.len()).step_by(512).collect();
        let len = partition_len(&image, start).unwrap_or_else(|| panic!("{name}: {ends:?}"));
        let before = make_member(&sample.images[0], start, Some(len));
        let (snapshot, _) = sample.snapshots().remove(0);
        let line = sample.lvm("merge", &[&*sample.volume(&snapshot)]).failed();
        assert!(line.contains("partition") && line.contains("md RAID"), "{line}");
        assert!(fs::read(&sample.images[0]).expect("read") == before, "written to");
    }
}

/// As the partition table says, which is an MBR or a GPT.
fn partition_len(image: &[u8], start: usize) -> Option<usize> {
    let number = |at: usize, len: usize| {
        let bytes = &image[at..at + len];
        bytes.iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte))
    };
    let sector = start / 512;
    if &image[512..520] == b"EFI PART" {
        let entries = number(512 + 72, 8) * 512;
        let entry = (0..128).map(|n| entries + n * 128).find(|at| number(at + 32, 8) == sector)?;
        return Some((number(entry + 40, 8) + 1 - sector) * 512);
    }
    // A logical partition lies in a table of its own.
    let tables =
        (0..image.len()).step_by(512).filter(|at| image[at + 510..at + 512] == [0x55, 0xaa]);
    let mut entries = tables.flat_map(|table| (0..4).map(move |n| (table, table + 446 + n * 16)));
    let (_, entry) = entries.find(|(table, at)| {
        let first = number(at + 8, 4);
        image[at + 4] == 0x8e && (first == sector || first + table / 512 == sector)
    })?;
    Some(number(entry + 12, 4) * 512)
}
