use std::fs;

use serde_json::Value;

use crate::common::{parsed, run};
use crate::lvm::merged::assert_like_lvms;
use crate::lvm::samples::{Sample, index_of, sample, sha256, text};

/// Where the first disk's data begins: its metadata lies before.
const METADATA_BYTES: u64 = 1 << 20;

/// A group with a snapshot, and what it was before.
struct World {
    sample: Sample,
    snapshot: String,
    origin: String,
    says: Value,
    /// The origin and the snapshot, as they were.
    before: (Vec<u8>, String),
    images: Vec<Vec<u8>>,
}

impl World {
    fn new(name: &str) -> Self {
        let sample = sample(name);
        let (snapshot, says) = sample.merges().swap_remove(0);
        let origin = text(&sample.says["content"][&snapshot]["origin"]).to_owned();
        let before = (sample.extents(&origin), sample.exported(&snapshot));
        let images = sample.images.iter().map(|image| fs::read(image).expect("read")).collect();
        Self { sample, snapshot, origin, says, before, images }
    }

    fn undo_path(&self) -> String {
        self.sample.dir.path("undo").display().to_string()
    }

    fn merge(&self, more: &[&str]) -> String {
        let (volume, undo) = (self.sample.volume(&self.snapshot), self.undo_path());
        self.sample.lvm("merge", &[&[&volume, "--undo", &undo][..], more].concat()).ok()
    }

    /// `dmsnap undo` of the volumes.
    fn undo(&self) {
        let [snapshot, origin] = [&self.snapshot, &self.origin].map(|it| self.sample.address(it));
        run(&["undo", &snapshot, &origin, &self.undo_path()]).ok();
        assert!(self.sample.extents(&self.origin) == self.before.0, "not the old origin");
        assert_eq!(self.sample.exported(&self.snapshot), self.before.1, "not the snapshot");
    }

    fn old_origin(&self) -> Vec<u8> {
        let out = self.sample.dir.path("out").display().to_string();
        run(&["export", "--force", &self.undo_path(), &self.sample.address(&self.origin), &out])
            .ok();
        fs::read(out).expect("read")
    }
}

#[test]
fn a_merge_in_a_group_is_taken_back_when_its_metadata_is_back() {
    for name in ["one-pv", "striped"] {
        let world = World::new(name);
        let told = world.merge(&[]);
        assert!(told.contains("\nkept ") && told.contains("is no longer in it"), "{told}");
        let (snapshot, origin) = (&world.snapshot, &world.origin);
        let vg = world.sample.group();
        let undo = format!("dmsnap undo lvm:IMAGE:{vg}/{snapshot} lvm:IMAGE:{vg}/{origin} ");
        assert!(told.contains("the way back: vgcfgrestore -f ") && told.contains(&undo), "{told}");
        assert_like_lvms(&world.sample, snapshot, &world.says);
        assert!(world.old_origin() == world.before.0, "the way back shows the old origin");
        // What vgcfgrestore does.
        for (path, image) in world.sample.images.iter().zip(&world.images) {
            let mut now = fs::read(path).expect("read");
            let metadata = ..index_of(METADATA_BYTES);
            now[metadata].copy_from_slice(&image[metadata]);
            fs::write(path, now).expect("written");
        }
        world.undo();
    }
}

#[test]
fn a_merge_of_the_data_alone_is_taken_back_at_once() {
    let world = World::new("one-pv");
    let told = parsed(&world.merge(&["--no-metadata", "--json"]));
    assert_eq!(told["kept_chunks"], told["exceptions"]);
    assert_eq!(told["kept_bytes"], told["bytes"]);
    world.undo();
}

#[test]
fn another_name_of_the_command_keeps_a_way_back_as_well() {
    let world = World::new("one-pv");
    let snapshot = world.sample.address(&world.snapshot);
    let told = run(&["merge", "--undo", &world.undo_path(), &snapshot]).ok();
    assert!(told.contains("\nkept "), "{told}");
    assert!(world.old_origin() == world.before.0);
}

#[test]
fn a_way_back_is_planned_and_refused_before_anything_is_written() {
    let world = World::new("one-pv");
    let told = world.merge(&["--dry-run"]);
    assert!(told.contains("would keep ") && told.contains("the way back takes "), "{told}");
    world.sample.dir.file("other", &crate::common::store(&[1], 50));
    world.sample.dir.file("small", &[0; 8192]);
    let image = world.sample.images[0].display().to_string();
    let volume = world.sample.volume(&world.snapshot);
    let named = |name: &str| world.sample.dir.path(name).display().to_string();
    for (undo, told) in [
        (image.as_str(), "the same file or device as"),
        (&named("other"), "holds a store already"),
        (&named("small"), "has 8192 bytes; the way back takes"),
        (&named("missing/undo"), "its directory does not exist"),
        ("lvm:a:b/c", "is in a volume group"),
    ] {
        let refused = world.sample.lvm("merge", &[&volume, "--undo", undo]).failed();
        assert!(refused.contains(told), "{refused}");
    }
    assert!(!world.sample.dir.path("undo").exists());
    assert!(sha256(&fs::read(&image).expect("read")) == sha256(&world.images[0]));
}
