//! Merge and export on file systems that share extents: btrfs and xfs, on loop devices.
//!
//! Needs root and loop devices; without them it says so and does nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::kernel_images::images::{Vector, sha256, snapshots, vector};
use crate::kernel_images::run::{dmsnap, start};
use crate::kernel_images::store::{apply, exceptions};
use crate::loops::{Mount, tool, usable};
use serde_json::Value;
use tempfile::TempDir;

/// What a file system shares is whole blocks of this many bytes.
const BLOCK: u64 = 4096;

/// Both file systems, as far as this kernel knows them.
fn file_systems(dir: &Path) -> Vec<Mount> {
    let btrfs = Mount::btrfs(dir, 512 << 20);
    btrfs.into_iter().chain(Mount::xfs(dir, 512 << 20)).collect()
}

fn scratch() -> TempDir {
    TempDir::with_prefix_in("reflink", env!("CARGO_TARGET_TMPDIR")).expect("it can be made")
}

/// A store and its origin on a file system.
struct Pair {
    vector: Vector,
    cow: PathBuf,
    origin: PathBuf,
}

impl Pair {
    fn on(mount: &Mount, vector: &Vector) -> Self {
        Self::across(mount, mount, vector)
    }

    fn across(for_cow: &Mount, for_origin: &Mount, vector: &Vector) -> Self {
        let unpacked = vector.unpack();
        let (cow, origin) = (for_cow.path("cow.img"), for_origin.path("origin.img"));
        for (from, to) in [(&unpacked.cow, &cow), (&unpacked.origin, &origin)] {
            fs::copy(from, to).expect("there is room");
        }
        Self { vector: vector.clone(), cow, origin }
    }

    fn args(&self, words: &[&str]) -> Vec<OsString> {
        let devices = [self.cow.clone().into(), self.origin.clone().into()];
        let (command, options) = words.split_first().expect("a command");
        let options = options.iter().map(OsString::from);
        [command.into()].into_iter().chain(devices).chain(options).collect()
    }

    fn merge(&self, options: &[&str]) -> Value {
        let words = [&["merge", "--json"], options].concat();
        dmsnap(self.args(&words)).expect(0).json()
    }

    /// Bytes whose place on both devices is a multiple of a block, whole blocks of them.
    fn sharable(&self) -> u64 {
        let chunk = self.vector.chunk_size_sectors * 512;
        let origin = self.vector.origin_sectors * 512;
        let lens = exceptions(&self.cow).into_iter().map(|it| chunk.min(origin - it.old * chunk));
        lens.filter(|len| len.is_multiple_of(BLOCK)).sum()
    }

    #[track_caller]
    fn assert_merged(&self) {
        let name = &self.vector.name;
        assert_eq!(sha256(&self.origin), self.vector.snapshot_sha256(), "{name}: wrong origin");
        assert_eq!(exceptions(&self.cow), [], "{name}: the store is not empty");
        dmsnap(self.args(&["check"])).expect(0);
    }
}

