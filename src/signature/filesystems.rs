//! File systems and swap space.

use super::sample::Sample;
use super::table::{Class, Entry, Place};

const fn fs(
    name: &'static str,
    words: &'static str,
    magics: &'static [(Place, &'static [u8])],
) -> Entry {
    Entry::new(Class::FileSystem, name, words, magics)
}

const K: u64 = 1024;

const EXT: &[(Place, &[u8])] = &[(Place::Start(1080), b"\x53\xef")];
const GFS: &[(Place, &[u8])] = &[(Place::Start(64 * K), b"\x01\x16\x19\x70")];
const SQUASHFS: &[(Place, &[u8])] = &[(Place::Start(0), b"hsqs"), (Place::Start(0), b"sqsh")];

pub(super) static TABLE: &[Entry] = &[
    fs("jbd", "an external journal of ext4", EXT)
        .and(|sample, at| Some(ext(sample, at)? == Ext::Journal)),
    fs("ext4", "an ext4 file system", EXT).and(|sample, at| Some(ext(sample, at)? == Ext::Four)),
    fs("ext3", "an ext3 file system", EXT).and(|sample, at| Some(ext(sample, at)? == Ext::Three)),
    fs("ext2", "an ext2 file system", EXT).and(|sample, at| Some(ext(sample, at)? == Ext::Two)),
    fs("xfs", "an XFS file system", &[(Place::Start(0), b"XFSB")]),
    fs("exfs", "an EXFS file system", &[(Place::Start(0), b"EXFS")]),
    fs("btrfs", "a btrfs file system", &[(Place::Start(64 * K + 64), b"_BHRfS_M")]),
    fs(
        "bcachefs",
        "a bcachefs file system",
        &[
            (Place::Start(4 * K + 24), BCACHEFS),
            (Place::Start(2048 * K + 24), BCACHEFS),
            (Place::End { align: 512, back: 1024 * K - 24 }, BCACHEFS),
        ],
    ),
    fs("zfs_member", "a disk of a ZFS pool", &ZFS),
    fs("f2fs", "an F2FS file system", &[(Place::Start(K), F2FS), (Place::Start(5 * K), F2FS)]),
    fs("jfs", "a JFS file system", &[(Place::Start(32 * K), b"JFS1")]),
    fs(
        "reiserfs",
        "a ReiserFS file system",
        &[
            (Place::Start(8 * K + 0x34), b"ReIsErFs"),
            (Place::Start(64 * K + 0x34), b"ReIsErFs"),
            (Place::Start(64 * K + 0x34), b"ReIsEr2Fs"),
            (Place::Start(64 * K + 0x34), b"ReIsEr3Fs"),
            (Place::Start(8 * K + 20), b"ReIsErFs"),
        ],
    ),
    fs("reiser4", "a Reiser4 file system", &[(Place::Start(64 * K), b"ReIsEr4")]),
    fs(
        "nilfs2",
        "a NILFS2 file system",
        &[
            (Place::Start(K + 6), b"\x34\x34"),
            (Place::End { align: 4096, back: 4096 - 6 }, b"\x34\x34"),
        ],
    )
    .and(nilfs2),
    fs(
        "ocfs2",
        "an OCFS2 file system",
        &[
            (Place::Start(K), b"OCFSV2"),
            (Place::Start(2 * K), b"OCFSV2"),
            (Place::Start(4 * K), b"OCFSV2"),
            (Place::Start(8 * K), b"OCFSV2"),
        ],
    ),
    fs("ocfs", "an OCFS file system", &[(Place::Start(8 * K), b"OracleCFS")]),
    fs("oracleasm", "a disk of Oracle ASM", &[(Place::Start(32), b"ORCLDISK")]),
    fs("gfs2", "a GFS2 file system", GFS).and(|sample, at| Some(sample.be32(at + 24)? != 1309)),
    fs("gfs", "a GFS file system", GFS).and(|sample, at| Some(sample.be32(at + 24)? == 1309)),
    fs("VMFS", "a VMFS file system", &[(Place::Start(2048 * K), b"\x5e\xf1\xab\x2f")]),
    fs("ntfs", "an NTFS file system", &[(Place::Start(3), b"NTFS    ")]),
    fs("ReFS", "a ReFS file system", &[(Place::Start(0), b"\x00\x00\x00ReFS\x00")]),
    fs("exfat", "an exFAT file system", &[(Place::Start(3), b"EXFAT   ")]),
    fs(
        "vfat",
        "a FAT file system",
        &[
            (Place::Start(0x52), b"MSWIN"),
            (Place::Start(0x52), b"FAT32   "),
            (Place::Start(0x36), b"MSDOS"),
            (Place::Start(0x36), b"FAT16   "),
            (Place::Start(0x36), b"FAT12   "),
            (Place::Start(0x36), b"FAT     "),
            (Place::Start(0), b"\xeb"),
            (Place::Start(0), b"\xe9"),
        ],
    )
    .and(vfat),
    fs("hpfs", "an HPFS file system", &[(Place::Start(8 * K), b"\x49\xe8\x95\xf9")]),
    fs("apfs", "an APFS container", &[(Place::Start(32), b"NXSB")]),
    fs(
        "hfsplus",
        "an HFS+ file system",
        &[
            (Place::Start(K), b"H+\x00\x04"),
            (Place::Start(K), b"HX\x00\x05"),
            (Place::Start(K + 124), b"H+"),
        ],
    )
    .and(|sample, at| Some(at == K || sample.has(K, b"BD") && hfs(sample)?)),
    fs("hfs", "an HFS file system", &[(Place::Start(K), b"BD")])
        .and(|sample, _| Some(hfs(sample)? && !sample.has(K + 124, b"H+"))),
    fs("udf", "a UDF file system", &UDF),
    fs(
        "iso9660",
        "an ISO 9660 file system",
        &[(Place::Start(32 * K + 1), b"CD001"), (Place::Start(32 * K + 9), b"CDROM")],
    ),
    fs("squashfs", "a SquashFS file system", SQUASHFS)
        .and(|sample, at| Some(sample.has(at, b"hsqs") && sample.le16(at + 28)? >= 4)),
    fs("squashfs3", "a SquashFS file system (version 3)", SQUASHFS)
        .and(|sample, at| Some(!sample.has(at, b"hsqs") || sample.le16(at + 28)? < 4)),
    fs("erofs", "an EROFS file system", &[(Place::Start(K), b"\xe2\xe1\xf5\xe0")]),
    fs(
        "cramfs",
        "a cramfs file system",
        &[(Place::Start(0), b"\x45\x3d\xcd\x28"), (Place::Start(0), b"\x28\xcd\x3d\x45")],
    ),
    fs("romfs", "a romfs file system", &[(Place::Start(0), b"-rom1fs-")]),
    fs("ubifs", "a UBIFS file system", &[(Place::Start(0), b"\x31\x18\x10\x06")]),
    fs("zonefs", "a zonefs file system", &[(Place::Start(0), b"SFOZ")]),
    fs(
        "minix",
        "a Minix file system",
        &[
            (Place::Start(K + 0x10), b"\x7f\x13"),
            (Place::Start(K + 0x10), b"\x8f\x13"),
            (Place::Start(K + 0x10), b"\x13\x7f"),
            (Place::Start(K + 0x10), b"\x13\x8f"),
            (Place::Start(K + 0x10), b"\x68\x24"),
            (Place::Start(K + 0x10), b"\x78\x24"),
            (Place::Start(K + 0x10), b"\x24\x68"),
            (Place::Start(K + 0x10), b"\x24\x78"),
            (Place::Start(K + 0x18), b"\x5a\x4d"),
            (Place::Start(K + 0x18), b"\x4d\x5a"),
        ],
    )
    .and(minix),
    fs("bfs", "a BFS file system (SCO)", &[(Place::Start(0), b"\xce\xfa\xad\x1b")]),
    fs(
        "befs",
        "a BeFS file system",
        &[
            (Place::Start(32), b"BFS1"),
            (Place::Start(32), b"1SFB"),
            (Place::Start(512 + 32), b"BFS1"),
            (Place::Start(512 + 32), b"1SFB"),
        ],
    ),
    fs(
        "ufs",
        "a UFS file system",
        &[
            (Place::Start(1372), UFS2),
            (Place::Start(8 * K + 1372), UFS1),
            (Place::Start(8 * K + 1372), UFS1_BIG_ENDIAN),
            (Place::Start(8 * K + 1372), UFS2),
            (Place::Start(64 * K + 1372), UFS2),
            (Place::Start(64 * K + 1372), UFS2_BIG_ENDIAN),
            (Place::Start(256 * K + 1372), UFS2),
        ],
    ),
    fs(
        "vxfs",
        "a VxFS file system",
        &[(Place::Start(K), b"\xf5\xfc\x01\xa5"), (Place::Start(8 * K), b"\xa5\x01\xfc\xf5")],
    ),
    fs(
        "xenix",
        "a Xenix file system",
        &[(Place::Start(2 * K), b"\x2b\x55\x44"), (Place::Start(2 * K), b"\x44\x55\x2b")],
    ),
    fs("nss", "a NetWare file system", &[(Place::Start(4 * K), b"SPB5")]),
    fs(
        "swap",
        "swap space",
        &[
            (Place::Start(4086), b"SWAPSPACE2"),
            (Place::Start(8182), b"SWAPSPACE2"),
            (Place::Start(16374), b"SWAPSPACE2"),
            (Place::Start(32758), b"SWAPSPACE2"),
            (Place::Start(65526), b"SWAPSPACE2"),
            (Place::Start(4086), b"SWAP-SPACE"),
            (Place::Start(8182), b"SWAP-SPACE"),
            (Place::Start(16374), b"SWAP-SPACE"),
            (Place::Start(32758), b"SWAP-SPACE"),
            (Place::Start(65526), b"SWAP-SPACE"),
        ],
    ),
    fs(
        "swsuspend",
        "the image of a suspended system",
        &[
            (Place::Start(4086), b"S1SUSPEND"),
            (Place::Start(4086), b"S2SUSPEND"),
            (Place::Start(4086), b"ULSUSPEND"),
            (Place::Start(4086), b"LINHIB0001"),
            (Place::Start(8182), b"S1SUSPEND"),
            (Place::Start(16374), b"S1SUSPEND"),
            (Place::Start(65526), b"S1SUSPEND"),
        ],
    ),
];

