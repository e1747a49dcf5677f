use std::cell::Cell;
use std::fs;

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::Kept;
use dmsnap::ops::{MergeOptions, Merged, Observer, Progress, Silent};
use dmsnap_images::{GroupOptions, ImageError, ImageErrorKind, Merge, Volumes};
use serde_json::Value;

use crate::samples::{Sample, folder, name, run, sample, samples, text, unexpected};

/// Merges a snapshot and takes it out of its group, as an embedder does.
async fn merge(
    sample: &Sample,
    snapshot: &str,
    drop_full: bool,
    observer: &impl Observer,
) -> Result<(Merged, Vec<Kept>), ImageError> {
    let volumes = Volumes::new(unexpected);
    let scan = volumes.scan(&sample.images, Mode::Write, Caching::Direct).await?;
    let group = scan.group_of(&name(snapshot))?;
    let options = MergeOptions { window_bytes: 64 << 10, ..MergeOptions::default() };
    let in_group = GroupOptions::default().drop_full(drop_full);
    let merge = Merge::plan(group, snapshot, options, in_group).await?;
    let done = merge.run(None, observer).await.map_err(|error| error.error)?;
    assert_eq!(done.metadata.is_some(), done.merged.finished);
    Ok((done.merged, done.others))
}

/// What LVM's own merge left, on the origin and in its other snapshots.
async fn assert_like_lvms(sample: &Sample, snapshot: &str, says: &Value) {
    let told = format!("{}: {snapshot}", sample.name);
    let origin = text(&sample.says["content"][snapshot]["origin"]);
    assert_eq!(sample.hash(origin).await, text(&says["origin_sha256"]), "{told}");
    for (other, hash) in says["others"].as_object().expect("an object") {
        if let Some(hash) = hash.as_str() {
            assert_eq!(sample.hash(other).await, hash, "{told}: {other}");
        }
    }
    let scan = sample.scan().await;
    let group = scan.group_of(&name(origin)).expect("it is there");
    assert!(!group.has(snapshot), "{told}: LVM knows it no more");
}

#[test]
fn every_merge_ends_as_lvms_own_does() {
    let mut seen = 0;
    run(async {
        for name in samples().map(|sample| sample.name).filter(|name| name != "exported") {
            for (snapshot, says) in sample(&name).merges() {
                let sample = sample(&name);
                let others = says["others"].as_object().expect("an object");
                let dropped: Vec<_> = others.iter().filter(|(_, hash)| hash.is_null()).collect();
                let drop_full = !dropped.is_empty();
                let ran = merge(&sample, &snapshot, drop_full, &Silent).await;
                let (merged, kept) = ran.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(merged.finished && merged.left == 0, "{name}: {merged:?}");
                let lost = kept.iter().filter(|it| !it.valid).map(|it| &it.name);
                assert!(lost.eq(dropped.iter().map(|(other, _)| *other)), "{name}: {kept:?}");
                assert_like_lvms(&sample, &snapshot, &says).await;

                let seqno = text(&sample.says["vgs"][0]["vg_seqno"]);
                let backup = sample.dir.path().join(format!("a.img.{}-{seqno}.vg", sample.group()));
                let kept = fs::read(backup).expect("the old text is kept");
                let old = fs::read(folder().join(format!("{name}.vg"))).expect("read");
                assert_eq!(kept, old.strip_suffix(b"\0").unwrap_or(&old), "{name}");
                seen += 1;
            }
        }
    });
    assert!(seen >= 16, "{seen} merges");
}

/// Asks for a stop as soon as something was merged.
#[derive(Default)]
struct Once {
    done: Cell<u64>,
}

impl Observer for Once {
    fn progress(&self, progress: Progress) {
        self.done.set(progress.done);
    }

    async fn pace(&self, _: u64) {}

    fn stop_requested(&self) -> bool {
        self.done.get() > 0
    }
}

/// With other snapshots of the origin, and without.
#[test]
fn a_merge_that_was_stopped_goes_on() {
    run(async {
        for (name, snapshot) in [("one-pv", "snap"), ("several", "tuesday")] {
            let sample = sample(name);
            let (stopped, _) = merge(&sample, snapshot, false, &Once::default()).await.expect(name);
            assert!(!stopped.finished && stopped.left > 0, "{name}: {stopped:?}");
            let scan = sample.scan().await;
            let marked = scan.groups().next().expect("a group").snapshot(snapshot).expect("there");
            assert!(marked.merging, "{name}: the metadata says so");
            drop(scan);
            let merged = merge(&sample, snapshot, false, &Silent).await;
            // Of the text that the first one kept there is one copy.
            let (merged, _) = merged.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(merged.finished, "{name}: {merged:?}");
            let merges = sample.merges();
            let (_, says) = merges.iter().find(|(it, _)| it == snapshot).expect("LVM did it");
            assert_like_lvms(&sample, snapshot, says).await;
        }
    });
}

/// LVM drops `monday` here without a word.
#[test]
fn a_plan_says_which_snapshot_has_no_room() {
    run(async {
        let sample = sample("several");
        let before = fs::read(&sample.images[0]).expect("read");
        let scan = sample.scan().await;
        let group = scan.group_of(&name("wednesday")).expect("it is there");
        let options = MergeOptions::default();
        let refused = Merge::plan(group, "wednesday", options, GroupOptions::default()).await;
        let refused = refused.expect_err("it would be dropped");
        assert!(matches!(*refused.kind, ImageErrorKind::NoRoom { .. }), "{refused}");
        let in_group = GroupOptions::default().drop_full(true);
        let merge = Merge::plan(group, "wednesday", options, in_group).await.expect("possible");
        let kept =
            |name: &str| merge.others().iter().find(|it| it.name == name).expect("it is there");
        assert!(!kept("monday").valid);
        assert_eq!((kept("tuesday").chunks, kept("tuesday").valid), (12, true));
        assert!(fs::read(&sample.images[0]).expect("read") == before, "something was written");
    });
}