fn number(json: &Value, field: &str) -> u64 {
    json[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {json}"))
}

/// Bytes that the file shares with another, as the file system itself says.
fn shared_on_disk(path: &Path) -> u64 {
    tool(Command::new("sync").arg(path));
    let told = tool(Command::new("filefrag").args(["-v", "-b512"]).arg(path));
    let extents = told.lines().filter(|line| line.contains("shared"));
    // "0:  0.. 255:  24576.. 24831:  256:  last,shared,eof"
    let sectors = |line: &str| line.split(':').nth(3)?.trim().parse::<u64>().ok();
    extents.map(|line| sectors(line).unwrap_or_else(|| panic!("{line}")) * 512).sum()
}

#[test]
fn a_merge_shares_every_whole_block_and_the_origin_is_the_snapshot() {
    if !usable("a merge that shares") {
        return;
    }
    let dir = scratch();
    for mount in file_systems(dir.path()) {
        for vector in snapshots() {
            let pair = Pair::on(&mount, &vector);
            let (sharable, count) = (pair.sharable(), exceptions(&pair.cow).len() as u64);
            let merged = pair.merge(&[]);
            assert_eq!(number(&merged, "shared_bytes"), sharable, "{}: {merged}", vector.name);
            assert_eq!(number(&merged, "exceptions"), count, "{}: {merged}", vector.name);
            assert_eq!(shared_on_disk(&pair.origin), sharable, "{}: filefrag", vector.name);
            pair.assert_merged();
        }
    }
}

/// The origin is cut off in the middle of the highest chunk that has an exception, and of a block.
#[test]
fn a_tail_that_is_no_whole_block_is_copied() {
    if !usable("a tail that is copied") {
        return;
    }
    let dir = scratch();
    let vector = vector("random-16k");
    for mount in file_systems(dir.path()) {
        for tail in [512, 4096, 4096 + 1536] {
            let pair = Pair::on(&mount, &vector);
            let found = exceptions(&pair.cow);
            let last = found.iter().map(|exception| exception.old).max().expect("exceptions");
            let cut = File::options().write(true).open(&pair.origin).expect("writable");
            cut.set_len(last * vector.chunk_size_sectors * 512 + tail).expect("it can be cut off");
            drop(cut);
            let expected = mount.path("expected.img");
            apply(&found, &pair.cow, &pair.origin, &expected);
            let merged = pair.merge(&[]);
            let (bytes, shared) = (number(&merged, "bytes"), number(&merged, "shared_bytes"));
            let copied = if tail.is_multiple_of(BLOCK) { 0 } else { tail };
            assert_eq!(bytes - shared, copied, "a tail of {tail} bytes: {merged}");
            assert!(shared > 0, "the rest is shared: {merged}");
            assert_eq!(sha256(&pair.origin), sha256(&expected), "a tail of {tail} bytes");
            assert_eq!(exceptions(&pair.cow), []);
        }
    }
}

#[test]
fn nothing_is_shared_when_told_so() {
    if !usable("a merge that copies") {
        return;
    }
    let dir = scratch();
    for mount in file_systems(dir.path()) {
        let pair = Pair::on(&mount, &vector("random-16k"));
        let merged = pair.merge(&["--no-share"]);
        assert!(number(&merged, "bytes") > 0 && number(&merged, "shared_bytes") == 0, "{merged}");
        assert_eq!(shared_on_disk(&pair.origin), 0);
        pair.assert_merged();
    }
}

#[test]
fn chunks_smaller_than_a_block_are_copied() {
    if !usable("small chunks") {
        return;
    }
    let dir = scratch();
    // Neighbours on both devices too, at an even place: together a whole block.
    let old: Vec<u64> = (8..24).chain([3, 30, 31, 40]).collect();
    for mount in file_systems(dir.path()) {
        let (cow, origin) = (mount.path("cow.img"), mount.path("origin.img"));
        fs::write(&cow, crate::common::store(&old, 64)).expect("there is room");
        fs::write(&origin, crate::common::origin(64)).expect("there is room");
        let words = [OsString::from("merge"), "--json".into(), (&cow).into(), (&origin).into()];
        let merged = dmsnap(words).expect(0).json();
        assert_eq!(number(&merged, "exceptions"), old.len() as u64);
        assert_eq!(number(&merged, "shared_bytes"), 0, "{merged}");
        assert!(fs::read(&origin).expect("readable") == crate::common::snapshot(&old, 64));
    }
}

#[test]
fn between_two_file_systems_everything_is_copied() {
    if !usable("two file systems") {
        return;
    }
    let dir = scratch();
    let mounts = file_systems(dir.path());
    let [first, second] = mounts.as_slice() else { return };
    for (for_cow, for_origin) in [(first, second), (second, first)] {
        let pair = Pair::across(for_cow, for_origin, &vector("mixed-4k"));
        let output = for_cow.path("out.img");
        let output = output.to_str().expect("a plain path");
        let exported = dmsnap(pair.args(&["export", output, "--json"])).expect(0).json();
        assert_eq!(sha256(Path::new(output)), pair.vector.snapshot_sha256(), "{exported}");
        fs::remove_file(output).expect("removable");
        let merged = pair.merge(&[]);
        assert!(number(&merged, "bytes") > 0 && number(&merged, "shared_bytes") == 0, "{merged}");
        pair.assert_merged();
    }
}

#[test]
fn an_export_shares_with_both_devices_and_is_the_snapshot() {
    if !usable("an export that shares") {
        return;
    }
    let dir = scratch();
    for mount in file_systems(dir.path()) {
        for vector in snapshots() {
            let pair = Pair::on(&mount, &vector);
            let (name, sharable) = (&vector.name, pair.sharable());
            let path = mount.path("out.img");
            let output = path.to_str().expect("a plain path");
            let exported = dmsnap(pair.args(&["export", output, "--json"])).expect(0).json();
            assert_eq!(sha256(&path), vector.snapshot_sha256(), "{name}: {exported}");
            let (shared, written) =
                (number(&exported, "shared_bytes"), number(&exported, "written_bytes"));
            assert!(shared >= sharable, "{name}: {sharable} from the store: {exported}");
            assert_eq!(shared_on_disk(&path), shared, "{name}: {exported}");
            // Every origin sector holds its number, so nothing but a short tail is written.
            assert!(written < BLOCK.max(vector.chunk_size_sectors * 512), "{name}: {exported}");
            fs::remove_file(&path).expect("removable");
            // What it was made of is whole, and no part of the image: it merges as before.
            pair.merge(&[]);
            pair.assert_merged();
        }
    }
}

/// Killed once each time a quarter of what was there is done.
#[test]
fn a_sharing_merge_killed_half_way_goes_on() {
    if !usable("a sharing merge that is killed") {
        return;
    }
    let dir = scratch();
    for mount in file_systems(dir.path()) {
        let mut caught = 0;
        for name in ["sequential-4k", "random-4k"] {
            let pair = Pair::on(&mount, &vector(name));
            for _ in 0..4 {
                let before = exceptions(&pair.cow).len();
                let mut merge = start(pair.args(&["merge", "--window", "32k"]));
                let ended = |merge: &mut std::process::Child| merge.try_wait().expect("asked");
                while exceptions(&pair.cow).len() > before * 3 / 4 && ended(&mut merge).is_none() {
                    sleep(Duration::from_micros(200));
                }
                merge.kill().expect("it can be killed");
                merge.wait().expect("it ends");
                let after = exceptions(&pair.cow).len();
                eprintln!("{name}: {before} exceptions, then {after}");
                caught += u32::from(0 < after && after < before);
                dmsnap(pair.args(&["check"])).expect(0);
                let path = mount.path("out.img");
                let output = path.to_str().expect("a plain path");
                dmsnap(pair.args(&["export", output, "--force"])).expect(0);
                assert_eq!(sha256(&path), pair.vector.snapshot_sha256(), "{name}: {after} left");
                fs::remove_file(path).expect("removable");
            }
            pair.merge(&[]);
            pair.assert_merged();
        }
        assert!(caught > 0, "no merge was caught half-way");
    }
}
