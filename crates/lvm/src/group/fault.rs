use std::collections::{HashMap, HashSet};

use super::{LogicalVolume, Segment, SegmentKind, Snapshot, Target, VolumeGroup};
use crate::bytes::{SECTOR_BYTES, Uuid};

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
    pub(super) fn find(group: &VolumeGroup) -> Self {
        let mut found = Self { all: find(group), ..Self::default() };
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

fn find(group: &VolumeGroup) -> Vec<Fault> {
    let mut found = Vec::new();
    pvs(group, &mut found);
    for lv in &group.lvs {
        segments(group, lv, &mut found);
        for segment in &lv.segments {
            stripes(group, lv, segment, &mut found);
        }
    }
    overlaps(group, &mut found);
    loops(group, &mut found);
    snapshots(group, &mut found);
    found
}

fn pvs(group: &VolumeGroup, found: &mut Vec<Fault>) {
    for pv in &group.pvs {
        let sectors = pv.pe_count.checked_mul(group.extent_sectors);
        let end = sectors.and_then(|sectors| sectors.checked_add(pv.pe_start_sectors));
        let fits = end.is_some_and(|end| {
            end <= i64::MAX as u64 / SECTOR_BYTES && pv.dev_sectors.is_none_or(|all| end <= all)
        });
        if !fits {
            let (pe_start, pe_count) = (pv.pe_start_sectors, pv.pe_count);
            found.push(Fault::PvSize { pv: pv.name.clone(), pe_start, pe_count });
        }
    }
    let pvs = group.pvs.iter().map(|pv| (pv.id, &pv.name));
    same_ids(pvs, found);
    same_ids(group.lvs.iter().map(|lv| (lv.id, &lv.name)), found);
}

fn same_ids<'a>(named: impl Iterator<Item = (Uuid, &'a String)>, found: &mut Vec<Fault>) {
    let mut seen = HashMap::new();
    for (id, name) in named {
        if let Some(other) = seen.insert(id, name) {
            found.push(Fault::SameId { name: name.clone(), other: other.clone(), id });
        }
    }
}

fn segments(group: &VolumeGroup, lv: &LogicalVolume, found: &mut Vec<Fault>) {
    let name = || lv.name.clone();
    if lv.segments.is_empty() {
        found.push(Fault::Empty { lv: name() });
    }
    let mut expected = 0;
    for segment in &lv.segments {
        if segment.start_extent != expected {
            found.push(Fault::Gap { lv: name(), expected, found: segment.start_extent });
        }
        expected = segment.start_extent.saturating_add(segment.extent_count);
    }
    if group.size_bytes(lv) > i64::MAX as u64 {
        found.push(Fault::TooLarge { lv: name() });
    }
}

fn stripes(group: &VolumeGroup, lv: &LogicalVolume, segment: &Segment, found: &mut Vec<Fault>) {
    let SegmentKind::Striped { stripe_sectors, stripes } = &segment.kind else { return };
    let name = || lv.name.clone();
    let (extents, sectors) = (segment.extent_count, *stripe_sectors);
    if extents % stripes.len() as u64 != 0 {
        found.push(Fault::Uneven { lv: name(), extents, stripes: stripes.len() });
    }
    if stripes.len() > 1 && !(sectors.is_power_of_two() && sectors <= group.extent_sectors) {
        found.push(Fault::StripeSize { lv: name(), sectors });
    }
    for stripe in stripes {
        match &stripe.on {
            Target::Unknown(target) => {
                found.push(Fault::UnknownTarget { lv: name(), target: target.clone() });
            }
            Target::Lv(_) => {}
            Target::Pv(index) => {
                let pv = &group.pvs[*index];
                let (start, pe_count) = (stripe.start_extent, pv.pe_count);
                let last = start.saturating_add(extents.div_ceil(stripes.len() as u64)) - 1;
                if last >= pe_count {
                    let pv = pv.name.clone();
                    found.push(Fault::BeyondPv { lv: name(), pv, start, last, pe_count });
                }
            }
        }
    }
}

