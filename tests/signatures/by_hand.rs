use crate::signatures::image::Image;
use crate::signatures::members::superblock;

/// A superblock by hand.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) len_bytes: u64,
    /// Whether `blkid`, or a newer version of it, wants more than there is here: a checksum, say.
    pub(crate) checksummed: bool,
    pub(crate) make: Box<dyn Fn(&Image)>,
}

type Patches = &'static [(i64, &'static [u8])];

fn case(name: &'static str, len_mib: u64, patches: Patches) -> Case {
    Case {
        name,
        what: format!("{name} at {}", patches[0].0),
        len_bytes: len_mib << 20,
        checksummed: false,
        make: Box::new(move |image| patches.iter().for_each(|(at, bytes)| image.put(*at, bytes))),
    }
}

fn checksummed(name: &'static str, len_mib: u64, patches: Patches) -> Case {
    Case { checksummed: true, ..case(name, len_mib, patches) }
}

const FAT: &[u8] = b"\xeb\x3c\x90mkfs.fat\0\x02\x04\x04\0\x02\0\x02\0\x40\xf8\x10\0\x20\0\x08\0";

pub(crate) fn cases() -> Vec<Case> {
    [raids(), layers(), file_systems(), old_file_systems()].into_iter().flatten().collect()
}

fn raids() -> Vec<Case> {
    let md = ["0.90", "1.0", "1.1", "1.2"].map(|version| Case {
        name: "linux_raid_member",
        what: format!("md {version}"),
        len_bytes: 8 << 20,
        checksummed: false,
        make: Box::new(move |image| superblock(image, version, 0, image.len())),
    });
    let mut cases: Vec<_> = md.into();
    cases.extend([
        checksummed("ddf_raid_member", 8, &[(-512, b"\xde\x11\xde\x11")]),
        checksummed("ddf_raid_member", 8, &[(-257 * 512, b"\xde\x11\xde\x11")]),
        case("isw_raid_member", 8, &[(-1024, b"Intel Raid ISM Cfg Sig. 1.1.00")]),
        case("lsi_mega_raid_member", 8, &[(-512, b"$XIDE$")]),
        checksummed("nvidia_raid_member", 8, &[(-1024, b"NVIDIA  \x1e\0\0\0")]),
        case("promise_fasttrack_raid_member", 8, &[(-63 * 512, b"Promise Technology, Inc.")]),
        case("promise_fasttrack_raid_member", 8, &[(-3087 * 512, b"Promise Technology, Inc.")]),
        case("hpt45x_raid_member", 8, &[(-11 * 512, b"\xf3\x16\x78\x5a")]),
        case("hpt37x_raid_member", 8, &[(4640, b"\xf0\x16\x78\x5a")]),
        case("adaptec_raid_member", 8, &[(-512, b"\x37\xfc\x4d\x1e"), (-256, b"DPTM")]),
        // "JM" is 4d4a: what is missing to 2^16.
        case("jmicron_raid_member", 8, &[(-512, b"JM\0\0\xb6\xb2")]),
        case(
            "silicon_medley_raid_member",
            8,
            &[(-512 + 0x60, b"\0\0\0\x2f"), (-512 + 0x13e, b"\0\xd1")],
        ),
        case("via_raid_member", 8, &[(-512, b"\x55\xaa\x01"), (-512 + 50, b"\0")]),
    ]);
    cases
}

