use crate::bytes::Uuid;

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
    /// The content of a snapshot; its LV is a hidden one, see [`Snapshot`](super::Snapshot).
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
    /// Index into [`VolumeGroup::pvs`](super::VolumeGroup::pvs).
    Pv(usize),
    /// Index into [`VolumeGroup::lvs`](super::VolumeGroup::lvs).
    Lv(usize),
    /// A name that stands for nothing in this group.
    Unknown(String),
}

/// How many thin LVs are snapshots of one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThinOrigin {
    /// In its own pool.
    pub(super) snapshots: usize,
    /// In a pool that has nothing to do with it.
    pub(super) external: usize,
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

    /// A hidden LV that ties a COW device to its origin.
    pub fn is_holder(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment.kind, SegmentKind::Snapshot { .. }))
    }

    /// Of a thin LV that is a snapshot, the key in its segment and the name of its origin.
    pub(super) fn thin_origin(&self) -> Option<(&str, &str)> {
        let SegmentKind::Other { kind, uses, .. } = &self.segments.first()?.kind else {
            return None;
        };
        let is_origin = |(key, _): &&(String, String)| key == "origin" || key == "external_origin";
        let (key, name) = uses.iter().find(is_origin).filter(|_| kind == "thin")?;
        Some((key, name))
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
