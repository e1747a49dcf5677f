//! PVs behind partition tables that sfdisk and fdisk wrote.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{assemble, content, indices, sample, scan};
use dmsnap_lvm::{Disk, DiskProblem, DiskScan, TableError, TableKind};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

/// An empty disk with a table by sfdisk.
fn disk(mib: usize, script: &str) -> Vec<u8> {
    written_by(&["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"], mib, script)
}

/// An empty disk after a run of that command, which gets `words` as input and the disk's name as argument.
fn written_by(command: &[&str], mib: usize, words: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().set_len((mib * MIB) as u64).expect("it has room");
    let mut running = Command::new(format!("/usr/sbin/{}", command[0]))
        .args(&command[1..])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs: it is in package fdisk");
    let mut stdin = running.stdin.take().expect("piped");
    stdin.write_all(words.as_bytes()).expect("it listens");
    drop(stdin);
    assert!(running.wait().expect("it ends").success(), "{words}");
    std::fs::read(file.path()).expect("readable")
}

/// Puts the PV of a sample onto a disk.
fn put_pv(disk: &mut [u8], at: usize) {
    let pv = &sample("one-pv").images()[0];
    disk[at..at + pv.len()].copy_from_slice(pv);
}

/// Number, start and end of each partition, in MiB.
fn places(disk: &Disk) -> Vec<(u32, u64, u64)> {
    let mib = MIB as u64;
    let place = |found: &dmsnap_lvm::Partition| {
        let range = found.place.range().expect("it is on the disk");
        (found.number, range.start / mib, range.end / mib)
    };
    disk.partitions.iter().map(place).collect()
}

const LOGICAL: &str = "label: dos
start=2048, size=1MiB, type=83
start=4096, size=1MiB, type=82
start=8192, type=5
start=10240, size=1MiB, type=83
start=14336, size=1MiB, type=83
start=18432, size=7MiB, type=8e
";

#[test]
fn a_pv_in_a_logical_partition_is_found() {
    let mut image = disk(32, LOGICAL);
    put_pv(&mut image, 9 * MIB);
    let found = scan(&image);
    assert_eq!((found.table, &found.problems[..]), (Some(TableKind::Mbr), &[][..]));
    assert_eq!(places(&found), [(1, 1, 2), (2, 2, 3), (5, 5, 6), (6, 7, 8), (7, 9, 16)]);
    assert_eq!((found.pvs.len(), found.pvs[0].partition), (1, Some(7)));
    let image = [image];
    let group = assemble(&image).groups.pop().expect("one");
    let plain = sample("one-pv").images();
    let expected = content(&crate::common::group(&plain), &plain, "root");
    assert!(content(&group, &image, "root") == expected);
}

const GPT: &str = "label: gpt
start=2048, size=1MiB
start=4096, size=7MiB, type=lvm
";

#[test]
fn the_copy_of_a_guid_partition_table_will_do() {
    let mut image = disk(16, GPT);
    put_pv(&mut image, 2 * MIB);
    assert_eq!(places(&scan(&image)), [(1, 1, 2), (2, 2, 9)]);
    // The header, or one of its entries, is damaged.
    for at in [512 + 40, 1024 + 3] {
        let mut image = image.clone();
        image[at] ^= 1;
        let found = scan(&image);
        assert_eq!((&found.problems[..], found.pvs.len()), (&[][..], 1), "{at}");
        assert_eq!(places(&found), [(1, 1, 2), (2, 2, 9)]);
        // And the copy too.
        let end = image.len();
        image[end - 512 + 40] ^= 1;
        let found = scan(&image);
        assert!(
            matches!(found.problems[..], [DiskProblem::Table(TableError::Gpt { .. })]),
            "{:?}",
            found.problems
        );
    }
}

#[test]
fn a_table_in_sectors_of_4096_bytes_is_read() {
    let words = "g\nn\n1\n256\n+1M\nn\n2\n512\n+7M\nw\n";
    let mut image = written_by(&["fdisk", "-b", "4096"], 16, words);
    assert_eq!(&image[4096..4104], b"EFI PART", "fdisk took the sector size");
    put_pv(&mut image, 2 * MIB);
    let found = scan(&image);
    assert_eq!((places(&found), found.pvs.len()), (vec![(1, 1, 2), (2, 2, 9)], 1));
}

/// Links of a chain, each with the one that comes next, in sectors.
fn set_links(image: &mut [u8], links: &[(u32, Option<u32>)]) {
    for (link, next) in links {
        let mut entry = [0; 16];
        if let Some(next) = next {
            entry[4] = 5;
            entry[8..12].copy_from_slice(&u32::to_le_bytes(next - 8192));
            entry[12..].copy_from_slice(&u32::to_le_bytes(4096));
        }
        let at = *link as usize * 512 + 462;
        image[at..at + 16].copy_from_slice(&entry);
    }
}

