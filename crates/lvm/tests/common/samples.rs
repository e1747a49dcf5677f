//! The index of the disks that real LVM wrote, for the tests of three packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where they are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/lvm")
}

/// What LVM and the kernel say about each of them, by name.
pub(crate) fn index() -> BTreeMap<String, Value> {
    let text = fs::read(folder().join("index.json")).expect("index.json is readable");
    let index: BTreeMap<_, _> = serde_json::from_slice(&text).expect("index.json is JSON");
    assert!(index.len() >= 15, "the index is whole");
    index
}

/// The content of a disk.
pub(crate) fn unpacked(disk: &str) -> Vec<u8> {
    let packed = File::open(folder().join(disk)).expect("a disk of the index is there");
    let mut content = Vec::new();
    let mut reader = ruzstd::decoding::StreamingDecoder::new(packed).expect("a zstd frame");
    reader.read_to_end(&mut content).expect("the frame is whole");
    content
}

/// Unpacks the disks of an entry into a folder: `a.img`, `b.img`, ...
pub(crate) fn unpack(says: &Value, dir: &Path) -> Vec<PathBuf> {
    let unpack = |(disk, letter): (&Value, char)| {
        let path = dir.join(format!("{letter}.img"));
        fs::write(&path, unpacked(text(disk))).expect("written");
        path
    };
    list(&says["disks"]).iter().zip('a'..).map(unpack).collect()
}

/// The name of an entry's only volume group.
pub(crate) fn group(says: &Value) -> &str {
    text(&says["vgs"][0]["vg_name"])
}

/// The merges that LVM did, by snapshot.
pub(crate) fn merges(says: &Value) -> Vec<(String, Value)> {
    let merges = says["merges"].as_object().expect("an object");
    merges.iter().map(|(name, says)| (name.clone(), says.clone())).collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |list| list)
}
