use std::fs;

use serde_json::Value;

use crate::lvm::samples::{Sample, sample, samples, sha256, text};
use crate::serving::{Place, Serving};

/// A server of an origin and what it has.
fn serve(sample: &Sample, origin: &str, args: &[&str]) -> (Place, Serving) {
    let place = Place::empty();
    let address = sample.address(origin);
    let serving = Serving::exactly(&place, &[&[&*address], args].concat());
    (place, serving)
}

/// The origins, each with the snapshots of it that are valid.
fn origins(sample: &Sample) -> Vec<(String, Vec<(String, Value)>)> {
    let mut origins: Vec<(String, Vec<_>)> = Vec::new();
    for (name, says) in sample.snapshots() {
        let origin = text(&says["origin"]).to_owned();
        match origins.iter_mut().find(|(known, _)| *known == origin) {
            Some((_, snapshots)) => snapshots.push((name, says)),
            None => origins.push((origin, vec![(name, says)])),
        }
    }
    origins
}

/// Also a merge that was begun: the origin is what the snapshot shows, as when LVM activates it.
#[test]
fn an_origin_and_its_snapshots_are_served_under_their_names_and_stay_as_they_are() {
    for sample in samples() {
        let before: Vec<_> = sample.images.iter().map(|it| fs::read(it).expect("read")).collect();
        for (origin, snapshots) in origins(&sample) {
            let (place, serving) = serve(&sample, &origin, &["--read-only"]);
            let rows = sample.rows("lvs");
            let merging = |name: &str| text(&rows[name]["lv_merging"]) == "merging";
            let mut shown = text(&sample.says["content"][&origin]["raw_sha256"]);
            for (name, says) in &snapshots {
                let Some(hash) = says["sha256"].as_str() else { continue };
                assert_eq!(sha256(&place.copy_of(name)), hash, "{}: {name}", sample.name);
                shown = if merging(name) { hash } else { shown };
            }
            for export in [&origin, "origin"] {
                assert_eq!(sha256(&place.copy_of(export)), shown, "{}: {export}", sample.name);
            }
            let said = serving.stop();
            let dropped = snapshots.iter().any(|(_, says)| says["sha256"].is_null());
            assert_eq!(said.contains("it is not served"), dropped, "{}: {said}", sample.name);
        }
        let after = sample.images.iter().map(|it| fs::read(it).expect("read"));
        assert!(after.eq(before), "{}: a byte has changed", sample.name);
    }
}

#[test]
fn what_clients_write_to_an_origin_changes_no_snapshot_of_it() {
    let sample = sample("several");
    let (place, serving) = serve(&sample, "root", &[]);
    place.qemu_io("root", &["write -P 7 64k 192k", "write -P 8 1M 4k", "flush"]);
    // The full one is dropped, as by a kernel, if it would have to keep anything: it has it all.
    for (name, says) in sample.snapshots() {
        assert_eq!(sha256(&place.copy_of(&name)), text(&says["sha256"]), "{name}");
    }
    place.qemu_io("monday", &["write -P 9 0 4k", "flush"]);
    assert_eq!(serving.stop(), "");
    let origin = sample.extents("root");
    assert!(origin[64 << 10..256 << 10].iter().all(|byte| *byte == 7), "the image has the data");
    for (name, says) in sample.snapshots().iter().filter(|(name, _)| name != "monday") {
        assert_eq!(sample.exported(name), text(&says["sha256"]), "{name}");
    }
    assert!(sample.lvm("check", &[]).ok().contains("sound"));
}

#[test]
fn a_merge_that_lvm_began_goes_on_while_it_is_served_and_is_ended_by_a_merge() {
    for name in ["merging", "merge-waits"] {
        let sample = sample(name);
        let hash = text(&sample.says["content"]["snap"]["sha256"]).to_owned();
        let (place, serving) = serve(&sample, "root", &[]);
        assert_eq!(sha256(&place.copy_of("root")), hash, "{name}");
        while sample.listed(&[])["snap"]["data_percent"] != "0.00" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(sha256(&place.copy_of("snap")), hash, "{name}");
        assert!(serving.stop().contains("snap: merged"));
        assert_eq!(sha256(&sample.extents("root")), hash, "{name}");
        sample.lvm("merge", &["vg0/snap"]).ok();
        assert!(!sample.listed(&[]).contains_key("snap"), "{name}: LVM knows it no more");
        assert_eq!(sha256(&sample.extents("root")), hash, "{name}");
    }
}

#[test]
fn another_store_beside_those_of_lvm_is_served_with_them() {
    let sample = sample("one-pv");
    let place = Place::empty();
    let cow = place.text("cow");
    crate::common::run(&["create", "--size", "4M", &cow]).ok();
    let (more, renamed) = (format!("more={cow}"), format!("old={}", sample.address("snap")));
    let origin = sample.address("root");
    let serving = Serving::exactly(&place, &[&origin, "--snapshot", &more, "--snapshot", &renamed]);
    let (before, hash) = (sample.extents("root"), &sample.says["content"]["snap"]["sha256"]);
    place.qemu_io("origin", &["write -P 1 0 1M", "flush"]);
    assert!(place.copy_of("more") == before, "a snapshot of the moment when it was served");
    assert_eq!(sha256(&place.copy_of("old")), text(hash), "named otherwise, and once");
    assert!(crate::serving::output("nbdinfo", &[&place.uri("snap")]).status.code() != Some(0));
    assert_eq!(serving.stop(), "");
}