/// What fdisk calls "not in disk order": the second of three was removed and made anew.
#[test]
fn a_chain_of_logical_partitions_may_lead_back() {
    let mut image = disk(32, LOGICAL);
    put_pv(&mut image, 9 * MIB);
    set_links(&mut image, &[(8192, Some(16384)), (16384, Some(12288)), (12288, None)]);
    let found = scan(&image);
    assert_eq!((&found.problems[..], found.pvs.len()), (&[][..], 1));
    assert_eq!(places(&found), [(1, 1, 2), (2, 2, 3), (5, 5, 6), (6, 9, 16), (7, 7, 8)]);
    set_links(&mut image, &[(12288, Some(16384))]);
    let found = scan(&image);
    assert_eq!(
        found.problems,
        [DiskProblem::Table(TableError::Chain { from: 12288, to: 16384 })],
        "a true circle"
    );
    assert_eq!((places(&found).len(), found.pvs.len()), (5, 1), "and what was found before it");
}

/// LVM: a disk with a partition table is not a PV, whatever was left of one. Seen with `pvs` on a loop
/// device that takes partitions.
#[test]
fn a_label_below_a_partition_table_counts_for_nothing() {
    let plain = sample("one-pv").images().remove(0);
    let front = disk(8, "label: dos\nstart=2048, size=1MiB, type=83\n");
    let covered = |change: &dyn Fn(&mut [u8])| {
        let mut image = plain.clone();
        image[440..512].copy_from_slice(&front[440..512]);
        change(&mut image);
        let found = scan(&image);
        assert_eq!(found.problems, []);
        (found.pvs.len(), found.covered.is_some(), found.partitions.len())
    };
    assert_eq!(covered(&|_| {}), (0, true, 1));
    assert_eq!(covered(&|image| image[450] = 0), (0, true, 0), "a partition of no type");
    assert_eq!(covered(&|image| image[446..462].fill(0)), (1, false, 0), "an empty table");
    assert_eq!(covered(&|image| image[446] = 0x13), (1, false, 0), "no table at all");
    assert_eq!(covered(&|image| image[512 + 40] ^= 1), (0, false, 1), "a damaged label as well");
}

#[test]
fn a_chain_of_logical_partitions_that_leads_back_ends() {
    let mut image = disk(32, LOGICAL);
    // The second link: its own next one is itself, then the first one.
    let second = 12288 * 512;
    for next in [12288 - 8192, 0] {
        image[second + 462 + 8..second + 462 + 12].copy_from_slice(&u32::to_le_bytes(next));
        let found = scan(&image);
        let [DiskProblem::Table(TableError::Chain { from: 12288, to })] = found.problems[..] else {
            panic!("{:?}", found.problems)
        };
        assert_eq!(to, 8192 + u64::from(next));
    }
}

#[test]
fn an_image_that_is_cut_short_in_a_partition_is_read() {
    let mut image = disk(16, "label: dos\nstart=4096, size=7MiB, type=8e\n");
    put_pv(&mut image, 2 * MIB);
    image.truncate(7 * MIB);
    let found = scan(&image);
    assert_eq!((places(&found), found.pvs.len()), (vec![(1, 2, 7)], 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Also where the checksums fit: the library is only given what was checked.
    #[test]
    fn any_damage_to_a_table_is_survived(
        damage in prop::collection::vec((0..92_usize, any::<u8>()), 1..6),
        entries in prop::collection::vec((0..16384_usize, any::<u8>()), 0..4),
        logical in prop::collection::vec((0..66_usize, 0..4_usize, any::<u8>()), 0..8),
    ) {
        static TABLES: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
        let [gpt, mbr] = TABLES.get_or_init(|| [disk(16, GPT), disk(32, LOGICAL)]);
        let mut front = gpt[..32768].to_owned();
        for (at, byte) in damage {
            front[512 + at] = byte;
        }
        for (at, byte) in entries {
            front[1024 + at] = byte;
        }
        let sum = crc32fast::hash(&front[1024..1024 + 16384]);
        front[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
        front[512 + 16..512 + 20].fill(0);
        let sum = crc32fast::hash(&front[512..512 + 92]);
        front[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
        check(gpt, &[(0, front)]);
        let changes = logical.into_iter().map(|(at, link, byte)| {
            ([0, 8192, 12288, 16384][link] * 512 + 446 + at, vec![byte])
        });
        check(mbr, &changes.collect::<Vec<_>>());
    }
}

/// Scans a disk with bytes put over others.
fn check(disk: &[u8], changes: &[(usize, Vec<u8>)]) {
    let mut scan = DiskScan::new(disk.len() as u64);
    while let Some(range) = scan.needs() {
        let range = indices(range);
        let mut bytes = disk[range.clone()].to_owned();
        for (at, change) in changes {
            for (at, byte) in (*at..).zip(change).filter(|(at, _)| range.contains(at)) {
                bytes[at - range.start] = *byte;
            }
        }
        scan.give(&bytes);
    }
    for partition in scan.finish().partitions {
        let range = partition.place.range().expect("it ends somewhere");
        assert!(range.start < range.end && range.end <= disk.len() as u64);
    }
}
