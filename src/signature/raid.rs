//! Members of arrays. Their superblocks may lie at the end, where they are easily overlooked: such a
//! member looks like what the array holds.

use std::ops::Range;

use super::partitions::covered;
use super::sample::Sample;
use super::table::{Class, Entry, Found, Place, end};
use crate::device::Device;

const MD: &[u8] = b"\xfc\x4e\x2b\xa9";
const MD_BIG_ENDIAN: &[u8] = b"\xa9\x2b\x4e\xfc";
const MD_RESERVED_BYTES: u64 = 64 << 10;

/// Where version 0.90 has its superblock, and version 1.0.
const LAST_64K: Place = Place::End { align: MD_RESERVED_BYTES, back: MD_RESERVED_BYTES };
const LAST_8K: Place = Place::End { align: 4096, back: 8192 };

const fn md(words: &'static str, magics: &'static [(Place, &'static [u8])]) -> Entry {
    Entry::new(Class::Raid, "linux_raid_member", words, magics)
}

const fn firmware(
    name: &'static str,
    words: &'static str,
    magics: &'static [(Place, &'static [u8])],
) -> Entry {
    Entry::new(Class::Raid, name, words, magics)
}

pub(super) static TABLE: &[Entry] = &[
    md("a member of an md RAID (metadata 1.1)", &[(Place::Start(0), MD)]).and(version_1),
    md("a member of an md RAID (metadata 1.2)", &[(Place::Start(4096), MD)]).and(version_1),
    md("a member of an md RAID (metadata 1.0)", &[(LAST_8K, MD)]).and(version_1_0),
    md("a member of an md RAID (metadata 0.90)", &[(LAST_64K, MD), (LAST_64K, MD_BIG_ENDIAN)])
        .and(version_0_90),
    firmware(
        "ddf_raid_member",
        "a member of a DDF RAID",
        &[(end(512), b"\xde\x11\xde\x11"), (end(257 * 512), b"\xde\x11\xde\x11")],
    ),
    firmware(
        "isw_raid_member",
        "a member of an Intel Matrix RAID",
        &[
            (end(1024), b"Intel Raid ISM Cfg Sig. "),
            (Place::End { align: 4096, back: 8192 }, b"Intel Raid ISM Cfg Sig. "),
        ],
    ),
    firmware("lsi_mega_raid_member", "a member of an LSI RAID", &[(end(512), b"$XIDE$")]),
    firmware("nvidia_raid_member", "a member of an NVIDIA RAID", &[(end(1024), b"NVIDIA")])
        // The length of its superblock, in words.
        .and(|sample, at| Some(sample.le32(at + 8)? == 30)),
    firmware(
        "promise_fasttrack_raid_member",
        "a member of a Promise RAID",
        &[
            (end(63 * 512), PROMISE),
            (end(255 * 512), PROMISE),
            (end(256 * 512), PROMISE),
            (end(16 * 512), PROMISE),
            (end(399 * 512), PROMISE),
            (end(591 * 512), PROMISE),
            (end(675 * 512), PROMISE),
            (end(735 * 512), PROMISE),
            (end(911 * 512), PROMISE),
            (end(951 * 512), PROMISE),
            (end(974 * 512), PROMISE),
            (end(991 * 512), PROMISE),
            (end(3087 * 512), PROMISE),
        ],
    ),
    firmware("hpt45x_raid_member", "a member of a HighPoint RAID", HIGHPOINT_45X),
    firmware(
        "hpt37x_raid_member",
        "a member of a HighPoint RAID",
        &[(Place::Start(4640), b"\xf0\x16\x78\x5a"), (Place::Start(4640), b"\xfd\x16\x78\x5a")],
    ),
    // The magics of the superblock, and of the configuration in it.
    firmware(
        "adaptec_raid_member",
        "a member of an Adaptec RAID",
        &[(end(512), b"\x37\xfc\x4d\x1e")],
    )
    .and(|sample, at| Some(sample.has(at + 256, b"DPTM"))),
    firmware("jmicron_raid_member", "a member of a JMicron RAID", &[(end(512), b"JM")]).and(
        |sample, at| {
            let words = sample.get(at, 128)?.chunks_exact(2);
            let sum = words
                .fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])));
            Some(sum == 0 || sum == 1)
        },
    ),
    firmware("silicon_medley_raid_member", "a member of a Silicon Image RAID", SILICON).and(
        |sample, at| {
            // Up to its own place, the words add up to nothing together with the sum.
            let start = at.checked_sub(0x60)?;
            let words = sample.get(start, 0x140)?.chunks_exact(2);
            let sum = words
                .fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])));
            Some(sum == 0)
        },
    ),
    firmware("via_raid_member", "a member of a VIA RAID", &[(end(512), b"\x55\xaa")]).and(
        |sample, at| {
            let bytes = sample.get(at, 51)?;
            let sum = bytes[..50].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            Some(bytes[2] <= 2 && sum == bytes[50])
        },
    ),
];

const PROMISE: &[u8] = b"Promise Technology, Inc.";
const HIGHPOINT_45X: &[(Place, &[u8])] =
    &[(end(11 * 512), b"\xf3\x16\x78\x5a"), (end(11 * 512), b"\xfd\x16\x78\x5a")];
const SILICON: &[(Place, &[u8])] = &[(end(512 - 0x60), b"\x00\x00\x00\x2f")];

/// At the beginning of the device nothing else can be meant.
fn version_1(sample: &Sample, at: u64) -> Option<bool> {
    Some(sample.le32(at + 4)? == 1)
}

/// At the end it may be that of the last partition, whose superblock says another place.
fn version_1_0(sample: &Sample, at: u64) -> Option<bool> {
    let is_version_1 = sample.le32(at + 4)? == 1;
    let says_so = sample.le64(at + 144)? == at / 512;
    Some(is_version_1 && (says_so || !covered(sample, at..at + 4096)))
}

/// So may this one, which says how much lies before it.
fn version_0_90(sample: &Sample, at: u64) -> Option<bool> {
    let number = |offset| match sample.has(at, MD) {
        true => sample.le32(at + offset),
        false => sample.be32(at + offset),
    };
    let size_bytes = u64::from(number(32)?) << 10;
    let start = at.checked_sub(size_bytes);
    let member = start.filter(|_| number(4) == Some(0));
    Some(member.is_some_and(|start| !covered(sample, start..at + MD_RESERVED_BYTES)))
}

/// Whether the part `within` of a device is one disk of a RAID, as a whole. Writing to it alone would make
/// it differ from the others. What cannot be read is not known.
pub async fn raid_member<D: Device>(device: &D, within: Range<u64>) -> Option<Found> {
    const HEAD_BYTES: u64 = 64 << 10;
    const TAIL_BYTES: u64 = 192 << 10;
    let len_bytes = within.end.saturating_sub(within.start);
    let ranges = [0..HEAD_BYTES, len_bytes.saturating_sub(TAIL_BYTES)..len_bytes];
    let sample = Sample::of_ranges(device, within, ranges).await;
    TABLE.iter().find_map(|entry| Some(Found { kind: &entry.kind, at: entry.find(&sample)? }))
}
