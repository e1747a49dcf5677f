use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use dmsnap_lvm::{DiskScan, Groups};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::index;
pub(crate) use super::index::{folder, index, list, text};
use crate::common::{Dir, Ran, run};

/// One entry of the index, its disks unpacked.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) says: Value,
    pub(crate) dir: Dir,
    pub(crate) images: Vec<PathBuf>,
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
        let images = index::unpack(&says, &dir.path(""));
        Self { name, says, dir, images }
    }

    /// The name of the volume group.
    pub(crate) fn group(&self) -> &str {
        index::group(&self.says)
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
        index::merges(&self.says)
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

pub(crate) fn index_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
