use std::ops::Range;

use super::sample::Sample;
use super::table::{Class, Entry, Place, end};

const GPT: &[u8] = b"EFI PART";

pub(super) static TABLE: &[Entry] = &[
    Entry::new(
        Class::PartitionTable,
        "gpt",
        "a partition table (GPT)",
        &[
            (Place::Start(512), GPT),
            (Place::Start(4096), GPT),
            (end(512), GPT),
            (Place::End { align: 4096, back: 4096 }, GPT),
        ],
    ),
    Entry::new(
        Class::PartitionTable,
        "dos",
        "a partition table (MBR)",
        &[(Place::Start(510), b"\x55\xaa")],
    )
    .and(|sample, _| Some(!is_boot_sector(sample)? && !entries(sample)?.is_empty())),
];

/// File systems that begin with a boot sector end it as a partition table does.
fn is_boot_sector(sample: &Sample) -> Option<bool> {
    let names: [(u64, &[u8]); 5] =
        [(3, b"NTFS    "), (3, b"EXFAT   "), (3, b"-FVE-FS-"), (54, b"FAT"), (82, b"FAT32")];
    Some(names.into_iter().any(|(at, name)| sample.has(at, name)))
}

/// Where the partitions of an MBR lie. None if one of the four entries cannot be one.
fn entries(sample: &Sample) -> Option<Vec<Range<u64>>> {
    let mut found = Vec::new();
    for at in [446, 462, 478, 494] {
        let (flag, kind) = (sample.u8(at)?, sample.u8(at + 4)?);
        if flag & 0x7f != 0 {
            return Some(Vec::new());
        }
        let start = u64::from(sample.le32(at + 8)?) * 512;
        let len = u64::from(sample.le32(at + 12)?) * 512;
        if kind != 0 && len > 0 {
            found.push(start..start + len);
        }
    }
    Some(found)
}

/// Where the partitions of a GPT lie, in sectors of `sector` bytes.
fn gpt_entries(sample: &Sample, sector: u64) -> Option<Vec<Range<u64>>> {
    const MOST: u32 = 1024;
    if !sample.has(sector, GPT) {
        return None;
    }
    let first = sample.le64(sector + 72)?.checked_mul(sector)?;
    let (count, size) = (sample.le32(sector + 80)?.min(MOST), sample.le32(sector + 84)?);
    let entry = |n: u32| {
        let at = first.checked_add(u64::from(n) * u64::from(size))?;
        let is_used = sample.get(at, 16)?.iter().any(|byte| *byte != 0);
        let start = sample.le64(at + 32)?.checked_mul(sector)?;
        let end = sample.le64(at + 40)?.checked_add(1)?.checked_mul(sector)?;
        Some(start..end).filter(|_| is_used)
    };
    Some((0..count).filter_map(entry).collect())
}

/// Whether a range lies in one partition.
pub(super) fn covered(sample: &Sample, range: Range<u64>) -> bool {
    let gpt = || gpt_entries(sample, 512).or_else(|| gpt_entries(sample, 4096));
    let mbr = || match sample.has(510, b"\x55\xaa") && is_boot_sector(sample) == Some(false) {
        true => entries(sample),
        false => None,
    };
    let partitions = gpt().or_else(mbr).unwrap_or_default();
    partitions.iter().any(|it| it.start <= range.start && range.end <= it.end)
}
