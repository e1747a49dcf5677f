use std::collections::BTreeSet;

use dmsnap_images::{Name, Scan};

use crate::samples::{list, name, run, sample, samples, text, unexpected};

#[test]
fn every_volume_that_lvs_lists_is_there() {
    run(async {
        for sample in samples() {
            let scan = sample.scan().await;
            assert!(scan.is_sound(), "{}", sample.name);
            let groups: Vec<_> = scan.groups().collect();
            let [group] = groups[..] else { panic!("{}: one group", sample.name) };
            assert_eq!(group.found.vg.name, sample.group());
            let found: BTreeSet<_> = group.volumes().collect();
            for row in list(&sample.says["lvs"]) {
                let volume = text(&row["lv_name"]);
                // What stands in brackets is a part of another volume.
                if !volume.starts_with('[') {
                    assert!(found.contains(volume), "{}: {volume}", sample.name);
                    assert!(group.has(volume));
                }
            }
        }
    });
}

#[test]
fn an_origin_knows_its_snapshots_and_a_snapshot_its_origin() {
    run(async {
        let sample = sample("several");
        let scan = sample.scan().await;
        let group = scan.group_of(&name("vg0/root")).expect("it is there");
        let found = group.snapshots_of("root").await.expect("stores that can be read");
        let names: BTreeSet<_> = found.iter().map(|it| it.name.to_string()).collect();
        let expected = ["vg0/monday", "vg0/tuesday", "vg0/wednesday"];
        assert_eq!(names, expected.map(str::to_owned).into());
        assert!(found.iter().all(|it| it.valid && !it.merging && it.len_bytes == 24 * 65536));
        let origin = group.origin("monday").expect("a snapshot");
        assert_eq!((origin.name.to_string(), origin.snapshot_bytes), ("vg0/root".into(), 1572864));
        assert_eq!(group.origin("root"), None);
    });
}

#[test]
fn a_dropped_snapshot_and_one_that_merges_are_told_from_others() {
    run(async {
        for (sample_name, snapshot, merging, valid) in [
            ("full", "snap", false, false),
            ("full", "good", false, true),
            ("merging", "snap", true, true),
        ] {
            let scan = sample(sample_name).scan().await;
            let group = scan.group_of(&name("root")).expect("it is there");
            let found = group.snapshots_of("root").await.expect("stores that can be read");
            let found = found.iter().find(|it| it.name.volume == snapshot).expect("it is there");
            assert_eq!((found.merging, found.valid), (merging, valid), "{sample_name}: {snapshot}");
        }
    });
}

/// Two disks with a group `vg0` each: uuids tell them apart.
#[test]
fn groups_of_one_name_are_named_by_their_uuids() {
    run(async {
        let (a, b) = (sample("gpt"), sample("mbr"));
        let images = [&a.images[..], &b.images[..]].concat();
        let scan = Scan::look(&images, unexpected).await.expect("volume groups");
        let groups: Vec<_> = scan.groups().collect();
        let [first, second] = groups[..] else { panic!("two groups") };
        for group in [first, second] {
            let own = group.name_of("root");
            assert_eq!(own.group, Some(group.found.vg.id.to_string()));
            let again = scan.group_of(&own).expect("a uuid is of one group");
            assert_eq!(again.found.vg.id, group.found.vg.id);
            assert!(group.same_name().is_some());
        }
        let both = Name { group: Some("vg0".into()), volume: "root".into() };
        scan.group_of(&both).expect_err("it may be either");
    });
}
