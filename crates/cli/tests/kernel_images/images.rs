use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What `index.json` says about one name.
#[derive(Clone, Debug, Deserialize)]
struct Entry {
    scenario: String,
    chunk_size_sectors: u64,
    origin_sectors: u64,
    cow_sectors: u64,
    status: String,
    status2: Option<String>,
    snapshot_sha256: Option<String>,
    snapshot2_sha256: Option<String>,
    reopened_snapshot_sha256: Option<String>,
    origin_sha256: String,
}

/// One store of the index and what the kernel said about it.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    /// As in `random-4k`.
    pub(crate) name: String,
    /// `cow`, or `cow2` for the second snapshot of an origin.
    pub(crate) cow: &'static str,
    /// How it came about.
    pub(crate) scenario: String,
    /// Of the store.
    pub(crate) chunk_size_sectors: u64,
    /// Of the unpacked origin.
    pub(crate) origin_sectors: u64,
    /// Of the unpacked COW device.
    pub(crate) cow_sectors: u64,
    /// The kernel's own line.
    pub(crate) status: String,
    /// Of the snapshot's whole content; `None` where there is no snapshot any more.
    pub(crate) snapshot_sha256: Option<String>,
    /// Of the snapshot as the kernel read it after a crash.
    pub(crate) reopened_sha256: Option<String>,
    /// Of the unpacked origin.
    pub(crate) origin_sha256: String,
}

/// Every store of the index.
pub(crate) fn vectors() -> Vec<Vector> {
    let text = fs::read_to_string(data().join("index.json")).expect("index.json is readable");
    let index: BTreeMap<String, Entry> = serde_json::from_str(&text).expect("index.json is JSON");
    index.iter().flat_map(|(name, entry)| entry.vectors(name)).collect()
}

/// The stores that still have a snapshot: all but the invalid one.
pub(crate) fn snapshots() -> Vec<Vector> {
    vectors().into_iter().filter(|vector| vector.snapshot_sha256.is_some()).collect()
}

/// The one store of that name.
pub(crate) fn vector(name: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.name == name).expect("the index has this name")
}

impl Entry {
    fn vectors(&self, name: &str) -> Vec<Vector> {
        let first = Vector {
            name: name.to_owned(),
            cow: "cow",
            scenario: self.scenario.clone(),
            chunk_size_sectors: self.chunk_size_sectors,
            origin_sectors: self.origin_sectors,
            cow_sectors: self.cow_sectors,
            status: self.status.clone(),
            snapshot_sha256: self.snapshot_sha256.clone(),
            reopened_sha256: self.reopened_snapshot_sha256.clone(),
            origin_sha256: self.origin_sha256.clone(),
        };
        let second = self.status2.as_ref().map(|status| Vector {
            cow: "cow2",
            status: status.clone(),
            snapshot_sha256: self.snapshot2_sha256.clone(),
            ..first.clone()
        });
        std::iter::once(first).chain(second).collect()
    }
}

impl Vector {
    /// Unpacks the store and its origin into a directory of their own.
    pub(crate) fn unpack(&self) -> Unpacked {
        let dir = TempDir::with_prefix_in(&self.name, env!("CARGO_TARGET_TMPDIR"))
            .expect("a temporary directory can be made");
        let device = |kind: &str| {
            let path = dir.path().join(format!("{kind}.img"));
            unpack(&data().join(format!("{}.{kind}.img.zst", self.name)), &path);
            path
        };
        let (cow, origin) = (device(self.cow), device("origin"));
        let content = Content { cow: sha256(&cow), origin: sha256(&origin) };
        Unpacked { vector: self.clone(), cow, origin, content, dir }
    }

    /// What the snapshot must hash to.
    pub(crate) fn snapshot_sha256(&self) -> &str {
        self.snapshot_sha256.as_deref().expect("this store has a snapshot")
    }
}

/// Hashes of both devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Of the COW device.
    pub(crate) cow: String,
    /// Of the origin.
    pub(crate) origin: String,
}

/// A store and its origin as files, gone when dropped.
pub(crate) struct Unpacked {
    /// Where it came from.
    pub(crate) vector: Vector,
    /// The COW device.
    pub(crate) cow: PathBuf,
    /// The origin.
    pub(crate) origin: PathBuf,
    /// What was unpacked.
    pub(crate) content: Content,
    dir: TempDir,
}

impl Unpacked {
    /// A path in the same directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For messages: which store of which name.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.vector.name, self.vector.cow)
    }

    /// Fails unless both devices are what was unpacked, byte for byte.
    pub(crate) fn assert_unchanged(&self, by: &str) {
        let now = Content { cow: sha256(&self.cow), origin: sha256(&self.origin) };
        assert_eq!(now, self.content, "{}: {by} changed a device", self.name());
    }
}

/// The hash of a whole file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> String {
    let mut file = File::open(path).expect("the file to hash is there");
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let len = file.read(&mut piece).expect("the file to hash is readable");
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn unpack(from: &Path, to: &Path) {
    let packed = File::open(from).expect("the packed image is there");
    let mut reader = ruzstd::decoding::StreamingDecoder::new(packed).expect("it is a zstd frame");
    let mut file = File::create(to).expect("the image can be made");
    io::copy(&mut reader, &mut file).expect("the image can be unpacked");
}
