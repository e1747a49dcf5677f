//! `lvextend` of an origin that has snapshots: they keep their size, and have no part in what was added.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::common::parsed;
use crate::lvm::samples::{Sample, sample, sha256, text};
use crate::lvm::sparse::rewrite;
use crate::serving::{Place, Serving};

const EXTENT: usize = 64 << 10;
/// Of the origin when its snapshots were made.
const OLD: usize = 24 * EXTENT;
/// Now.
const NEW: usize = 28 * EXTENT;
/// Where the added extents lie on the disk.
const ADDED_AT: u64 = (1 << 20) + 110 * EXTENT as u64;

/// A group in which the origin has four more extents than each of its three snapshots. They hold something.
fn grown() -> Sample {
    let sample = sample("several");
    rewrite(&sample, |text| {
        let (front, rest) = text.split_once("root {").expect("LVM's layout");
        let (root, rest) = rest.split_once("\nmonday {").expect("LVM's layout");
        let root = root.replacen("segment_count = 1", "segment_count = 2", 1);
        let root = root.trim_end().strip_suffix('}').expect("LVM's layout");
        let added = "segment2 {\nstart_extent = 24\nextent_count = 4\n\ntype = \"striped\"\n\
                     stripe_count = 1\n\nstripes = [\n\"pv0\", 110\n]\n}\n";
        format!("{front}root {{{root}\n{added}}}\n\nmonday {{{rest}")
    });
    let disk = File::options().write(true).open(&sample.images[0]).expect("open");
    disk.write_all_at(&[0x5a; NEW - OLD], ADDED_AT).expect("written");
    sample
}

#[test]
fn a_snapshot_is_exported_and_checked_in_the_size_it_was_made_with() {
    let sample = grown();
    assert!(sample.lvm("check", &[]).ok().ends_with("sound\n"));
    for (name, says) in sample.snapshots() {
        assert_eq!(sample.exported(&name), text(&says["sha256"]), "{name}: a new file");
        let (cow, origin) = (sample.address(&name), sample.address("root"));
        let checked = dmsnap!("check", cow, origin).ok();
        assert!(checked.ends_with("sound\n"), "{name}: {checked}");
        // An old file that was longer, with the origin named.
        let output = sample.dir.file("old", &[1; NEW]);
        dmsnap!("export", "--force", cow, origin, output).ok();
        assert_eq!(sha256(&fs::read(&output).expect("read")), text(&says["sha256"]), "{name}");
        let streamed = Command::new(env!("CARGO_BIN_EXE_dmsnap"))
            .args(["export", &cow, "-"])
            .stderr(Stdio::null())
            .output()
            .expect("dmsnap");
        assert_eq!(sha256(&streamed.stdout), text(&says["sha256"]), "{name}: a stream");
    }
    assert_eq!(sample.listed(&[])["monday"]["origin_size"], format!("{OLD}B"));
}

/// As LVM's own merge from the time before the origin was extended; the rest stays.
#[test]
fn a_merge_leaves_what_was_added_and_the_others_as_they_are() {
    for (snapshot, says) in grown().merges() {
        let sample = grown();
        let ran = sample.lvm("merge", &[&sample.volume(&snapshot), "--drop-full"]);
        assert_eq!(ran.status, 0, "{snapshot}: {}", ran.stderr);
        let origin = sample.extents("root");
        assert_eq!(sha256(&origin[..OLD]), text(&says["origin_sha256"]), "{snapshot}");
        assert!(origin[OLD..] == [0x5a; NEW - OLD], "{snapshot}: what was added has changed");
        for (other, hash) in says["others"].as_object().expect("an object") {
            if let Some(hash) = hash.as_str() {
                assert_eq!(sample.exported(other), hash, "{snapshot}: {other}");
            }
        }
    }
}

#[test]
fn the_only_snapshot_is_merged_as_far_as_it_goes() {
    const ITS: usize = 31 * EXTENT;
    let sample = sample("one-pv");
    let output = sample.dir.path("whole").to_string_lossy().into_owned();
    sample.lvm("export", &["vg0/snap", &output]).ok();
    let (whole, origin) = (fs::read(&output).expect("read"), sample.extents("root"));
    rewrite(&sample, |text| with_holder(text, 31));
    assert_eq!(sample.exported("snap"), sha256(&whole[..ITS]));
    sample.lvm("merge", &["vg0/snap"]).ok();
    assert!(sample.extents("root") == [&whole[..ITS], &origin[ITS..]].concat());
}

/// Gives the snapshot of `one-pv` this many extents. Its origin has 32.
fn with_holder(text: &str, extents: u64) -> String {
    let (front, holder) = text.split_once("snapshot0 {").expect("LVM's layout");
    let holder = holder.replace("extent_count = 32", &format!("extent_count = {extents}"));
    format!("{front}snapshot0 {{{holder}")
}

#[test]
fn what_clients_write_past_the_end_of_a_snapshot_is_not_kept_for_it() {
    let sample = grown();
    let exceptions = |name: &str| {
        parsed(&dmsnap!("info", "--json", sample.address(name)).ok())["exceptions"].clone()
    };
    let names: Vec<_> = sample.snapshots().into_iter().map(|(name, _)| name).collect();
    let before: Vec<_> = names.iter().map(|name| exceptions(name)).collect();
    let place = Place::empty();
    // One of them is named by the user as well.
    let renamed = format!("old={}", sample.address("monday"));
    let serving = Serving::exactly(&place, &[&sample.address("root"), "--snapshot", &renamed]);
    place.qemu_io("root", &["write -P 9 1536k 256k", "flush"]);
    assert_eq!(place.copy_of("root").len(), NEW);
    for (name, says) in sample.snapshots() {
        let export = if name == "monday" { "old" } else { &name };
        assert_eq!(sha256(&place.copy_of(export)), text(&says["sha256"]), "{name}");
    }
    assert_eq!(serving.stop(), "", "the full one has nothing to keep, and is not dropped");
    assert_eq!(names.iter().map(|name| exceptions(name)).collect::<Vec<_>>(), before);
    let ran = sample.lvm("merge", &["vg0/tuesday", "--drop-full"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(sample.extents("root")[OLD..] == [9; NEW - OLD], "the merge has undone a write");
}

/// LVM does not make such a group, and kernels do not map such a snapshot: what it showed is lost.
#[test]
fn a_snapshot_that_is_larger_than_its_origin_is_refused_by_name() {
    let sample = sample("one-pv");
    rewrite(&sample, |text| with_holder(text, 33));
    let before = fs::read(&sample.images[0]).expect("read");
    let output = sample.dir.path("out").to_string_lossy().into_owned();
    for (word, rest) in [("export", &["vg0/snap", &output][..]), ("merge", &["vg0/snap"])] {
        let refused = sample.lvm(word, rest).failed();
        assert!(refused.contains("make it as large first"), "{word}: {refused}");
    }
    assert!(!sample.dir.path("out").exists());
    assert!(fs::read(&sample.images[0]).expect("read") == before, "a byte has changed");
}
