use std::path::PathBuf;

use dmsnap::device::{AnyDevice, Device, Memory};
use dmsnap::ops::{self, ExportOptions, Silent};
use dmsnap_images::{Group, ImageError, Name, Scan};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::index;
pub(crate) use crate::index::{folder, list, text};

/// One entry of the index, its disks unpacked.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) says: Value,
    pub(crate) dir: TempDir,
    pub(crate) images: Vec<PathBuf>,
}

pub(crate) fn samples() -> impl Iterator<Item = Sample> {
    index::index().into_iter().map(|(name, says)| Sample::new(name, says))
}

pub(crate) fn sample(name: &str) -> Sample {
    let says = index::index().remove(name).expect("the index has this name");
    Sample::new(name.into(), says)
}

impl Sample {
    fn new(name: String, says: Value) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let images = index::unpack(&says, dir.path());
        Self { name, says, dir, images }
    }

    /// The name of the volume group.
    pub(crate) fn group(&self) -> &str {
        index::group(&self.says)
    }

    /// The merges that LVM did, by snapshot.
    pub(crate) fn merges(&self) -> Vec<(String, Value)> {
        index::merges(&self.says)
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

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