const BCACHEFS: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9";
const F2FS: &[u8] = b"\x10\x20\xf5\xf2";
const UFS1: &[u8] = b"\x54\x19\x01\x00";
const UFS1_BIG_ENDIAN: &[u8] = b"\x00\x01\x19\x54";
const UFS2: &[u8] = b"\x19\x01\x54\x19";
const UFS2_BIG_ENDIAN: &[u8] = b"\x19\x54\x01\x19";

/// The recognition sequence has a descriptor in each of its first sectors; which one is the file
/// system's differs.
static UDF: [(Place, &[u8]); 16] = {
    let mut magics: [(Place, &[u8]); 16] = [(Place::Start(0), b"NSR02"); 16];
    let mut n = 0;
    while n < 16 {
        let name: &[u8] = if n % 2 == 0 { b"NSR02" } else { b"NSR03" };
        magics[n] = (Place::Start(32 * K + n as u64 / 2 * 2048 + 1), name);
        n += 1;
    }
    magics
};

/// Two labels at each end of the disk, of 256 KiB each. In each, a list of names and values at 16 KiB,
/// and from 128 KiB on 128 slots for uberblocks, of which few may be used.
static ZFS: [(Place, &[u8]); 4 * (2 + 2 * ZFS_SLOTS)] = {
    let mut magics: [(Place, &[u8]); 4 * (2 + 2 * ZFS_SLOTS)] =
        [(Place::Start(0), ZFS_LIST); 4 * (2 + 2 * ZFS_SLOTS)];
    let (mut label, mut n) = (0, 0);
    while label < 4 {
        magics[n] = (zfs_place(label, 16 * K), ZFS_LIST);
        magics[n + 1] = (zfs_place(label, 16 * K), ZFS_LIST_BIG_ENDIAN);
        n += 2;
        let mut slot = 0;
        while slot < ZFS_SLOTS {
            let place = zfs_place(label, 128 * K + slot as u64 * K);
            magics[n] = (place, b"\x0c\xb1\xba\x00\x00\x00\x00\x00");
            magics[n + 1] = (place, b"\x00\x00\x00\x00\x00\xba\xb1\x0c");
            n += 2;
            slot += 1;
        }
        label += 1;
    }
    magics
};