fn layers() -> Vec<Case> {
    vec![
        case("crypto_LUKS", 8, &[(0, b"LUKS\xba\xbe\0\x01")]),
        case("crypto_LUKS", 8, &[(0, b"LUKS\xba\xbe\0\x02")]),
        case("crypto_LUKS", 32, &[(0x4000, b"SKUL\xba\xbe\0\x02"), (0x4000 + 262, b"\x40\0")]),
        case(
            "crypto_LUKS",
            32,
            &[(0x40_0000, b"SKUL\xba\xbe\0\x02"), (0x40_0000 + 261, b"\x40\0\0")],
        ),
        case(
            "BitLocker",
            8,
            &[
                (0, b"\xeb\x58\x90-FVE-FS-\0\x02\x08\0\0\0\0\0\0\xf8\0\0"),
                (160, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01\0\0\x10"),
                (0x10_0000, b"-FVE-FS-\0\0\x02\0"),
            ],
        ),
        checksummed(
            "LVM2_member",
            8,
            &[(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")],
        ),
        case("LVM1_member", 8, &[(0, b"HM\x01\0")]),
        checksummed("stratis", 8, &[(516, b"!Stra0tis\x86\xff\x02^\x41rh")]),
        case("VMFS_volume_member", 8, &[(1 << 20, b"\x0d\xd0\x01\xc0")]),
        checksummed(
            "bcache",
            8,
            &[
                (4096 + 8, b"\x08"),
                (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
            ],
        ),
        case("DM_integrity", 8, &[(0, b"integrt\0\x04")]),
        case("DM_verity_hash", 8, &[(0, b"verity\0\0\x01")]),
        case("vdo", 8, &[(0, b"dmvdo001")]),
        case("ceph_bluestore", 8, &[(0, b"bluestore block device")]),
        checksummed("mpool", 8, &[(0, b"\x6d\x70\x6f\x6f\x6c\x44\x65\x76")]),
        case("drbd", 8, &[(-4096 + 60, b"\x83\x74\x02\x6b"), (-4096 + 80, b"\0\0\x10\0")]),
        checksummed("drbdmanage_control_volume", 8, &[(0, b"$DRBDmgr=q")]),
        case("drbdproxy_datalog", 8, &[(0, b"DRBDdlh*")]),
        checksummed("ubi", 8, &[(0, b"UBI#\x01")]),
        case("DM_snapshot_cow", 8, &[(0, b"SnAp\x01\0\0\0\x01\0\0\0\x08")]),
    ]
}

fn file_systems() -> Vec<Case> {
    vec![
        // Sectors of 512 bytes, 8 to a cluster; the table of files begins at cluster 4.
        case(
            "ntfs",
            8,
            &[
                (3, b"NTFS    \0\x02\x08"),
                (40, b"\xff\x3f"),
                (48, b"\x04"),
                (56, b"\x08"),
                (64, b"\xf6\0\0\0\x01"),
                (4 * 4096, b"FILE"),
                (4 * 4096 + 3 * 1024, b"FILE"),
            ],
        ),
        checksummed("exfs", 8, &[(0, b"EXFS")]),
        checksummed(
            "bcachefs",
            8,
            &[(4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")],
        ),
        checksummed(
            "zfs_member",
            64,
            &[
                (16 << 10, b"\x01\x01\0\0\0\0\0\0\0\0\0\x01"),
                (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
                (129 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
                (130 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
                (131 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
                (132 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
            ],
        ),
        checksummed(
            "zfs_member",
            64,
            &[
                (-(256 << 10) + (128 << 10), b"\x0c\xb1\xba\0\0\0\0\0"),
                (-(256 << 10) + (129 << 10), b"\x0c\xb1\xba\0\0\0\0\0"),
                (-(256 << 10) + (130 << 10), b"\x0c\xb1\xba\0\0\0\0\0"),
                (-(256 << 10) + (131 << 10), b"\x0c\xb1\xba\0\0\0\0\0"),
            ],
        ),
        checksummed("f2fs", 8, &[(1024, b"\x10\x20\xf5\xf2\x01\0\x0e\0")]),
        case(
            "jfs",
            16,
            &[
                (32768, b"JFS1\x02"),
                // Block size, and its logarithms.
                (32768 + 16, b"\0\x10\0\0\x0c\0\x03\0\0\x02\0\0\x09\0"),
            ],
        ),
        case(
            "reiserfs",
            8,
            &[(65536 + 0x34, b"ReIsEr2Fs"), (65536 + 12, b"\x12\0"), (65536 + 44, b"\0\x10")],
        ),
        case("reiser4", 8, &[(65536, b"ReIsEr4"), (65536 + 18, b"\0\x10")]),
        checksummed("nilfs2", 8, &[(1024, b"\x02\0\0\0\0\0\x34\x34\x18\x01")]),
        case("ocfs2", 16, &[(8192, b"OCFSV2"), (8192 + 0xcd, b"\x0c")]),
        case("ocfs", 16, &[(8192, b"\0\0\0\0\0\0\0\0OracleCFS"), (8192, b"OracleCFS")]),
        case("oracleasm", 8, &[(32, b"ORCLDISK")]),
        case(
            "gfs2",
            33,
            &[
                (65536, b"\x01\x16\x19\x70\0\0\0\x01"),
                (65536 + 16, b"\0\0\0\x64"),
                (65536 + 24, b"\0\0\x07\x09\0\0\x07\x6c"),
                (65536 + 36, b"\0\0\x10\0"),
            ],
        ),
        case(
            "gfs",
            33,
            &[
                (65536, b"\x01\x16\x19\x70\0\0\0\x01"),
                (65536 + 16, b"\0\0\0\x64"),
                (65536 + 24, b"\0\0\x05\x1d\0\0\x05\x79"),
            ],
        ),
        case("VMFS", 8, &[(2 << 20, b"\x5e\xf1\xab\x2f")]),
        case("ReFS", 8, &[(0, b"\0\0\0ReFS\0")]),
        checksummed(
            "exfat",
            8,
            &[(0, b"\xeb\x76\x90EXFAT   "), (108, b"\x09\x03"), (110, b"\x01"), (510, b"\x55\xaa")],
        ),
        case("vfat", 8, &[(0, FAT), (54, b"FAT16   "), (510, b"\x55\xaa")]),
        case("vfat", 8, &[(0, FAT), (510, b"\x55\xaa")]),
        case(
            "hpfs",
            8,
            &[(8192, b"\x49\xe8\x95\xf9\xc5\xe9\x53\xfa"), (8704, b"\x49\x18\x91\xf9")],
        ),
        checksummed("apfs", 8, &[(32, b"NXSB\0\x10"), (24, b"\x01\0\0\x80")]),
        case("hfsplus", 8, &[(1024, b"H+\0\x04"), (1024 + 40, b"\0\0\x10\0")]),
        case("hfs", 8, &[(1024, b"BD"), (1024 + 20, b"\0\0\x10\0")]),
        checksummed(
            "udf",
            8,
            &[(32768, b"\0BEA01\x01"), (34816, b"\0NSR02\x01"), (36864, b"\0TEA01\x01")],
        ),
        case("iso9660", 8, &[(32768, b"\x01CD001\x01"), (34816, b"\xffCD001\x01")]),
        case("squashfs", 8, &[(0, b"hsqs"), (28, b"\x04\0")]),
        case("squashfs3", 8, &[(0, b"hsqs"), (28, b"\x03\0")]),
        checksummed("erofs", 8, &[(1024, b"\xe2\xe1\xf5\xe0"), (1024 + 12, b"\x0c")]),
        checksummed("zonefs", 8, &[(0, b"SFOZ")]),
    ]
}

fn old_file_systems() -> Vec<Case> {
    vec![
        case("cramfs", 8, &[(0, b"\x45\x3d\xcd\x28")]),
        checksummed("romfs", 8, &[(0, b"-rom1fs-")]),
        checksummed("ubifs", 8, &[(0, b"\x31\x18\x10\x06")]),
        checksummed(
            "befs",
            8,
            &[
                (512 + 32, b"BFS1"),
                (512 + 36, b"BIGE"),
                (512 + 40, b"\0\x08\0\0\x0b"),
                (512 + 68, b"\x31\x05\x12\xdd"),
                (512 + 112, b"\x15\xb6\x83\xd8"),
            ],
        ),
        case("ufs", 8, &[(8192 + 1372, b"\x54\x19\x01\0")]),
        case("ufs", 8, &[(65536 + 1372, b"\x19\x01\x54\x19")]),
        case("vxfs", 8, &[(1024, b"\xf5\xfc\x01\xa5")]),
        case("xenix", 8, &[(2048, b"\x2b\x55\x44")]),
        case("nss", 8, &[(4096, b"SPB5")]),
        case("swap", 8, &[(65526, b"SWAPSPACE2"), (1024, b"\x01\0\0\0\xff\0\0\0")]),
        case("swsuspend", 8, &[(4086, b"S1SUSPEND")]),
    ]
}

/// Formats that `blkid` does not look for.
pub(crate) const UNKNOWN_TO_BLKID: [(&str, i64, &[u8]); 32] = [
    ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile\nversion=1\n"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vpc", -512, b"conectix"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("dmg", -512, b"koly\0\0\0\x04"),
    ("ewf", 0, b"EVF\x09\x0d\x0a\xff\0"),
    ("ewf", 0, b"EVF2\x0d\x0a\x81\0"),
    ("aff", 0, b"AFF10\x0d\x0a\0"),
    ("android-sparse", 0, b"\x3a\xff\x26\xed\x01\0"),
    ("partclone", 0, b"partclone-image"),
    ("gzip", 0, b"\x1f\x8b\x08"),
    ("xz", 0, b"\xfd7zXZ\0"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("bzip2", 0, b"BZh91AY&SY"),
    ("lz4", 0, b"\x04\x22\x4d\x18"),
    ("lz4", 0, b"\x02\x21\x4c\x18"),
    ("lzop", 0, b"\x89LZO\0\x0d\x0a\x1a\x0a"),
    ("compress", 0, b"\x1f\x9d\x90"),
    ("zip", 0, b"PK\x03\x04"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    ("rar", 0, b"Rar!\x1a\x07"),
    ("tar", 257, b"ustar"),
    ("tar", 257, b"ustar  "),
    ("vpc", 0, b"conectix\0\0\0\x02"),
];
