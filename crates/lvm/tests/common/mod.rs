//! The disks that real LVM wrote, and what LVM itself says about them.
#![allow(dead_code, reason = "each test file uses its part")]

mod samples; // their index

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use dmsnap_lvm::{Disk, DiskScan, Group, Groups, Stamp, Step};
use serde_json::Value;

use self::samples::folder;

/// One entry of the index.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) says: Value,
}

/// All of them.
pub(crate) fn samples() -> Vec<Sample> {
    samples::index().into_iter().map(|(name, says)| Sample { name, says }).collect()
}

pub(crate) fn sample(name: &str) -> Sample {
    samples().into_iter().find(|sample| sample.name == name).expect("the samples are whole")
}

/// A metadata text as LVM wrote it: `one-pv`, or `one-pv.snap` after a merge.
pub(crate) fn text(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.vg"))).expect("the samples are whole")
}

/// Names of all those texts.
pub(crate) fn text_names() -> Vec<String> {
    let files = fs::read_dir(folder())
        .expect("the samples are whole")
        .map(|file| file.expect("the samples are whole").file_name());
    let names = files.filter_map(|name| name.to_str()?.strip_suffix(".vg").map(str::to_owned));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

impl Sample {
    /// The content of its disks.
    pub(crate) fn images(&self) -> Vec<Vec<u8>> {
        let disks = self.says["disks"].as_array().expect("a list").iter();
        disks.map(|file| unpacked(file.as_str().expect("a name"))).collect()
    }
}

/// A disk, unpacked once for all tests.
fn unpacked(file: &str) -> Vec<u8> {
    static ALL: OnceLock<Mutex<HashMap<String, Vec<u8>>>> = OnceLock::new();
    let mut all = ALL.get_or_init(Mutex::default).lock().expect("no test panics in here");
    all.entry(file.to_owned()).or_insert_with(|| samples::unpacked(file)).clone()
}

pub(crate) fn rows(value: &Value) -> &[Value] {
    value.as_array().expect("the samples are whole")
}

/// A number of bytes as LVM reports it.
pub(crate) fn bytes(value: &Value) -> u64 {
    value
        .as_str()
        .expect("the samples are whole")
        .strip_suffix('B')
        .expect("the samples are whole")
        .parse()
        .expect("the samples are whole")
}

/// A range of bytes, of a disk in memory.
pub(crate) fn indices(range: Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at).expect("the disk is in memory");
    index(range.start)..index(range.end)
}

/// Reads a disk, and holds the scan to its word about how much it reads.
pub(crate) fn scan(image: &[u8]) -> Disk {
    let mut scan = DiskScan::new(image.len() as u64);
    let mut reads = 0;
    while let Some(range) = scan.needs() {
        scan.give(&image[indices(range)]);
        reads += 1;
        assert!(reads < 10_000, "the scan does not end");
    }
    scan.finish()
}

pub(crate) fn assemble(images: &[Vec<u8>]) -> Groups {
    let disks: Vec<_> = images.iter().map(|image| scan(image)).collect();
    disks.iter().for_each(|disk| assert_eq!(disk.problems, []));
    Groups::assemble(&disks)
}

/// The only group on some disks.
pub(crate) fn group(images: &[Vec<u8>]) -> Group {
    let mut found = assemble(images);
    let counts = (found.groups.len(), found.unused.len(), found.unreadable.len());
    assert_eq!(counts, (1, 0, 0), "{found:?}");
    found.groups.pop().expect("the samples are whole")
}

/// The bytes of an LV.
pub(crate) fn content(group: &Group, images: &[Vec<u8>], lv: &str) -> Vec<u8> {
    let mut content = Vec::new();
    for piece in group.mapping(lv).expect("the samples are whole").pieces() {
        let place = group.places[piece.pv].expect("the samples are whole");
        let start = place.place.start + piece.start;
        content.extend_from_slice(&images[place.disk][indices(start..start + piece.len)]);
    }
    content
}

pub(crate) fn stamp() -> Stamp {
    Stamp { description: "Merged a \"snapshot\".".into(), host: "here".into(), time: 1_795_478_719 }
}

/// Every snapshot that LVM merged, and the text it left.
pub(crate) fn merges() -> Vec<(String, String)> {
    let names = text_names();
    let merges = names.iter().filter_map(|name| name.split_once('.'));
    merges.map(|(name, snapshot)| (name.to_owned(), snapshot.to_owned())).collect()
}

/// Does what a rewrite says.
pub(crate) fn apply(images: &mut [Vec<u8>], steps: &[Step]) {
    for step in steps {
        if let Step::Write { disk, start, bytes } = step {
            images[*disk][indices(*start..start + bytes.len() as u64)].copy_from_slice(bytes);
        }
    }
}
