use dmsnap::signature::{self, Found};
use futures_executor::block_on;

use crate::signatures::image::Image;
use crate::signatures::{assert_named, found};

const LEN: u64 = 8 << 20;

/// Where a superblock lies, in bytes.
fn place(version: &str, len: u64) -> u64 {
    match version {
        "1.0" => (len & !0xfff) - 0x2000,
        "1.1" => 0,
        "1.2" => 4096,
        _ => (len & !0xffff) - 0x1_0000,
    }
}

/// Puts a superblock of a device that begins at `start` and has `len` bytes.
pub(crate) fn superblock(image: &Image, version: &str, start: u64, len: u64) {
    let at = place(version, len);
    let mut block = vec![0; 256];
    let mut put = |at: usize, number: u32| block[at..at + 4].copy_from_slice(&number.to_le_bytes());
    put(0, 0xa92b_4efc);
    match version {
        "0.90" => {
            put(8, 90);
            put(32, u32::try_from(at >> 10).expect("small"));
        }
        _ => {
            let offset = u32::try_from(at / 512).expect("small");
            put(4, 1);
            put(144, offset);
            let sum = 0xa92b_4efc_u64 + 1 + u64::from(offset);
            put(216, u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).expect("small"));
        }
    }
    image.put(i64::try_from(start + at).expect("small"), &block);
}

fn member(image: &Image) -> Option<&'static str> {
    let len = image.len();
    block_on(signature::raid_member(image, 0..len)).map(|Found { kind, .. }| kind.words)
}

/// A partition of an MBR.
fn partition(image: &Image, start: u64, len: u64) {
    let mut entry = [0; 16];
    entry[4] = 0xfd;
    entry[8..12].copy_from_slice(&u32::try_from(start / 512).expect("small").to_le_bytes());
    entry[12..].copy_from_slice(&u32::try_from(len / 512).expect("small").to_le_bytes());
    image.put(446, &entry);
    image.put(510, b"\x55\xaa");
}

#[test]
fn a_member_of_every_version_is_known_whatever_its_length() {
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        for len in [LEN, LEN + 512, LEN + 4096, LEN + 65_536 + 1024] {
            let image = Image::new(len);
            superblock(&image, version, 0, len);
            assert_named(&image, "linux_raid_member");
            let words = member(&image).unwrap_or_else(|| panic!("{version}, {len} bytes"));
            assert!(words.contains(version), "{words}");
        }
    }
}

#[test]
fn what_an_array_holds_does_not_hide_that_it_is_a_member() {
    for version in ["0.90", "1.0"] {
        let image = Image::new(LEN);
        image.put(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
        superblock(&image, version, 0, LEN);
        assert_eq!(found(&image)[0].kind.name, "linux_raid_member");
        assert!(member(&image).is_some());
    }
}

#[test]
fn a_superblock_of_the_last_partition_is_not_that_of_the_disk() {
    for version in ["0.90", "1.0"] {
        let (image, start) = (Image::new(LEN), 1 << 20);
        partition(&image, start, LEN - start);
        superblock(&image, version, start, LEN - start);
        assert_eq!(image.blkid("TYPE"), "");
        assert_eq!(member(&image), None, "{version}");
        let inside = block_on(signature::raid_member(&image, start..LEN));
        assert!(inside.is_some(), "{version}: the partition is a member");
    }
}

#[test]
fn an_array_with_partitions_is_a_member_as_a_whole() {
    for version in ["0.90", "1.0"] {
        let image = Image::new(LEN);
        partition(&image, 1 << 20, 4 << 20);
        superblock(&image, version, 0, LEN);
        assert_eq!(image.blkid("TYPE"), "linux_raid_member");
        assert!(member(&image).is_some(), "{version}");
    }
}
