//! What is read from the disks that real LVM wrote, against LVM's own reports about them.

use crate::common::{bytes, content, group, rows, samples, text};
use dmsnap_lvm::{Activity, CopyState, Group, SegmentKind, Target};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A row of `vgs`.
fn vg_row(group: &Group) -> Value {
    let vg = &group.vg;
    let b = |extents: u64| format!("{}B", extents * vg.extent_bytes());
    json!({
        "vg_name": vg.name,
        "vg_uuid": vg.id.to_string(),
        "vg_attr": vg.vg_attr(group.is_partial()),
        "vg_size": b(vg.extents()),
        "vg_free": b(vg.free_extents()),
        "vg_extent_size": b(1),
        "vg_seqno": vg.seqno.to_string(),
        "vg_tags": vg.tags.join(","),
        "pv_count": vg.pvs.len().to_string(),
        "lv_count": vg.logical_volumes().count().to_string(),
        "snap_count": vg.snapshots().len().to_string(),
        "vg_exported": if vg.is_exported() { "exported" } else { "" },
        "vg_partial": "",
    })
}

/// A row of `lvs -a`.
fn lv_row(group: &Group, name: &str) -> Value {
    let vg = &group.vg;
    let lv = vg.lv(name).expect("it is in the group");
    let snapshot = vg.snapshot(name);
    let merges = vg.snapshots_of(name).chain(snapshot).any(|snapshot| snapshot.merging);
    let origin =
        snapshot.map_or(lv, |snapshot| vg.lv(&snapshot.origin).expect("it is in the group"));
    let chunk = snapshot.map_or(0, |snapshot| snapshot.chunk_sectors * 512);
    let involved = snapshot.is_some() || vg.snapshots_of(name).next().is_some();
    json!({
        "lv_name": if vg.is_visible(lv) { name.to_owned() } else { format!("[{name}]") },
        "vg_name": vg.name,
        "lv_uuid": lv.id.to_string(),
        "lv_attr": vg.lv_attr(lv, Activity::Inactive, false),
        "lv_layout": vg.lv_layout(lv),
        "lv_role": vg.lv_role(lv),
        "lv_size": format!("{}B", vg.size_bytes(lv)),
        "origin": vg.origin_of(lv).unwrap_or_default(),
        "origin_size": if involved { format!("{}B", vg.size_bytes(origin)) } else { String::new() },
        "chunk_size": format!("{chunk}B"),
        "lv_merging": if merges { "merging" } else { "" },
        "seg_count": lv.segments.len().to_string(),
        "lv_tags": lv.tags.join(","),
    })
}

#[test]
fn volume_groups_are_as_vgs_shows_them() {
    for sample in samples() {
        let group = group(&sample.images());
        assert_eq!(vg_row(&group), sample.says["vgs"][0], "{}", sample.name);
        assert_eq!(group.vg.faults(), [], "{}", sample.name);
        assert_eq!(group.problems, [], "{}", sample.name);
        assert!(group.text == text(&sample.name), "{}", sample.name);
    }
}

#[test]
fn logical_volumes_are_as_lvs_shows_them() {
    for sample in samples() {
        let group = group(&sample.images());
        for expected in rows(&sample.says["lvs"]) {
            let name =
                expected["lv_name"].as_str().expect("it is in the group").trim_matches(['[', ']']);
            let found = lv_row(&group, name);
            for (key, found) in found.as_object().expect("it is in the group") {
                // A pool's own chunks are not read.
                if key == "chunk_size"
                    && expected["lv_attr"].as_str().expect("it is in the group").starts_with('t')
                {
                    continue;
                }
                assert_eq!(*found, expected[key], "{}/{name}: {key}", sample.name);
            }
        }
        let hidden = group.vg.lvs.iter().filter(|lv| lv.is_holder()).count();
        assert_eq!(group.vg.lvs.len() - hidden, rows(&sample.says["lvs"]).len());
    }
}

