//! A merge that is killed at a random moment, again and again: while it writes the metadata, before and
//! after the data, and while it copies.
//!
//! `DMSNAP_KILLS=1000 cargo test -p dmsnap-cli lvm::killed -- --nocapture` kills more often;
//! `DMSNAP_SEED=N` repeats the choices, though not the exact moments.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Ran, command, parsed};
use crate::kernel::random::Random;
use crate::lvm::merged::assert_like_lvms;
use crate::lvm::samples::{Sample, by_name, folder, sample, sha256, text};

/// What a group says whose areas did not all get the newest text.
const OLDER: &str = "has an old text";

const KILLS: u64 = 24;
const SAMPLES: [&str; 7] =
    ["one-pv", "several", "merging", "two-pvs", "striped", "two-areas", "no-area"];

/// A merge takes about as long, at the rate it is given.
const MOST_MILLISECONDS: u64 = 450;

/// The extents of these disks begin here: before it is metadata.
const METADATA_BYTES: u64 = 1 << 20;

#[test]
fn a_merge_that_is_killed_at_any_moment_is_finished_by_the_same_command() {
    let kills = std::env::var("DMSNAP_KILLS").map_or(KILLS, |it| it.parse().expect("a number"));
    let mut random = Random::new();
    let (mut left, mut gone) = (0, 0);
    while left + gone < kills {
        let mut merging = Merging::choose(&mut random);
        while merging.is_killed(&mut random) {
            match merging.is_listed() {
                true => left += 1,
                false => gone += 1,
            }
            merging.assert_consistent();
        }
        merging.assert_finished();
    }
    println!("{left} kills before the new metadata was in force, {gone} after it");
    assert!(left > 0, "no kill hit a merge");
}

/// A snapshot on its way back into its origin.
struct Merging {
    sample: Sample,
    snapshot: String,
    /// What LVM's own merge made of it.
    says: Value,
}

impl Merging {
    fn choose(random: &mut Random) -> Self {
        let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
        let sample = sample(SAMPLES[below(SAMPLES.len())]);
        let keeps_all = |(_, says): &(String, Value)| {
            says["others"].as_object().expect("an object").values().all(Value::is_string)
        };
        let mut merges: Vec<_> = sample.merges().into_iter().filter(keeps_all).collect();
        let (snapshot, says) = merges.swap_remove(below(merges.len()));
        Self { sample, snapshot, says }
    }

    /// Runs the command and kills it. False if it came to its end before, or had nothing left to do.
    fn is_killed(&mut self, random: &mut Random) -> bool {
        let volume = self.sample.volume(&self.snapshot);
        let mut args: Vec<OsString> = vec!["lvm".into(), "merge".into()];
        args.extend(self.sample.images.iter().map(|image| image.clone().into()));
        args.extend([&*volume, "--rate", "1M", "--window", "16k"].map(OsString::from));
        let mut child = command(&args).spawn().expect("the command starts");
        match random.below(2) {
            0 => sleep(Duration::from_millis(random.below(MOST_MILLISECONDS))),
            _ => {
                self.until_metadata_is_written(&mut child);
                sleep(Duration::from_micros(random.below(4000)));
            }
        }
        child.kill().expect("killed, or over");
        let ended = child.wait_with_output().expect("ended");
        if ended.status.signal().is_some() {
            return true;
        }
        let ran = Ran::from(ended);
        match self.is_listed() {
            true => panic!("{volume}: {}", ran.stderr),
            // The last kill came after everything, or else this was the last run.
            false => assert!(
                ran.status == 0 || ran.stderr.contains("found no volume"),
                "{volume}: {}",
                ran.stderr
            ),
        }
        false
    }

    /// Returns at the first byte of it, or when the command has ended.
    fn until_metadata_is_written(&self, child: &mut Child) {
        let read = || {
            self.sample.images.iter().map(|image| {
                let mut bytes = Vec::new();
                let file = fs::File::open(image).expect("open");
                file.take(METADATA_BYTES).read_to_end(&mut bytes).expect("read");
                bytes
            })
        };
        let before: Vec<_> = read().collect();
        let begun = Instant::now();
        while read().eq(before.iter().cloned()) && child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the merge does not end");
        }
    }

    /// Whether the snapshot is still in the group. That some areas have an older text may be told.
    fn is_listed(&self) -> bool {
        let ran = self.sample.lvm("list", &["--json"]);
        assert_eq!(ran.status, 0, "{}: {}", self.told(), ran.stderr);
        by_name(&parsed(&ran.stdout)["report"][0]["lv"]).contains_key(&self.snapshot)
    }

    /// A whole group, and in it the old snapshot or the merged origin. If anything was merged, the group
    /// says so: LVM would go on with it.
    fn assert_consistent(&self) {
        let (sample, told) = (&self.sample, self.told());
        let content = &sample.says["content"][&self.snapshot];
        let origin_name = text(&content["origin"]);
        let origin = sha256(&sample.extents(origin_name));
        if !self.is_listed() {
            return assert_eq!(origin, text(&self.says["origin_sha256"]), "{told}");
        }
        let checked = sample.lvm("check", &[]);
        let older = checked.stderr.lines().filter(|line| line.contains(OLDER)).count();
        assert_eq!(older, checked.stderr.lines().count(), "{told}: {}", checked.stderr);
        assert_eq!(checked.status, i32::from(older > 0), "{told}: {}", checked.stdout);
        let listed = by_name(&parsed(&sample.lvm("list", &["--json"]).stdout)["report"][0]["lv"]);
        if listed[&self.snapshot]["lv_merging"] != "merging" {
            let old = text(&sample.says["content"][origin_name]["raw_sha256"]);
            assert_eq!(origin, old, "{told}: nothing is merged yet");
        } else {
            assert!(checked.stdout.contains("note: merges into "), "{told}: {}", checked.stdout);
        }
        assert_eq!(self.exported(&self.snapshot), text(&content["sha256"]), "{told}");
        for (other, hash) in self.says["others"].as_object().expect("an object") {
            assert_eq!(self.exported(other), text(hash), "{told}: {other}");
        }
    }

    /// The hash of a snapshot. That some areas have an older text may be told.
    fn exported(&self, snapshot: &str) -> String {
        let output = self.sample.dir.path("exported");
        let volume = self.sample.volume(snapshot);
        let ran = self.sample.lvm("export", &[&volume, &output.to_string_lossy()]);
        assert_eq!(ran.status, 0, "{}: {}", self.told(), ran.stderr);
        let hash = sha256(&fs::read(&output).expect("read"));
        fs::remove_file(output).expect("clean up");
        hash
    }

    /// The merged group, and the old text next to the image.
    fn assert_finished(&self) {
        let (sample, told) = (&self.sample, self.told());
        assert!(!self.is_listed(), "{told}");
        assert_like_lvms(sample, &self.snapshot, &self.says);
        let checked = sample.lvm("check", &[]);
        let older = checked.stderr.lines().all(|line| line.contains(OLDER));
        assert!(older && !checked.stdout.contains("damage"), "{told}: {}", checked.stderr);
        let seqno = text(&sample.says["vgs"][0]["vg_seqno"]);
        let backup = sample.dir.path(&format!("a.img.{}-{seqno}.vg", sample.group()));
        let old = fs::read(folder().join(format!("{}.vg", sample.name))).expect("read");
        let kept = fs::read(backup).expect("the old text is kept");
        assert_eq!(kept, old.strip_suffix(b"\0").unwrap_or(&old), "{told}");
    }

    fn told(&self) -> String {
        format!("{}: {}", self.sample.name, self.snapshot)
    }
}
