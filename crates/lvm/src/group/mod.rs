//! A volume group as its metadata text tells it.

mod read; // text -> group
mod snapshot; // which LV is whose snapshot
mod fault; // what contradicts itself
mod mapping; // where an LV's bytes lie
mod attributes; // as `lvs` shows them

use std::collections::HashMap;

use crate::bytes::{SECTOR_BYTES, Uuid};

use attributes::ThinOrigin;
pub use attributes::{Activity, Role};
pub use fault::Fault;
use fault::Faults;
pub use mapping::{Leg, MapError, Mapping, Piece, Stretch};
pub use read::{GroupError, is_valid_name};
pub(crate) use read::{group_section, parse_text};
pub use snapshot::Snapshot;
use snapshot::Snapshots;

/// Everything the metadata text says about a volume group.
///
/// A group that was read makes sense piece by piece. What contradicts itself is told by
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
    /// By name of an LV in a segment of some other type: that type, and the key it stands behind.
    part_of: HashMap<String, (String, String)>,
    /// By name of an LV, how many thin ones are its snapshots.
    thin_origins: HashMap<String, ThinOrigin>,
    faults: Faults,
}

/// One disk of a volume group.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PhysicalVolume {
    /// As segments name it: `pv0`.
    pub name: String,
    /// As its label names it.
    pub id: Uuid,
    /// Where it was when the text was written: a hint.
    pub device: Option<String>,
    /// `ALLOCATABLE`, `MISSING`, `EXPORTED`, ...
    pub status: Vec<String>,
    /// What older versions may ignore.
    pub flags: Vec<String>,
    /// Of the PV.
    pub tags: Vec<String>,
    /// Of the disk, when the text was written.
    pub dev_sectors: Option<u64>,
    /// Where its first extent begins, in sectors.
    pub pe_start_sectors: u64,
    /// How many extents it has.
    pub pe_count: u64,
}

/// One logical volume.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogicalVolume {
    /// Unique in its group.
    pub name: String,
    /// Its identity.
    pub id: Uuid,
    /// `READ`, `WRITE`, `VISIBLE`, ...
    pub status: Vec<String>,
    /// What older versions may ignore.
    pub flags: Vec<String>,
    /// Of the LV.
    pub tags: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub creation_time: Option<u64>,
    /// Where it was made.
    pub creation_host: Option<String>,
    /// `contiguous`, `cling`, `normal`, `anywhere`; none is the group's.
    pub allocation_policy: Option<String>,
    /// In the order of the text, which is that of their extents.
    pub segments: Vec<Segment>,
}

/// Consecutive extents of an LV.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Of the LV.
    pub start_extent: u64,
    /// Of the LV: all stripes together.
    pub extent_count: u64,
    /// What they are.
    pub kind: SegmentKind,
}

/// What a segment's extents are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentKind {
    /// Extents of PVs. With one stripe LVM calls it linear.
    Striped {
        /// In sectors; 0 with one stripe.
        stripe_sectors: u64,
        /// At least one. Each has the same number of extents.
        stripes: Vec<Stripe>,
    },
    /// The content of a snapshot; its LV is a hidden one, see [`Snapshot`].
    Snapshot {
        /// Name of the LV that was snapshotted.
        origin: String,
        /// Name of the LV that holds the exceptions.
        cow: String,
        /// In sectors.
        chunk_sectors: u64,
        /// A merge was asked for.
        merging: bool,
    },
    /// Zeroes that lie nowhere: the origin of a snapshot that was made without one.
    Zero,
    /// Something that is only named here.
    Other {
        /// `raid1`, `thin-pool`, ...
        kind: String,
        /// Names of other LVs in it, each with its key.
        uses: Vec<(String, String)>,
        /// Of a thin pool: blocks are zeroed when they are given out.
        zeroes: bool,
    },
}

/// Where a stripe begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// A PV, or an LV below this one.
    pub on: Target,
    /// The first extent there.
    pub start_extent: u64,
}

/// What a stripe lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Index into [`VolumeGroup::pvs`].
    Pv(usize),
    /// Index into [`VolumeGroup::lvs`].
    Lv(usize),
    /// A name that stands for nothing in this group.
    Unknown(String),
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
}

impl PhysicalVolume {
    /// LVM lost this disk once and marked it: what is on it may be old.
    pub fn is_missing(&self) -> bool {
        has(&self.status, "MISSING") || has(&self.flags, "MISSING")
    }
}

impl LogicalVolume {
    /// Its size in extents.
    pub fn extents(&self) -> u64 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.extent_count))
    }

    /// Whether LVM lets anybody write to it.
    pub fn is_writable(&self) -> bool {
        has(&self.status, "WRITE")
    }

    /// The type of its segments as LVM names it: `linear`, `striped`, `raid1`, ...
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(|segment| segment.kind.name())
    }
}

impl SegmentKind {
    /// As LVM names it.
    pub fn name(&self) -> &str {
        match self {
            Self::Striped { stripes, .. } if stripes.len() == 1 => "linear",
            Self::Striped { .. } => "striped",
            Self::Snapshot { .. } => "snapshot",
            Self::Zero => "zero",
            Self::Other { kind, .. } => kind,
        }
    }
}

pub(crate) fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|found| found == word)
}
