use std::collections::HashMap;

use crate::bytes::Uuid;

/// What contradicts itself in a volume group's metadata. LVM writes nothing of the kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Fault {
    /// An LV without any extent.
    #[error("{lv} has no segment")]
    Empty { lv: String },
    /// Its segments do not follow each other.
    #[error("{lv} has a segment that begins at extent {found}, where {expected} comes next")]
    Gap { lv: String, expected: u64, found: u64 },
    /// A size in bytes that no disk has.
    #[error("{lv} is larger than any disk")]
    TooLarge { lv: String },
    /// A segment whose stripes cannot have the same number of extents.
    #[error("{lv} has {extents} extents in {stripes} stripes")]
    Uneven { lv: String, extents: u64, stripes: usize },
    /// The size of stripes is not a power of two, or larger than an extent.
    #[error("{lv} has stripes of {sectors} sectors")]
    StripeSize { lv: String, sectors: u64 },
    /// Neither a PV nor an LV of this group.
    #[error("{lv} lies on {target:?}, which is nowhere in the group")]
    UnknownTarget { lv: String, target: String },
    /// Extents that the PV does not have.
    #[error("{lv} has extents {start} to {last} of {pv}, which has {pe_count}")]
    BeyondPv { lv: String, pv: String, start: u64, last: u64, pe_count: u64 },
    /// Two LVs, or two segments of one, with the same extent.
    #[error("{lv} and {other} both have extent {extent} of {pv}")]
    Overlap { lv: String, other: String, pv: String, extent: u64 },
    /// An LV that lies on itself, perhaps by way of others.
    #[error("{lv} lies on itself")]
    Loop { lv: String },
    /// The extents of a PV do not fit its disk.
    #[error("{pv} has {pe_count} extents from sector {pe_start} on, more than its disk holds")]
    PvSize { pv: String, pe_start: u64, pe_count: u64 },
    /// Two PVs or two LVs with the same identity.
    #[error("{name} and {other} have the same uuid {id}")]
    SameId { name: String, other: String, id: Uuid },
    /// A snapshot of an LV that is not there, or whose COW device is not.
    #[error("snapshot {lv} needs {part}, which is nowhere in the group")]
    SnapshotPart { lv: String, part: String },
    /// An LV that is the COW device of two snapshots.
    #[error("{cow} is the COW device of both {lv} and {other}")]
    SharedCow { cow: String, lv: String, other: String },
    /// A chunk size that the kernel refuses.
    #[error("snapshot {lv} has chunks of {sectors} sectors")]
    ChunkSize { lv: String, sectors: u64 },
    /// LVM makes no snapshot of a snapshot.
    #[error("snapshot {lv} is one of {part}, which belongs to a snapshot itself")]
    Nested { lv: String, part: String },
    /// Two snapshots of one origin that both merge.
    #[error("{origin} has more than one snapshot that merges")]
    SeveralMerges { origin: String },
}

impl Fault {
    /// The LVs whose content it makes uncertain.
    fn lvs(&self) -> [Option<&str>; 3] {
        match self {
            Self::Empty { lv }
            | Self::Gap { lv, .. }
            | Self::TooLarge { lv }
            | Self::Uneven { lv, .. }
            | Self::StripeSize { lv, .. }
            | Self::UnknownTarget { lv, .. }
            | Self::BeyondPv { lv, .. }
            | Self::Loop { lv }
            | Self::ChunkSize { lv, .. }
            | Self::SeveralMerges { origin: lv } => [Some(lv), None, None],
            Self::Overlap { lv, other, .. } | Self::SameId { name: lv, other, .. } => {
                [Some(lv), Some(other), None]
            }
            Self::SnapshotPart { lv, part } | Self::Nested { lv, part } => {
                [Some(lv), Some(part), None]
            }
            Self::SharedCow { cow, lv, other } => [Some(cow), Some(lv), Some(other)],
            Self::PvSize { .. } => [None; 3],
        }
    }
}

/// All faults of a group, and where to find them.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    all: Vec<Fault>,
    /// The first one of each LV.
    by_lv: HashMap<String, usize>,
    /// The first one of each PV.
    by_pv: HashMap<String, usize>,
}

impl Faults {
    pub(super) fn new(all: Vec<Fault>) -> Self {
        let mut found = Self { all, ..Self::default() };
        for (index, fault) in found.all.iter().enumerate() {
            if let Fault::PvSize { pv, .. } = fault {
                found.by_pv.entry(pv.clone()).or_insert(index);
            }
            for lv in fault.lvs().into_iter().flatten() {
                found.by_lv.entry(lv.to_owned()).or_insert(index);
            }
        }
        found
    }

    pub(super) fn all(&self) -> &[Fault] {
        &self.all
    }

    /// Whatever makes the content of that LV uncertain.
    pub(super) fn of_lv(&self, name: &str) -> Option<&Fault> {
        self.by_lv.get(name).map(|index| &self.all[*index])
    }

    /// Whatever makes the places on that PV uncertain.
    pub(super) fn of_pv(&self, name: &str) -> Option<&Fault> {
        self.by_pv.get(name).map(|index| &self.all[*index])
    }
}
