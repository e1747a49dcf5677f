use std::fs;

use serde_json::Value;

use crate::common::parsed;
use crate::lvm::samples::{Sample, folder, index, sample, sha256, text};

/// A row of an LVM report after its merge, when everything is active, as it is when nothing is.
fn inactive(row: &Value) -> Value {
    let mut row = row.clone();
    let attr = text(&row["lv_attr"]);
    let active = &attr[4..5];
    let active = if active == "a" { "-" } else { active };
    row["lv_attr"] = format!("{}{active}-{}", &attr[..4], &attr[6..]).into();
    row
}

/// What LVM's own merge left, on the origin and in its other snapshots.
pub(crate) fn assert_like_lvms(sample: &Sample, snapshot: &str, says: &Value) {
    let told = format!("{}: {snapshot}", sample.name);
    let origin = text(&sample.says["content"][snapshot]["origin"]);
    assert_eq!(sha256(&sample.extents(origin)), text(&says["origin_sha256"]), "{told}");
    for (other, hash) in says["others"].as_object().expect("an object") {
        match hash.as_str() {
            Some(hash) => assert_eq!(sample.exported(other), hash, "{told}: {other}"),
            None => {
                let listed = &sample.listed(&[])[other];
                assert_eq!(listed["lv_snapshot_invalid"], "snapshot invalid", "{told}: {other}");
            }
        }
    }
}

/// Each merge that LVM did once, on a fresh copy of the same disks.
#[test]
fn every_merge_ends_as_lvms_own_does() {
    let mut seen = 0;
    for name in index().keys() {
        for (snapshot, says) in sample(name).merges() {
            let sample = sample(name);
            if name == "exported" {
                continue;
            }
            let drop_full = says["others"].as_object().expect("an object").values();
            let drop_full = drop_full.filter(|hash| hash.is_null()).count() == 1 && name != "full";
            let options: &[&str] = if drop_full { &["--drop-full"] } else { &[] };
            let volume = sample.volume(&snapshot);
            let ran = sample.lvm("merge", &[&[&*volume], options].concat());
            assert_eq!(ran.status, 0, "{name}: {snapshot}: {}", ran.stderr);
            assert_eq!(ran.stderr.contains("dropped"), drop_full, "{}", ran.stderr);
            assert_like_lvms(&sample, &snapshot, &says);

            let listed = sample.listed(&["--all"]);
            let rows = crate::lvm::samples::by_name(&says["lvs"]);
            assert_eq!(listed.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
            for (lv, row) in rows.iter().filter(|_| name != "others") {
                assert_eq!(listed[lv], inactive(row), "{name}: {snapshot}: {lv}");
            }

            let seqno = text(&sample.says["vgs"][0]["vg_seqno"]);
            let backup = format!("a.img.{}-{seqno}.vg", sample.group());
            let kept = fs::read(sample.dir.path(&backup)).expect("the old text is kept");
            let old = fs::read(folder().join(format!("{name}.vg"))).expect("read");
            assert_eq!(kept, old.strip_suffix(b"\0").unwrap_or(&old), "{name}");
            assert!(ran.stdout.contains(&backup), "{}", ran.stdout);
            seen += 1;
        }
    }
    assert!(seen >= 16, "{seen} merges");
}

/// A crash after the data and before the metadata leaves a snapshot with an empty store.
#[test]
fn a_merge_whose_metadata_was_not_written_is_finished_by_the_same_command() {
    for name in ["one-pv", "several", "merging", "two-pvs"] {
        let sample = sample(name);
        let (snapshot, says) = sample.merges().swap_remove(0);
        let volume = sample.volume(&snapshot);
        sample.lvm("merge", &[&volume, "--no-metadata"]).ok();
        assert_eq!(sample.listed(&[])[&snapshot]["data_percent"], "0.00", "{name}");
        assert_eq!(sample.dir.names().iter().filter(|it| it.ends_with(".vg")).count(), 0);
        let again = sample.lvm("merge", &["--json", &volume]).ok();
        let again = parsed(&again);
        assert_eq!((&again["exceptions"], &again["finished"]), (&0.into(), &true.into()));
        // One more text says that it merges, unless LVM's did.
        let texts = if name == "merging" { 1 } else { 2 };
        assert_eq!(again["metadata"]["seqno"], texts + number(&sample.says["vgs"][0]["vg_seqno"]));
        assert!(!sample.listed(&[]).contains_key(&snapshot), "{name}: LVM knows it no more");
        assert_like_lvms(&sample, &snapshot, &says);
    }
}

fn number(value: &Value) -> u64 {
    text(value).parse().expect("a number")
}

#[test]
fn one_more_name_of_the_command_does_the_same() {
    let sample = sample("striped");
    let (snapshot, says) = sample.merges().swap_remove(0);
    let backup = sample.dir.path("old.vg");
    let origin = sample.address(text(&sample.says["content"][&snapshot]["origin"]));
    let ran = dmsnap!("merge", sample.address(&snapshot), origin, "--backup", backup);
    assert!(ran.ok().contains("is no longer in it"));
    assert!(backup.exists());
    assert_like_lvms(&sample, &snapshot, &says);
}

/// LVM drops `monday` here without a word.
#[test]
fn a_snapshot_that_would_lose_its_content_stops_the_merge_before_it_begins() {
    let sample = sample("several");
    let before = fs::read(&sample.images[0]).expect("read");
    let refused = sample.lvm("merge", &["vg0/wednesday"]).failed();
    assert!(refused.contains("vg0/monday: has no room for"), "{refused}");
    assert!(refused.contains("--drop-full"), "{refused}");
    assert!(fs::read(&sample.images[0]).expect("read") == before, "something was written");
    let dry = sample.lvm("merge", &["--dry-run", "vg0/wednesday"]).failed();
    assert_eq!(dry, refused, "a dry run refuses what the merge refuses");
    let planned = sample.lvm("merge", &["--dry-run", "--drop-full", "vg0/wednesday"]).ok();
    assert!(planned.contains("monday: has no room and would be dropped for "), "{planned}");
    assert!(planned.contains("tuesday: would keep 12 chunks"), "{planned}");
}

#[test]
fn an_exported_group_gets_its_data_back_and_keeps_its_metadata() {
    let sample = sample("exported");
    let refused = sample.lvm("merge", &["vg0/snap"]).failed();
    assert!(refused.contains("the volume group is exported; `vgimport` it first"), "{refused}");
    sample.lvm("merge", &["vg0/snap", "--no-metadata"]).ok();
    let (snapshot, says) = sample.merges().swap_remove(0);
    assert_like_lvms(&sample, &snapshot, &says);
}

#[test]
fn an_old_text_is_never_lost_to_another_of_its_name() {
    let sample = sample("one-pv");
    sample.dir.file("a.img.vg0-4.vg", b"precious");
    let refused = sample.lvm("merge", &["vg0/snap"]).failed();
    assert!(refused.contains("exists already, with something else in it"), "{refused}");
    assert_eq!(sample.lvm("merge", &["--dry-run", "vg0/snap"]).failed(), refused);
    assert_eq!(sample.listed(&[])["snap"]["data_percent"], "23.44", "nothing was merged");
}
