use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use dmsnap::device::{AnyDevice, Device, Memory};
use dmsnap::ops::{self, ExportOptions, Silent};
use dmsnap_images::{Group, ImageError, Name, Scan};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/lvm")
}

/// One entry of the index, its disks unpacked.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) says: Value,
    pub(crate) dir: TempDir,
    pub(crate) images: Vec<PathBuf>,
}

fn index() -> BTreeMap<String, Value> {
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
        let dir = tempfile::tempdir().expect("a directory");
        let unpack = |(disk, letter): (&Value, char)| {
            let packed = File::open(folder().join(text(disk))).expect("a disk of the index");
            let mut unpacked = Vec::new();
            let mut reader = ruzstd::decoding::StreamingDecoder::new(packed).expect("zstd");
            reader.read_to_end(&mut unpacked).expect("zstd");
            let path = dir.path().join(format!("{letter}.img"));
            fs::write(&path, unpacked).expect("write");
            path
        };
        let images = list(&says["disks"]).iter().zip('a'..).map(unpack).collect();
        Self { name, says, dir, images }
    }

    /// The name of the volume group.
    pub(crate) fn group(&self) -> &str {
        text(&self.says["vgs"][0]["vg_name"])
    }

    /// The merges that LVM did, by snapshot.
    pub(crate) fn merges(&self) -> Vec<(String, Value)> {
        let merges = self.says["merges"].as_object().expect("an object");
        merges.iter().map(|(name, says)| (name.clone(), says.clone())).collect()
    }

    /// What lies there; nothing of it deserves a warning.
    pub(crate) async fn scan(&self) -> Scan {
        let scan = Scan::look(&self.images, unexpected).await.expect("a volume group");
        assert_eq!(scan.warnings().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
        scan
    }

    /// The hash of each volume's own bytes, or of what a snapshot shows.
    pub(crate) async fn hash(&self, volume: &str) -> String {
        let scan = self.scan().await;
        let group = scan.group_of(&name(volume)).expect("it is there");
        let content = match group.snapshot(volume) {
            Ok(_) => shown(group, volume).await,
            Err(_) => bytes(&group.device(volume).expect("it is mapped")).await,
        };
        sha256(&content)
    }
}

/// For devices that deserve no warning.
pub(crate) fn unexpected(warning: &ImageError) {
    panic!("{warning}")
}

/// What a snapshot shows.
async fn shown(group: Group<'_>, snapshot: &str) -> Vec<u8> {
    let origin = group.origin(snapshot).expect("a snapshot");
    let cow = group.device(snapshot).expect("it is mapped");
    let len_bytes = origin.snapshot_bytes;
    let origin = group.device(&origin.name.volume).expect("it is mapped");
    let output = Memory::zeroed(usize::try_from(len_bytes).expect("small"));
    let options = ExportOptions { len_bytes: Some(len_bytes), ..ExportOptions::default() };
    ops::export(&cow, &origin, &output, options, &Silent).await.expect("exported");
    output.content()
}

pub(crate) async fn bytes(device: &AnyDevice) -> Vec<u8> {
    let len = device.len_bytes().expect("a size");
    device.read(0, usize::try_from(len).expect("small")).await.expect("read").to_vec()
}

pub(crate) fn run<T>(task: impl Future<Output = T>) -> T {
    compio::runtime::Runtime::new().expect("a runtime").block_on(task)
}

/// A volume of the only group.
pub(crate) fn name(volume: &str) -> Name {
    volume.parse().expect("a name")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |list| list)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
