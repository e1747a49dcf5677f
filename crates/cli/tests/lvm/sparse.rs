//! `lvcreate --type snapshot --virtualsize`: the origin is zeroes that lie nowhere.

use std::fs;

use crate::lvm::samples::{Sample, sample};

/// The text of a group with such a snapshot, and a snapshot of its own size, instead of the one that
/// a sample has. As LVM writes it, but for the places of things.
fn sparse() -> Sample {
    let sample = sample("one-pv");
    rewrite(&sample, |text| {
        let (front, rest) = text.split_once("root {").expect("LVM's layout");
        let (_, rest) = rest.split_once("\nsnap {").expect("LVM's layout");
        let (snap, holder) = rest.split_once("snapshot0 {").expect("LVM's layout");
        let origin = "root_vorigin {\nid = \"F97JT0-Yc50-NqQ2-RjRf-VUeP-mvkp-tkWi96\"\n\
                      status = [\"READ\"]\nflags = []\nsegment_count = 1\n\nsegment1 {\n\
                      start_extent = 0\nextent_count = 32\n\ntype = \"zero\"\n}\n}\n\n";
        let holder = holder.replace("origin = \"root\"", "origin = \"root_vorigin\"");
        format!("{front}snap {{{snap}{origin}snapshot0 {{{holder}")
    });
    sample
}

/// Changes the text of a disk without partitions, and seals it as docs/lvm.md describes it.
pub(crate) fn rewrite(sample: &Sample, change: impl FnOnce(&str) -> String) {
    const AREA: usize = 4096;
    let mut bytes = fs::read(&sample.images[0]).expect("read");
    let text =
        fs::read_to_string(crate::lvm::samples::folder().join(format!("{}.vg", sample.name)));
    let text = format!("{}\0", change(text.expect("read").trim_end_matches('\0')));
    bytes[AREA + 512..][..text.len()].copy_from_slice(text.as_bytes());
    bytes[AREA + 40..AREA + 48].copy_from_slice(&512_u64.to_le_bytes());
    bytes[AREA + 48..AREA + 56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    let sum = crate::lvm::named::checksum(text.as_bytes()).to_le_bytes();
    bytes[AREA + 56..AREA + 60].copy_from_slice(&sum);
    let sum = crate::lvm::named::checksum(&bytes[AREA + 4..AREA + 512]).to_le_bytes();
    bytes[AREA..AREA + 4].copy_from_slice(&sum);
    fs::write(&sample.images[0], bytes).expect("written");
}

#[test]
fn a_snapshot_of_nothing_is_listed_checked_and_exported() {
    let sample = sparse();
    let listed = sample.lvm("list", &["-a"]).ok();
    let names: Vec<_> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().expect("a name"))
        .collect();
    assert_eq!(names, ["[root_vorigin]", "snap"]);
    let listed = sample.listed(&["-a"]);
    assert_eq!(
        (&listed["snap"]["origin"], listed["snap"]["lv_attr"].as_str()),
        (&"[root_vorigin]".into(), Some("swi---s---"))
    );
    assert_eq!(listed["root_vorigin"]["lv_attr"], "ori---s---");
    assert_eq!(sample.listed(&[]).len(), 1, "the origin is a hidden one");
    assert_eq!(sample.lvm("check", &[]).ok(), "vg0/snap:\nsound\n");

    let store = sample.extents("snap");
    let cow = sample.dir.file("cow", &store);
    let zeroes = sample.dir.file("zeroes", &[0; 2 << 20]);
    let expected = sample.dir.path("expected");
    dmsnap!("export", cow, zeroes, expected).ok();
    let out = sample.dir.path("out");
    sample.lvm("export", &["vg0/snap", &out.to_string_lossy()]).ok();
    assert!(fs::read(&out).expect("read") == fs::read(&expected).expect("read"));

    let before = fs::read(&sample.images[0]).expect("read");
    for options in [&["--no-metadata"][..], &[], &["--dry-run"]] {
        let refused = sample.lvm("merge", &[&["vg0/snap"], options].concat()).failed();
        assert!(refused.contains("its origin root_vorigin is virtual"), "{refused}");
    }
    assert!(fs::read(&sample.images[0]).expect("read") == before);
}
