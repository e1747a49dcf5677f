//! The commands on block devices: loop devices of both sector sizes.
//!
//! Needs root and loop devices; without them it says so and does nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::kernel_images::images::{Vector, sha256, snapshots, vector};
use crate::kernel_images::run::{Ran, dmsnap};
use crate::kernel_images::store::exceptions;
use crate::loops::{Loop, Mount, usable};
use tempfile::TempDir;

fn scratch() -> TempDir {
    TempDir::with_prefix_in("disks", env!("CARGO_TARGET_TMPDIR")).expect("it can be made")
}

fn image(dir: &TempDir, name: &str, bytes: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).and_then(|file| file.set_len(bytes)).expect("it can be made");
    path
}

fn ran(words: &[&dyn AsRef<OsStr>]) -> Ran {
    dmsnap(words.iter().map(|word| OsString::from(word.as_ref())))
}

/// Loop devices as many disks have them, and as few of the sizes here allow.
fn kinds(vector: &Vector) -> Vec<fn(&Path) -> Loop> {
    let whole = |sectors: u64| sectors.is_multiple_of(8);
    let large = whole(vector.origin_sectors) && whole(vector.cow_sectors);
    let large = large.then_some(Loop::with_large_sectors as fn(&Path) -> Loop);
    [Loop::over as fn(&Path) -> Loop].into_iter().chain(large).collect()
}

#[test]
fn every_store_is_exported_and_merged_on_disks() {
    if !usable("the commands on disks") {
        return;
    }
    let dir = scratch();
    let mut large = 0;
    for vector in snapshots() {
        for (n, kind) in kinds(&vector).into_iter().enumerate() {
            large += n;
            let store = vector.unpack();
            let (name, count) = (store.name(), exceptions(&store.cow).len() as u64);
            // Not empty: an export has to make it so. Longer than the image: the rest stays.
            let image_bytes = vector.origin_sectors * 512;
            let len = image_bytes.next_multiple_of(4096) + 8192;
            let output = dir.path().join("output");
            fs::write(&output, vec![0xa5; usize::try_from(len).expect("small")]).expect("written");
            let [cow, origin, output] = [&store.cow, &store.origin, &output].map(|it| kind(it));
            let [cow, origin, output] = [cow.path(), origin.path(), output.path()];

            let info = ran(&[&"info", &cow, &"--json"]).expect(0).json();
            assert_eq!(info["exceptions"], count, "{name}: {info}");
            assert_eq!(info["total_sectors"], vector.cow_sectors, "{name}: {info}");
            ran(&[&"check", &cow, &origin]).expect(0);
            let refused = ran(&[&"export", &cow, &origin, &output]).expect(3).stderr();
            assert!(refused.contains("exists already"), "{name}: {refused}");
            ran(&[&"export", &cow, &origin, &output, &"--force"]).expect(0);
            let image = fs::read(output).expect("readable");
            let (image, rest) = image.split_at(usize::try_from(image_bytes).expect("small"));
            let taken = dir.path().join("taken");
            fs::write(&taken, image).expect("written");
            assert_eq!(sha256(&taken), vector.snapshot_sha256(), "{name}: the export");
            assert!(rest.iter().all(|byte| *byte == 0xa5), "{name}: written past the image");
            store.assert_unchanged("export");

            let merged = ran(&[&"merge", &cow, &origin, &"--json"]).expect(0).json();
            assert_eq!(merged["exceptions"], count, "{name}: {merged}");
            assert_eq!(merged["shared_bytes"], 0, "{name}: {merged}");
            assert_eq!(sha256(origin), vector.snapshot_sha256(), "{name}: the merged disk");
            assert_eq!(exceptions(cow), [], "{name}");
            ran(&[&"check", &cow, &origin]).expect(0);
        }
    }
    assert!(large > 0, "no store fits on large sectors");
}