/// Sorts what LVs have of each PV, and compares neighbours.
fn overlaps(group: &VolumeGroup, found: &mut Vec<Fault>) {
    let mut taken = Vec::new();
    for (index, lv) in group.lvs.iter().enumerate() {
        for segment in &lv.segments {
            let SegmentKind::Striped { stripes, .. } = &segment.kind else { continue };
            let extents = segment.extent_count.div_ceil(stripes.len() as u64);
            for stripe in stripes {
                if let Target::Pv(pv) = stripe.on {
                    let end = stripe.start_extent.saturating_add(extents);
                    taken.push((pv, stripe.start_extent, end, index));
                }
            }
        }
    }
    taken.sort_unstable();
    let mut widest: Option<(usize, u64, u64, usize)> = None;
    for now in taken {
        if let Some(before) = widest.filter(|before| before.0 == now.0) {
            if now.1 < before.2 {
                let name = |index: usize| group.lvs[index].name.clone();
                let (lv, other, pv) = (name(before.3), name(now.3), group.pvs[now.0].name.clone());
                found.push(Fault::Overlap { lv, other, pv, extent: now.1 });
            }
            if now.2 <= before.2 {
                continue;
            }
        }
        widest = Some(now);
    }
}

/// Walks down from every LV to those it lies on, without recursion: nobody knows how deep that is.
fn loops(group: &VolumeGroup, found: &mut Vec<Fault>) {
    let mut done = HashSet::new();
    for start in 0..group.lvs.len() {
        let mut way: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut open = HashSet::new();
        let mut enter = Some(start);
        loop {
            if let Some(lv) = enter.take() {
                if open.contains(&lv) {
                    found.push(Fault::Loop { lv: group.lvs[lv].name.clone() });
                } else if !done.contains(&lv) {
                    open.insert(lv);
                    way.push((lv, below(group, lv)));
                }
            }
            let Some((lv, rest)) = way.last_mut() else { break };
            enter = rest.pop();
            if enter.is_none() {
                done.insert(*lv);
                open.remove(lv);
                way.pop();
            }
        }
    }
}

/// The LVs that one consists of.
fn below(group: &VolumeGroup, lv: usize) -> Vec<usize> {
    let mut found = Vec::new();
    for segment in &group.lvs[lv].segments {
        match &segment.kind {
            SegmentKind::Striped { stripes, .. } => {
                found.extend(stripes.iter().filter_map(|stripe| match stripe.on {
                    Target::Lv(lv) => Some(lv),
                    _ => None,
                }));
            }
            SegmentKind::Snapshot { origin, cow, .. } => {
                found.extend([origin, cow].into_iter().filter_map(|name| group.index(name)));
            }
            SegmentKind::Zero => {}
            SegmentKind::Other { uses, .. } => {
                found.extend(uses.iter().filter_map(|(_, name)| group.index(name)));
            }
        }
    }
    found
}

fn snapshot_parts(group: &VolumeGroup, snapshot: &Snapshot, found: &mut Vec<Fault>) {
    let lv = || snapshot.holder.clone();
    for part in [&snapshot.origin, &snapshot.name] {
        match group.lv(part) {
            None => found.push(Fault::SnapshotPart { lv: lv(), part: part.clone() }),
            Some(part) if part.is_holder() => {
                found.push(Fault::Nested { lv: lv(), part: part.name.clone() });
            }
            Some(_) => {}
        }
    }
    if group.snapshot(&snapshot.origin).is_some() {
        found.push(Fault::Nested { lv: lv(), part: snapshot.origin.clone() });
    }
    let sectors = snapshot.chunk_sectors;
    if !sectors.is_power_of_two() || sectors > i32::MAX as u64 {
        found.push(Fault::ChunkSize { lv: lv(), sectors });
    }
}

fn snapshots(group: &VolumeGroup, found: &mut Vec<Fault>) {
    let (mut cows, mut merging) = (HashMap::new(), HashSet::new());
    for snapshot in group.snapshots() {
        if let Some(other) = cows.insert(&snapshot.name, &snapshot.holder) {
            let (cow, lv) = (snapshot.name.clone(), snapshot.holder.clone());
            found.push(Fault::SharedCow { cow, lv, other: other.clone() });
        }
        if snapshot.merging && !merging.insert(&snapshot.origin) {
            found.push(Fault::SeveralMerges { origin: snapshot.origin.clone() });
        }
        snapshot_parts(group, snapshot, found);
    }
}
