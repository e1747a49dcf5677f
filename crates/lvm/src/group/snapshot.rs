use std::collections::HashMap;

use super::volumes::{LogicalVolume, SegmentKind};

/// A snapshot as users know it.
///
/// LVM stores it as two LVs: one with the name that the user gave it, which holds the exceptions
/// (the COW device), and a hidden one (`snapshot0`, ...) whose only segment ties the first one
/// to the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Name of the LV that holds the exceptions, and of the snapshot itself.
    pub name: String,
    /// Name of the LV that was snapshotted.
    pub origin: String,
    /// Name of the hidden LV.
    pub holder: String,
    /// Of a chunk, in sectors.
    pub chunk_sectors: u64,
    /// `lvconvert --merge` was run, and the merge has not ended.
    pub merging: bool,
}

/// All snapshots of a group, and where to find them.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots {
    all: Vec<Snapshot>,
    by_name: HashMap<String, usize>,
    by_origin: HashMap<String, Vec<usize>>,
}

impl Snapshots {
    pub(super) fn find(lvs: &[LogicalVolume]) -> Self {
        let mut found = Self::default();
        for lv in lvs {
            let kinds = lv.segments.iter().map(|segment| &segment.kind);
            kinds.for_each(|kind| found.add(lv, kind));
        }
        found
    }

    fn add(&mut self, holder: &LogicalVolume, kind: &SegmentKind) {
        let SegmentKind::Snapshot { origin, cow, chunk_sectors, merging } = kind else { return };
        let index = self.all.len();
        self.by_name.entry(cow.clone()).or_insert(index);
        self.by_origin.entry(origin.clone()).or_default().push(index);
        self.all.push(Snapshot {
            name: cow.clone(),
            origin: origin.clone(),
            holder: holder.name.clone(),
            chunk_sectors: *chunk_sectors,
            merging: *merging,
        });
    }

    pub(super) fn all(&self) -> &[Snapshot] {
        &self.all
    }

    pub(super) fn named(&self, name: &str) -> Option<&Snapshot> {
        self.by_name.get(name).map(|index| &self.all[*index])
    }

    pub(super) fn of(&self, origin: &str) -> impl Iterator<Item = &Snapshot> {
        let indices = self.by_origin.get(origin).into_iter().flatten();
        indices.map(|index| &self.all[*index])
    }
}