const ZFS_SLOTS: usize = 128;
const ZFS_LIST: &[u8] = b"\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01";
const ZFS_LIST_BIG_ENDIAN: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01";

const fn zfs_place(label: u64, at: u64) -> Place {
    const LABEL_BYTES: u64 = 256 * K;
    match label {
        0 | 1 => Place::Start(label * LABEL_BYTES + at),
        _ => Place::End { align: LABEL_BYTES, back: (4 - label) * LABEL_BYTES - at },
    }
}

/// What the features of an ext superblock make it.
#[derive(PartialEq, Eq)]
enum Ext {
    Journal,
    Two,
    Three,
    Four,
    Nonsense,
}

fn ext(sample: &Sample, magic: u64) -> Option<Ext> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // What the oldest and the second oldest driver know.
    const RO_COMPATIBLE: u32 = 0x1 | 0x2 | 0x4;
    const INCOMPATIBLE_2: u32 = 0x2 | 0x10;
    const INCOMPATIBLE_3: u32 = INCOMPATIBLE_2 | 0x4;
    let block_shift = sample.le32(magic - 0x20)?;
    let compatible = sample.le32(magic + 0x24)?;
    let incompatible = sample.le32(magic + 0x28)?;
    let ro_compatible = sample.le32(magic + 0x2c)?;
    Some(match compatible & HAS_JOURNAL != 0 {
        _ if block_shift > 6 => Ext::Nonsense,
        _ if incompatible & JOURNAL_DEVICE != 0 => Ext::Journal,
        _ if ro_compatible & !RO_COMPATIBLE != 0 => Ext::Four,
        false if incompatible & !INCOMPATIBLE_2 == 0 => Ext::Two,
        true if incompatible & !INCOMPATIBLE_3 == 0 => Ext::Three,
        _ => Ext::Four,
    })
}

