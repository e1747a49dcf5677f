//! Real LVM's own tools look at what the rewrite leaves on the disks.

use std::path::Path;
use std::process::Command;

use crate::common::{apply, group, merges, sample, scan, stamp};

/// The output of LVM's command that looks into a PV in a file, which must find nothing wrong.
fn pvck(what: &str, image: &Path, sector: u64) -> String {
    let ran = Command::new("/usr/sbin/pvck")
        .args(["--dump", what, "--labelsector", &sector.to_string()])
        .arg(image)
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .output()
        .expect("pvck runs: it is in package lvm2");
    let told = String::from_utf8(ran.stdout).expect("it tells text");
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && complaint.is_empty(), "{told}{complaint}");
    assert!(!told.contains("CHECK"), "{told}");
    told
}

#[test]
fn lvm_finds_nothing_wrong_with_the_new_metadata() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let image = folder.path().join("image");
    let mut looked_at = 0;
    for (name, snapshot) in merges() {
        let mut images = sample(&name).images();
        let before = group(&images);
        let Ok(rewrite) = before.finish_merge(&snapshot, &stamp()) else { continue };
        apply(&mut images, &rewrite.steps);
        for (index, pv) in before.vg.pvs.iter().enumerate() {
            let place = before.places[index].expect("the PV is there");
            let bytes =
                &images[place.disk][crate::common::indices(place.place.range().expect("small"))];
            std::fs::write(&image, bytes).expect("written");
            let sector = scan(bytes).pvs[0].label.sector;
            let headers = pvck("headers", &image, sector);
            if !before.copies.iter().any(|copy| copy.pv == index) {
                continue;
            }
            let seqno = before.vg.seqno + 1;
            let expected = format!("# vgname {} seqno {seqno}", before.vg.name);
            assert!(headers.contains(&expected), "{name}: {}: {headers}", pv.name);
            let text = pvck("metadata", &image, sector);
            let new = String::from_utf8(rewrite.text.clone()).expect("it is text");
            assert!(text.contains(new.trim_end()), "{name}: {}:\n{text}", pv.name);
            looked_at += 1;
        }
    }
    assert!(looked_at >= 18, "{looked_at}");
}
