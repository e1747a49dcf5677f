use std::collections::{HashMap, HashSet};

use super::VolumeGroup;
use super::fault::Fault;
use super::snapshot::Snapshot;
use super::volumes::{LogicalVolume, Segment, SegmentKind, Target};
use crate::bytes::{SECTOR_BYTES, Uuid};

/// Whatever contradicts itself in a group.
pub(super) fn find(group: &VolumeGroup) -> Vec<Fault> {
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