#[test]
fn a_store_is_created_on_a_disk_of_any_sector_size() {
    if !usable("create on disks") {
        return;
    }
    let dir = scratch();
    let kinds: [fn(&Path) -> Loop; 2] = [Loop::over, Loop::with_large_sectors];
    for (kind, chunk_size) in
        kinds.into_iter().flat_map(|kind| ["512", "4k", "1M"].map(|chunk_size| (kind, chunk_size)))
    {
        let below = image(&dir, "cow", 16 << 20);
        let disk = kind(&below);
        let path = disk.path();
        let options: [&dyn AsRef<OsStr>; 3] = [&"--json", &"--chunk-size", &chunk_size];
        let created = ran(&[&[&"create" as &dyn AsRef<OsStr>, &path], &options[..]].concat());
        assert_eq!(created.expect(0).json()["total_sectors"], 32 << 10);
        let info = ran(&[&"info", &path, &"--json"]).expect(0).json();
        assert_eq!((&info["valid"], &info["exceptions"]), (&true.into(), &0.into()), "{info}");
        ran(&[&"check", &path]).expect(0);
        assert_eq!(exceptions(path), []);
        // There is something now.
        ran(&[&"create", &path]).expect(3);
        ran(&[&"create", &path, &"--force"]).expect(0);
        let size = ran(&[&"create", &path, &"--force", &"--size", &"1M"]).expect(3).stderr();
        assert!(size.contains("16777216"), "a disk is not resized: {size}");
    }
}

#[test]
fn an_output_disk_that_is_too_small_is_not_touched() {
    if !usable("a small output") {
        return;
    }
    let dir = scratch();
    let store = vector("random-16k").unpack();
    let below = dir.path().join("output");
    fs::write(&below, vec![0xa5; 1 << 20]).expect("written");
    let output = Loop::over(&below);
    let words: [&dyn AsRef<OsStr>; 5] =
        [&"export", &store.cow, &store.origin, &output.path(), &"--force"];
    let refused = ran(&words).expect(3).stderr();
    assert!(refused.contains("1048576"), "{refused}");
    assert!(fs::read(output.path()).expect("readable").iter().all(|byte| *byte == 0xa5));
}

#[test]
fn a_mounted_origin_is_refused() {
    if !usable("a mounted origin") {
        return;
    }
    let dir = scratch();
    let store = vector("random-4k").unpack();
    let Some(mount) = Mount::ext4(dir.path()) else { return };
    fs::write(mount.path("file"), "of the mounted file system").expect("there is room");
    let cow = Loop::over(&store.cow);
    let refused = ran(&[&"merge", &cow.path(), &mount.device()]).expect(3).stderr();
    assert!(refused.contains("in use") && refused.contains("mounted"), "{refused}");
    let name = mount.device().to_str().expect("a plain path");
    assert!(refused.contains(name), "it does not name the disk: {refused}");
    let refused = ran(&[&"create", &mount.device(), &"--force"]).expect(3).stderr();
    assert!(refused.contains("in use"), "{refused}");
    store.assert_unchanged("a refused merge");
}

#[test]
fn a_read_only_disk_is_refused_for_what_it_is() {
    if !usable("a read-only origin") {
        return;
    }
    let store = vector("random-4k").unpack();
    let origin = Loop::read_only(&store.origin);
    let refused = ran(&[&"merge", &store.cow, &origin.path()]).expect(3).stderr();
    assert!(refused.contains("read-only"), "{refused}");
    let dry = ran(&[&"merge", &store.cow, &origin.path(), &"--dry-run"]).expect(3).stderr();
    assert_eq!(dry, refused, "a dry run refuses what the merge refuses");
    ran(&[&"check", &store.cow, &origin.path()]).expect(0);
    store.assert_unchanged("a refused merge");
}

#[test]
fn a_disk_and_the_file_behind_it_are_refused_as_a_pair() {
    if !usable("a loop device and its file") {
        return;
    }
    let store = vector("random-4k").unpack();
    let (cow, origin) = (Loop::over(&store.cow), Loop::over(&store.origin));
    let pairs: [[&Path; 2]; 3] =
        [[&store.cow, cow.path()], [cow.path(), &store.cow], [origin.path(), &store.origin]];
    for [first, second] in pairs {
        let refused = ran(&[&"merge", &first, &second]).expect(3).stderr();
        assert!(refused.contains("the same file or device"), "{refused}");
    }
    let output = [&"export" as &dyn AsRef<OsStr>, &store.cow, &store.origin, &origin.path()];
    let refused = ran(&[&output[..], &[&"--force"]].concat()).expect(3).stderr();
    assert!(refused.contains("the same file or device"), "{refused}");
    store.assert_unchanged("a refused command");
}
