//! Volumes of many types, and what `lvs` of LVM2 2.03.16 said of them when it had restored the text
//! next to this file, without a kernel's device-mapper: an `X` is what it could not know then.

use dmsnap_lvm::{Activity, VolumeGroup};

const TEXT: &[u8] = include_bytes!("attributes/kinds.vg");
/// Name, attributes, layout, role, origin, size of the origin, whether it merges.
const LVS: &str = include_str!("attributes/kinds.lvs");

#[test]
fn volumes_of_every_type_are_as_lvs_shows_them() {
    let vg = VolumeGroup::parse(TEXT).expect("it is sound");
    assert_eq!(vg.faults(), []);
    let mut seen = 0;
    for row in LVS.lines() {
        let [shown, attr, layout, role, origin, ..] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let lv = vg.lv(shown.trim_matches(['[', ']'])).expect("it is in the group");
        let name = if vg.is_visible(lv) { lv.name.clone() } else { format!("[{}]", lv.name) };
        assert_eq!(name, shown);
        let found = vg.lv_attr(lv, Activity::Inactive, false);
        assert_eq!(found, attr.replace('X', "-"), "{shown}");
        assert_eq!(vg.lv_layout(lv), layout, "{shown}");
        assert_eq!(vg.lv_role(lv), role, "{shown}");
        assert_eq!(vg.origin_of(lv).unwrap_or_default(), origin, "{shown}");
        seen += 1;
    }
    assert_eq!(seen, vg.lvs.iter().filter(|lv| !lv.is_holder()).count());
}

/// Its origin lies nowhere, so nothing can be merged into it.
#[test]
fn a_virtual_origin_is_zeroes_that_lie_nowhere() {
    let vg = VolumeGroup::parse(TEXT).expect("it is sound");
    let snapshot = vg.snapshot("sp").expect("it is in the group");
    assert!(vg.has_virtual_origin(snapshot));
    assert!(!vg.has_virtual_origin(vg.snapshot("snap").expect("it is in the group")));
    assert_eq!(vg.snapshot_bytes(snapshot), 64 * 65536);
    let origin = vg.mapping("sp_vorigin").expect("it is mapped");
    assert_eq!((origin.len_bytes(), origin.pieces().count()), (64 * 65536, 0));
    assert_eq!((origin.piece(0), origin.pvs().len()), (None, 0));
}
