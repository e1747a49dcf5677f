//! Disks with LVM on them, spoilt: read, listed, and rewritten as after a merge.

use std::cell::LazyCell;

use dmsnap_lvm::{Activity, CopyState, Group, Groups, Stamp, Step, TextPlace, VolumeGroup};

use crate::disks::{Disks, sets};
use crate::input::{Input, told};

/// So many pieces of an LV are looked at.
const MOST_PIECES: usize = 20_000;

thread_local! {
    static SETS: LazyCell<Vec<Disks>> = LazyCell::new(sets);
}

/// Which disks, what becomes of them, and which snapshot was merged.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let which = usize::from(input.u8());
    let mut disks = SETS.with(|sets| sets[which % sets.len()].copy());
    disks.spoil(&mut input);
    let groups = Groups::assemble(&disks.scan());
    for group in &groups.groups {
        told(|| format!("group {:?}, problems {:?}", group.vg.name, group.problems));
        is_listed(group);
        are_mappings_apart(group, &disks);
        for snapshot in group.vg.snapshots() {
            is_rewritten(group, &snapshot.name, &disks);
            is_marked(group, &snapshot.name, &disks);
        }
    }
}

fn is_listed(group: &Group) {
    let vg = &group.vg;
    let again = VolumeGroup::parse(&group.text).expect("it was read before");
    assert_eq!(told_of(&again), told_of(vg));
    assert_eq!(vg.vg_attr(group.is_partial()).chars().count(), 6);
    assert!(vg.free_extents() <= vg.extents());
    for lv in &vg.lvs {
        for partial in [false, true] {
            assert_eq!(vg.lv_attr(lv, Activity::default(), partial).chars().count(), 10);
        }
        let _ = (vg.lv_layout(lv), vg.lv_role(lv), vg.size_bytes(lv), vg.role(lv));
        assert_eq!(vg.lv(&lv.name).map(|lv| lv.id), Some(lv.id));
    }
}

/// Everything but who wrote it, and when.
fn told_of(vg: &VolumeGroup) -> String {
    format!("{:?} {:?} {:?} {:?} {:?}", vg.name, vg.id, vg.status, vg.pvs, vg.lvs)
}

/// Every byte of an LV lies on its PV, and no other LV has it.
fn are_mappings_apart(group: &Group, disks: &Disks) {
    let mut taken: Vec<(usize, u64, u64)> = Vec::new();
    for lv in &group.vg.lvs {
        let Ok(mapping) = group.mapping(&lv.name) else { continue };
        let (mut at, mut whole) = (0, true);
        // Those lie nowhere.
        let of_zeroes = mapping.segments.iter().any(|segment| segment.columns.is_empty());
        for (n, piece) in mapping.pieces().enumerate() {
            whole = n < MOST_PIECES;
            if !whole {
                break;
            }
            let place = group.places[piece.pv].expect("it is there");
            assert!(piece.len > 0 && piece.start + piece.len <= place.place.len, "{piece:?}");
            let end = place.place.start + place.place.len;
            assert!(end <= disks.len_bytes(place.disk));
            assert!(of_zeroes || mapping.piece(at) == Some(piece));
            at += piece.len;
            taken.push((piece.pv, piece.start, piece.start + piece.len));
        }
        let len = mapping.len_bytes();
        assert!(!whole || len == group.vg.size_bytes(lv) && (of_zeroes || at == len));
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        let [(pv, _, end), (other, start, _)] = pair else { continue };
        assert!(pv != other || end <= start, "two LVs have the same bytes: {pair:?}");
    }
}

/// If the text can be written without the snapshot, it is what a reader finds, and all else is as it
/// was. Cut short after any step, a reader finds the old or the new one.
fn is_rewritten(group: &Group, snapshot: &str, disks: &Disks) {
    let stamp = Stamp { description: "Merged \"it\".".into(), host: "here".into(), time: 1 << 31 };
    let rewrite = match group.finish_merge(snapshot, &stamp) {
        Ok(rewrite) => rewrite,
        Err(error) => return told(|| format!("{snapshot}: {error}")),
    };
    told(|| format!("{snapshot} is taken out"));
    let after = disks.copy();
    for step in &rewrite.steps {
        is_allowed(group, step);
        after.apply(std::slice::from_ref(step));
        if matches!(step, Step::Flush { .. }) {
            let text = read_again(&after, group).text;
            assert!(text == group.text || text == rewrite.text, "neither old nor new");
        }
    }
    let found = read_again(&after, group);
    assert!(found.text == rewrite.text, "another text");
    assert_eq!((&found.problems[..], found.vg.faults()), (&[][..], &[][..]));
    assert_eq!(found.vg.seqno, group.vg.seqno + 1);
    // A text that told nothing of the kind is left so.
    let told = group.vg.description.as_ref().map(|_| "Merged \"it\".");
    assert_eq!(found.vg.description.as_deref(), told);
    let holder = &group.vg.snapshot(snapshot).expect("there").holder;
    let mut expected = group.vg.clone();
    expected.lvs.retain(|lv| lv.name != snapshot && lv.name != *holder);
    assert_eq!(told_of(&found.vg), told_of(&expected));
}

/// The mark of a merge, and what comes after it: planned before the mark is written, and right when it is.
fn is_marked(group: &Group, snapshot: &str, disks: &Disks) {
    let stamp = Stamp { description: "Merging.".into(), host: "here".into(), time: 1 << 31 };
    let Ok(merge) = group.merge(snapshot, &stamp, &stamp) else { return };
    let Some(mark) = merge.mark else { return };
    let after = disks.copy();
    for step in &mark.steps {
        is_allowed(group, step);
        after.apply(std::slice::from_ref(step));
    }
    let marked = read_again(&after, group);
    assert!(marked.text == mark.text && marked.vg.snapshot(snapshot).is_some_and(|it| it.merging));
    assert!(marked.is_marked_since(&group.text, snapshot), "what was kept is known again");
    for step in &merge.finish.steps {
        is_allowed(&marked, step);
        after.apply(std::slice::from_ref(step));
    }
    let found = read_again(&after, group);
    assert!(found.text == merge.finish.text && found.vg.seqno == group.vg.seqno + 2);
}

fn read_again(disks: &Disks, group: &Group) -> Group {
    let groups = Groups::assemble(&disks.scan()).groups;
    groups.into_iter().find(|it| it.vg.id == group.vg.id).expect("it was there before")
}

/// Only metadata areas are written, and nothing of a text in force.
fn is_allowed(group: &Group, step: &Step) {
    let Step::Write { disk, start, bytes } = step else { return };
    let (start, end) = (*start, start + bytes.len() as u64);
    let allowed = group.copies.iter().any(|copy| {
        let (Some(place), Some(area)) = (group.places[copy.pv], &copy.area) else { return false };
        let base = place.place.start + area.place.start;
        let used = matches!(copy.state, CopyState::Current | CopyState::Differs);
        let clear = area.live.iter().flat_map(TextPlace::ranges).all(|live| {
            end <= place.place.start + live.start || place.place.start + live.end <= start
        });
        let inside = base <= start && end <= base + area.place.len;
        place.disk == *disk && used && inside && clear
    });
    assert!(allowed, "disk {disk}, {start}..{end} is written");
}
