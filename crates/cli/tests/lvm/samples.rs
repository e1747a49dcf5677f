use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use dmsnap_lvm::{DiskScan, Groups};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::{Dir, Ran, run};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/lvm")
}

/// One entry of the index, its disks unpacked.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) says: Value,
    pub(crate) dir: Dir,
    pub(crate) images: Vec<PathBuf>,
}

pub(crate) fn index() -> BTreeMap<String, Value> {
    let text = fs::read(folder().join("index.json")).expect("index.json is readable");
    let index: BTreeMap<_, _> = serde_json::from_slice(&text).expect("index.json is JSON");
    assert!(index.len() >= 15, "the index is whole");
    index
}

pub(crate) fn samples() -> impl Iterator<Item = Sample> {
    index().into_iter().map(|(name, says)| Sample::new(name, says))
}

pub(crate) fn sample(name: &str) -> Sample {
    let says = index().remove(name).expect("the index has this name");
    Sample::new(name.into(), says)
}

impl Sample {
    fn new(name: String, says: Value) -> Self {
        let dir = Dir::new();
        let unpack = |(disk, letter): (&Value, char)| {
            let packed = folder().join(text(disk));
            let packed = File::open(packed).expect("a disk of the index is there");
            let mut unpacked = Vec::new();
            ruzstd::decoding::StreamingDecoder::new(packed)
                .expect("zstd")
                .read_to_end(&mut unpacked)
                .expect("zstd");
            dir.file(&format!("{letter}.img"), &unpacked)
        };
        let images = list(&says["disks"]).iter().zip('a'..).map(unpack).collect();
        Self { name, says, dir, images }
    }

    /// The name of the volume group.
    pub(crate) fn group(&self) -> &str {
        text(&self.says["vgs"][0]["vg_name"])
    }

    /// Rows of a report, by the volume's name without brackets.
    pub(crate) fn rows(&self, report: &str) -> BTreeMap<String, Value> {
        by_name(&self.says[report])
    }

    /// The snapshots, by name: what the index says of their content.
    pub(crate) fn snapshots(&self) -> Vec<(String, Value)> {
        let content = self.says["content"].as_object().expect("an object");
        let snapshots = content.iter().filter(|(_, says)| says.get("origin").is_some());
        snapshots.map(|(name, says)| (name.clone(), says.clone())).collect()
    }

    /// The merges that LVM did, by snapshot.
    pub(crate) fn merges(&self) -> Vec<(String, Value)> {
        let merges = self.says["merges"].as_object().expect("an object");
        merges.iter().map(|(name, says)| (name.clone(), says.clone())).collect()
    }

    /// `dmsnap lvm WORD IMAGE... REST...`
    pub(crate) fn lvm(&self, word: &str, rest: &[&str]) -> Ran {
        let mut args: Vec<OsString> = vec!["lvm".into(), word.into()];
        args.extend(self.images.iter().map(|image| image.clone().into_os_string()));
        args.extend(rest.iter().map(OsString::from));
        run(&args)
    }

    /// `lvm:IMAGE[,IMAGE]...:VG/LV`
    pub(crate) fn address(&self, volume: &str) -> String {
        let images: Vec<_> = self.images.iter().map(|image| image.display().to_string()).collect();
        format!("lvm:{}:{}/{volume}", images.join(","), self.group())
    }

    /// `VG/LV`
    pub(crate) fn volume(&self, volume: &str) -> String {
        format!("{}/{volume}", self.group())
    }

    /// The bytes of a volume's own extents, read without the command.
    pub(crate) fn extents(&self, volume: &str) -> Vec<u8> {
        let images: Vec<_> =
            self.images.iter().map(|image| fs::read(image).expect("read")).collect();
        let disks: Vec<_> = images.iter().map(|image| scan(image)).collect();
        let groups = Groups::assemble(&disks);
        let group = groups.find(self.group()).expect("it is there");
        let mapping = group.mapping(volume).expect("it is mapped");
        let piece = |piece: dmsnap_lvm::Piece| {
            let place = group.places[piece.pv].expect("it is there");
            let start = index_of(place.place.start + piece.start);
            images[place.disk][start..start + index_of(piece.len)].to_vec()
        };
        mapping.pieces().flat_map(piece).collect()
    }

    /// What `dmsnap lvm list --json` says, by the volume's name.
    pub(crate) fn listed(&self, options: &[&str]) -> BTreeMap<String, Value> {
        let said = self.lvm("list", &[&["--json"], options].concat()).ok();
        let said: Value = serde_json::from_str(&said).expect("JSON");
        by_name(&said["report"][0]["lv"])
    }

    /// The hash of what the command exports of a snapshot.
    pub(crate) fn exported(&self, snapshot: &str) -> String {
        let output = self.dir.path("exported");
        let ran = self.lvm("export", &[&self.volume(snapshot), &output.to_string_lossy()]);
        assert!(ran.ok().starts_with("exported "));
        let hash = sha256(&fs::read(&output).expect("read"));
        fs::remove_file(output).expect("clean up");
        hash
    }
}

fn scan(image: &[u8]) -> dmsnap_lvm::Disk {
    let mut scan = DiskScan::new(image.len() as u64);
    while let Some(range) = scan.needs() {
        scan.give(&image[index_of(range.start)..index_of(range.end)]);
    }
    scan.finish()
}

pub(crate) fn by_name(rows: &Value) -> BTreeMap<String, Value> {
    let name = |row: &Value| text(&row["lv_name"]).trim_matches(['[', ']']).to_owned();
    list(rows).iter().map(|row| (name(row), row.clone())).collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |list| list)
}

pub(crate) fn index_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
