//! Disks that only a layer above makes something of: volume managers, encryption, caches, checksums,
//! replication.

use super::sample::Sample;
use super::table::{Class, Entry, Place};

const fn layer(
    name: &'static str,
    words: &'static str,
    magics: &'static [(Place, &'static [u8])],
) -> Entry {
    Entry::new(Class::Layer, name, words, magics)
}

/// The magic of a LUKS2 header that is the second one.
const SECOND: &[u8] = b"SKUL\xba\xbe";

/// DRBD's metadata lies in the last whole block.
const DRBD: Place = Place::End { align: 4096, back: 4096 - 60 };

pub(super) static TABLE: &[Entry] = &[
    Entry::new(
        Class::Encrypted,
        "crypto_LUKS",
        "a LUKS container (encrypted)",
        &[
            (Place::Start(0), b"LUKS\xba\xbe"),
            (Place::Start(0x4000), SECOND),
            (Place::Start(0x8000), SECOND),
            (Place::Start(0x1_0000), SECOND),
            (Place::Start(0x2_0000), SECOND),
            (Place::Start(0x4_0000), SECOND),
            (Place::Start(0x8_0000), SECOND),
            (Place::Start(0x10_0000), SECOND),
            (Place::Start(0x20_0000), SECOND),
            (Place::Start(0x40_0000), SECOND),
        ],
    )
    .and(|sample, at| Some(at == 0 || sample.be16(at + 6)? == 2)),
    Entry::new(
        Class::Encrypted,
        "BitLocker",
        "a BitLocker volume (encrypted)",
        &[(Place::Start(0), b"\xeb\x52\x90-FVE-FS-"), (Place::Start(0), b"\xeb\x58\x90-FVE-FS-")],
    ),
    Entry::new(
        Class::PhysicalVolume,
        "LVM2_member",
        "a physical volume of LVM",
        &[
            (Place::Start(24), b"LVM2 001"),
            (Place::Start(512 + 24), b"LVM2 001"),
            (Place::Start(1024 + 24), b"LVM2 001"),
            (Place::Start(1536 + 24), b"LVM2 001"),
        ],
    )
    .and(|sample, at| Some(sample.has(at - 24, b"LABELONE"))),
    Entry::new(
        Class::PhysicalVolume,
        "LVM1_member",
        "a physical volume of LVM version 1",
        &[(Place::Start(0), b"HM")],
    )
    .and(|sample, at| Some(matches!(sample.le16(at + 2)?, 1 | 2))),
    Entry::new(
        Class::PhysicalVolume,
        "stratis",
        "a disk of a Stratis pool",
        &[
            (Place::Start(512 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
            (Place::Start(9 * 512 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
        ],
    ),
    Entry::new(
        Class::PhysicalVolume,
        "VMFS_volume_member",
        "a disk of a VMFS volume (VMware)",
        &[(Place::Start(1 << 20), b"\x0d\xd0\x01\xc0")],
    ),
    layer(
        "bcache",
        "a bcache device",
        &[(Place::Start(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca")],
    ),
    layer("DM_integrity", "a dm-integrity device", &[(Place::Start(0), b"integrt\x00")]),
    layer(
        "DM_verity_hash",
        "the hashes of a dm-verity device",
        &[(Place::Start(0), b"verity\x00\x00")],
    ),
    layer("vdo", "a VDO device", &[(Place::Start(0), b"dmvdo001")]),
    layer(
        "ceph_bluestore",
        "a disk of Ceph (BlueStore)",
        &[(Place::Start(0), b"bluestore block device")],
    ),
    layer("mpool", "a disk of an mpool", &[(Place::Start(0), b"\x6d\x70\x6f\x6f\x6c\x44\x65\x76")]),
    layer(
        "drbd",
        "a DRBD device",
        &[(DRBD, b"\x83\x74\x02\x6b"), (DRBD, b"\x83\x74\x02\x6c"), (DRBD, b"\x83\x74\x02\x6d")],
    )
    .and(drbd),
    layer(
        "drbdmanage_control_volume",
        "a control volume of DRBD",
        &[(Place::Start(0), b"$DRBDmgr=q")],
    ),
    layer("drbdproxy_datalog", "a data log of DRBD", &[(Place::Start(0), b"DRBDdlh*")]),
    layer("ubi", "a UBI volume", &[(Place::Start(0), b"UBI#")]),
    Entry::new(
        Class::Store,
        "DM_snapshot_cow",
        "a snapshot store",
        &[(Place::Start(0), &dmsnap_format::MAGIC)],
    ),
];

/// A bit of its bitmap stands for 4 KiB.
fn drbd(sample: &Sample, at: u64) -> Option<bool> {
    Some(sample.be32(at + 20)? == 4096)
}