#[test]
fn physical_volumes_are_as_pvs_shows_them() {
    for sample in samples() {
        let images = sample.images();
        let group = group(&images);
        for (index, pv) in group.vg.pvs.iter().enumerate() {
            let id = pv.id.to_string();
            let mut rows = rows(&sample.says["pvs"]).iter();
            let row = rows.find(|row| row["pv_uuid"] == id).expect("it is in the group");
            let place = group.places[index].expect("it is in the group");
            let areas = group.copies.iter().filter(|copy| copy.pv == index);
            assert_eq!(bytes(&row["pv_size"]), pv.pe_count * group.vg.extent_bytes());
            assert_eq!(bytes(&row["pe_start"]), pv.pe_start_sectors * 512);
            assert_eq!(bytes(&row["dev_size"]), place.place.len);
            assert_eq!(row["pv_mda_count"], areas.clone().count().to_string());
            assert!(areas.into_iter().all(|copy| copy.state == CopyState::Current));
            assert_eq!(row["pv_tags"], pv.tags.join(","));
            assert_eq!(pv.dev_sectors, Some(place.place.len / 512));
            let number = row["pv_name"]
                .as_str()
                .expect("it is in the group")
                .strip_prefix("/dev/ubd")
                .expect("it is in the group")[1..]
                .parse()
                .ok();
            assert_eq!(place.partition, number, "{}", sample.name);
        }
    }
}

/// A row of `lvs --segments`, of segments on PVs.
fn segment_rows(group: &Group) -> Vec<Value> {
    let vg = &group.vg;
    let b = |extents: u64| format!("{}B", extents * vg.extent_bytes());
    let mut found = Vec::new();
    for lv in &vg.lvs {
        for segment in &lv.segments {
            let SegmentKind::Striped { stripe_sectors, stripes } = &segment.kind else { continue };
            let each = segment.extent_count / stripes.len() as u64;
            let ranges = stripes.iter().map(|stripe| {
                let Target::Pv(pv) = stripe.on else { panic!("not on a PV") };
                let place = group.places[pv].expect("it is in the group");
                let disk = ['a', 'b'][place.disk];
                let part = place.partition.map_or(String::new(), |number| number.to_string());
                let (first, last) = (stripe.start_extent, stripe.start_extent + each - 1);
                format!("/dev/ubd{disk}{part}:{first}-{last}")
            });
            let name = &lv.name;
            found.push(json!({
                "lv_name": if vg.is_visible(lv) { name.clone() } else { format!("[{name}]") },
                "vg_name": vg.name,
                "segtype": segment.kind.name(),
                "seg_start": b(segment.start_extent),
                "seg_size": b(segment.extent_count),
                "stripes": stripes.len().to_string(),
                "stripe_size": format!("{}B", stripe_sectors * 512),
                "seg_pe_ranges": ranges.collect::<Vec<_>>().join(" "),
            }));
        }
    }
    found.sort_by_key(ToString::to_string);
    found
}

#[test]
fn segments_are_as_lvs_shows_them() {
    for sample in samples() {
        let on_pvs = |row: &&Value| row["segtype"] == "linear" || row["segtype"] == "striped";
        let mut expected: Vec<_> =
            rows(&sample.says["segs"]).iter().filter(on_pvs).cloned().collect();
        expected.sort_by_key(ToString::to_string);
        assert_eq!(segment_rows(&group(&sample.images())), expected, "{}", sample.name);
    }
}

#[test]
fn every_mapping_leads_to_the_bytes_of_its_lv() {
    let mut compared = 0;
    for sample in samples() {
        let images = sample.images();
        let group = group(&images);
        for (name, expected) in sample.says["content"].as_object().expect("it is in the group") {
            let Some(expected) = expected["raw_sha256"].as_str() else { continue };
            if group
                .vg
                .lv(name)
                .expect("it is in the group")
                .kinds()
                .any(|kind| kind != "linear" && kind != "striped")
            {
                continue;
            }
            let content = content(&group, &images, name);
            assert_eq!(
                group.mapping(name).expect("it is in the group").len_bytes(),
                content.len() as u64
            );
            let found = Sha256::digest(&content);
            let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected, "{}/{name}", sample.name);
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared}");
}

#[test]
fn other_types_are_named_and_refused() {
    let sample = crate::common::sample("others");
    let group = group(&sample.images());
    let refused = |name: &str| group.mapping(name).expect_err("it is refused").to_string();
    assert_eq!(
        refused("safe"),
        "safe is of type raid1, which is not supported (only linear, striped and zero are)"
    );
    assert!(refused("pool").contains("type thin-pool"));
    assert!(refused("thin").contains("type thin,"));
    assert!(refused("snapshot0").contains("type snapshot"));
    assert_eq!(refused("none"), "volume group vg0 has no logical volume none");
}
