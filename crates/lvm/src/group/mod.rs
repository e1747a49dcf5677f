//! A volume group as its metadata text tells it.

mod volumes; // PVs, LVs and what they are made of
mod snapshot; // which LV is whose snapshot
mod fault; // what contradicts itself
mod check; // finds it
mod read; // text -> group
mod mapping; // where an LV's bytes lie
mod attributes; // as `lvs` shows them

use std::collections::HashMap;

use self::fault::Faults;
use self::snapshot::Snapshots;
use self::volumes::{ThinOrigin, has};
use crate::bytes::{SECTOR_BYTES, Uuid};

pub use attributes::{Activity, Role};
pub use fault::Fault;
pub use mapping::{Column, MapError, MappedSegment, Mapping, Piece};
pub use read::{GroupError, is_valid_name};
pub(crate) use read::{group_section, parse_text};
pub use snapshot::Snapshot;
pub use volumes::{LogicalVolume, PhysicalVolume, Segment, SegmentKind, Stripe, Target};

/// Everything the metadata text says about a volume group.
///
/// A group that was read makes sense piece by piece. What contradicts itself is reported by
/// [`faults`](Self::faults), and refused where it matters: by [`mapping`](Self::mapping), and
/// before anything is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VolumeGroup {
    /// As users know it.
    pub name: String,
    /// Its identity.
    pub id: Uuid,
    /// Raised with every change: of two texts the one with more is newer.
    pub seqno: u64,
    /// `RESIZEABLE`, `READ`, `WRITE`, `EXPORTED`, ...
    pub status: Vec<String>,
    /// What older versions may ignore.
    pub flags: Vec<String>,
    /// Of the group.
    pub tags: Vec<String>,
    /// The host it belongs to, if only one may use it.
    pub system_id: Option<String>,
    /// `sanlock` or `dlm`, if hosts share it.
    pub lock_type: Option<String>,
    /// `contiguous`, `cling`, `normal`, `anywhere`; none is `normal`.
    pub allocation_policy: Option<String>,
    /// In sectors. Everything is given out in extents.
    pub extent_sectors: u64,
    /// The command that wrote the text.
    pub description: Option<String>,
    /// Where it ran.
    pub creation_host: Option<String>,
    /// When, in seconds since 1970.
    pub creation_time: Option<u64>,
    /// In the order of the text.
    pub pvs: Vec<PhysicalVolume>,
    /// All of them, in the order of the text: also those that users never see.
    pub lvs: Vec<LogicalVolume>,
    snapshots: Snapshots,
    names: HashMap<String, usize>,
    /// By name of an LV in a segment of some other type: that type, and the key that names it.
    part_of: HashMap<String, (String, String)>,
    /// By name of an LV, how many thin ones are its snapshots.
    thin_origins: HashMap<String, ThinOrigin>,
    faults: Faults,
}

impl VolumeGroup {
    /// The LV of that name, hidden ones included.
    pub fn lv(&self, name: &str) -> Option<&LogicalVolume> {
        self.names.get(name).map(|index| &self.lvs[*index])
    }

    /// Its index in [`lvs`](Self::lvs).
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The LVs that users see, in the order of the text.
    pub fn logical_volumes(&self) -> impl Iterator<Item = &LogicalVolume> {
        self.lvs.iter().filter(|lv| self.is_visible(lv))
    }

    /// Every snapshot, in the order of the text.
    pub fn snapshots(&self) -> &[Snapshot] {
        self.snapshots.all()
    }

    /// The snapshot that users know by this name.
    pub fn snapshot(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.named(name)
    }

    /// The snapshots of one LV, in the order of the text.
    pub fn snapshots_of(&self, origin: &str) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.of(origin)
    }

    /// What contradicts itself. Empty for every group that LVM wrote.
    pub fn faults(&self) -> &[Fault] {
        self.faults.all()
    }

    /// `vgexport` was run: LVM leaves the group alone until `vgimport`.
    pub fn is_exported(&self) -> bool {
        has(&self.status, "EXPORTED")
    }

    /// Of an extent.
    pub fn extent_bytes(&self) -> u64 {
        self.extent_sectors.saturating_mul(SECTOR_BYTES)
    }

    /// Of what a snapshot shows. It is that of its origin when it was made: an origin may have grown
    /// since, or have become smaller.
    pub fn snapshot_bytes(&self, snapshot: &Snapshot) -> u64 {
        self.lv(&snapshot.holder).map_or(0, |holder| self.size_bytes(holder))
    }

    /// Of an LV; of a snapshot's name, the size of its COW device.
    pub fn size_bytes(&self, lv: &LogicalVolume) -> u64 {
        lv.extents().saturating_mul(self.extent_bytes())
    }

    /// Whether users see this LV: neither a part of another one, nor a snapshot that merges.
    pub fn is_visible(&self, lv: &LogicalVolume) -> bool {
        if lv.is_holder() {
            return false;
        }
        match self.snapshot(&lv.name) {
            None => has(&lv.status, "VISIBLE"),
            Some(snapshot) if self.has_virtual_origin(snapshot) => true,
            Some(snapshot) => !snapshot.merging && self.lv(&snapshot.origin).is_some(),
        }
    }

    /// Whether the snapshot was made of nothing (`lvcreate --type snapshot --virtualsize`): its origin
    /// holds zeroes, and users do not see it. LVM knows it by that alone.
    pub fn has_virtual_origin(&self, snapshot: &Snapshot) -> bool {
        self.lv(&snapshot.origin).is_some_and(|lv| !has(&lv.status, "VISIBLE"))
    }
}