/// What a boot sector says of a FAT must make sense. An encrypted volume has the same beginning.
fn vfat(sample: &Sample, at: u64) -> Option<bool> {
    let (sector, cluster) = (sample.le16(11)?, sample.u8(13)?);
    let (reserved, fats, media) = (sample.le16(14)?, sample.u8(16)?, sample.u8(21)?);
    let named = at != 0 || sample.has(510, b"\x55\xaa");
    Some(
        named
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && cluster.is_power_of_two()
            && reserved != 0
            && matches!(fats, 1 | 2)
            && (media == 0xf0 || media >= 0xf8),
    )
}

fn nilfs2(sample: &Sample, magic: u64) -> Option<bool> {
    let start = magic - 6;
    let (revision, bytes) = (sample.le32(start)?, sample.le16(start + 8)?);
    Some(revision == 2 && (20..=1024).contains(&bytes) && sample.le32(start + 20)? <= 6)
}

fn minix(sample: &Sample, _: u64) -> Option<bool> {
    let is_ext = sample.has(1080, b"\x53\xef");
    let is_erofs = sample.has(K, b"\xe2\xe1\xf5\xe0");
    // Of the versions 1 and 2, and of version 3, in either byte order: inodes and their map.
    let counts =
        |inodes: u64, map: u64| inodes > 0 && (1..=8192).contains(&map) && map * 8192 > inodes;
    let old = counts(sample.le16(K)?.into(), sample.le16(K + 4)?.into());
    let new = counts(sample.le32(K)?.into(), sample.le16(K + 6)?.into());
    let swapped = counts(sample.be16(K)?.into(), sample.be16(K + 4)?.into());
    let new_swapped = counts(sample.be32(K)?.into(), sample.be16(K + 6)?.into());
    Some(!is_ext && !is_erofs && (old || new || swapped || new_swapped))
}

/// The size of an allocation block, in a master directory block.
fn hfs(sample: &Sample) -> Option<bool> {
    let block = sample.be32(K + 20)?;
    Some(block != 0 && block.is_multiple_of(512))
}
