use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{parsed, read};
use crate::kernel::guest::{Guest, in_guest};
use crate::kernel::random::Random;

/// The longest single write, in bytes.
const LONGEST_WRITE: u64 = 128 << 10;

/// Room that is ample for the images of all tests and for the memory of the guests.
const ROOM_BYTES: u64 = 2 << 30;

/// A store with its origin, and what the snapshot and the origin should hold.
pub(crate) struct Pair {
    /// In the guest's answers, and of its devices.
    pub(crate) name: String,
    pub(crate) cow: PathBuf,
    pub(crate) origin: PathBuf,
    pub(crate) chunk_bytes: u64,
    /// What the snapshot should show.
    pub(crate) snapshot: Vec<u8>,
    /// What the mapped origin should show.
    pub(crate) current: Vec<u8>,
    dir: TempDir,
}

/// Where a write goes.
#[derive(Clone, Copy)]
pub(crate) enum To {
    Snapshot,
    Origin,
}

/// Bytes that are written to the place they have here.
struct Data {
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Pair {
    /// An origin of random content, and an empty store for it that dmsnap made. The store has room
    /// for every chunk; a `cow_chunks` of its own overrides that.
    pub(crate) fn create(
        name: &str,
        chunk_bytes: u64,
        origin_sectors: u64,
        cow_chunks: Option<u64>,
        random: &mut Random,
    ) -> Self {
        let dir = directory();
        let len_bytes = origin_sectors * 512;
        let content = random.bytes(len_bytes);
        let (origin, cow) = (dir.path().join("origin"), dir.path().join("cow"));
        fs::write(&origin, &content).expect("the origin can be written");
        let chunks = len_bytes.div_ceil(chunk_bytes);
        let chunks = cow_chunks.unwrap_or(chunks + chunks / 16 + 8);
        let (size, chunk_size) = ((chunks * chunk_bytes).to_string(), chunk_bytes.to_string());
        dmsnap!("create", "--chunk-size", chunk_size, "--size", size, cow).ok();
        let (snapshot, current) = (content.clone(), content);
        Self { name: name.to_owned(), cow, origin, chunk_bytes, snapshot, current, dir }
    }

    /// A pair with these bytes. What the snapshot shows is what dmsnap exports.
    pub(crate) fn of(name: &str, chunk_bytes: u64, origin: &[u8], cow: &[u8]) -> Self {
        let dir = directory();
        let [origin_path, cow_path, out] = ["origin", "cow", "out"].map(|it| dir.path().join(it));
        fs::write(&origin_path, origin).expect("the origin can be written");
        fs::write(&cow_path, cow).expect("the COW device can be written");
        dmsnap!("export", cow_path, origin_path, out).ok();
        let (snapshot, current) = (read(&out), origin.to_owned());
        let (name, cow, origin) = (name.to_owned(), cow_path, origin_path);
        Self { name, cow, origin, chunk_bytes, snapshot, current, dir }
    }

    /// A pair that should come to hold the same, on images that are still blank.
    pub(crate) fn twin(&self) -> Self {
        let dir = directory();
        let (origin, cow) = (dir.path().join("origin"), dir.path().join("cow"));
        blank_like(&self.origin, &origin);
        blank_like(&self.cow, &cow);
        let (snapshot, current) = (self.snapshot.clone(), self.current.clone());
        let (name, chunk_bytes) = (self.name.clone(), self.chunk_bytes);
        Self { name, cow, origin, chunk_bytes, snapshot, current, dir }
    }

    /// A path in the same directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn info(&self) -> Value {
        parsed(&dmsnap!("info", self.cow, "--json").ok())
    }

    /// The words of the kernel's status line, according to dmsnap.
    pub(crate) fn status(&self) -> String {
        self.info()["status"].as_str().expect("status is text").to_owned()
    }

    /// The number of exceptions, on which dmsnap and a naive reader must agree.
    #[track_caller]
    pub(crate) fn exceptions(&self) -> u64 {
        let live = live(&self.cow, self.chunk_bytes);
        assert_eq!(self.info()["exceptions"], live, "{}", self.name);
        live
    }

    /// Asserts that dmsnap finds nothing wrong and exports the snapshot as it should be.
    #[track_caller]
    pub(crate) fn assert_exported(&self, told: &str) {
        let checked = dmsnap!("check", self.cow, self.origin).ok();
        assert!(checked.ends_with("sound\n"), "{told}: {checked}");
        let image = self.path("exported");
        dmsnap!("export", "--force", self.cow, self.origin, image).ok();
        assert!(read(&image) == self.snapshot, "{told}: the export is another snapshot");
    }

    /// Asserts that dmsnap's merge makes the origin the snapshot, and the store empty.
    #[track_caller]
    pub(crate) fn assert_merges(&self, told: &str) {
        dmsnap!("merge", self.cow, self.origin).ok();
        self.assert_merged(told);
    }

    /// Asserts that somebody's merge has come to its end.
    #[track_caller]
    pub(crate) fn assert_merged(&self, told: &str) {
        assert!(read(&self.origin) == self.snapshot, "{told}: the origin is not the snapshot");
        assert_eq!(dmsnap!("check", self.cow, self.origin).ok(), "sound\n", "{told}");
        assert_eq!(self.exceptions(), 0, "{told}");
    }

    /// Adds `count` random writes to the guest's script, for the mapped devices, and to the model:
    /// half of them by single bytes through the page cache, half by sectors past it.
    pub(crate) fn write(&mut self, to: To, count: u64, guest: &mut Guest, random: &mut Random) {
        let data = self.data(random);
        let len_bytes = self.snapshot.len() as u64;
        for index in 0..count {
            let at = random.below(len_bytes);
            let len = 1 + random.below(LONGEST_WRITE);
            let (put, at, len) = match index % 2 {
                0 => ("put", at, len),
                _ => ("put_direct", at / 512 * 512, len.next_multiple_of(512)),
            };
            let len = len.min(len_bytes - at);
            guest.line(self.put(put, to, &data, at, len));
        }
    }

    /// Adds one write of whole chunks to the snapshot.
    pub(crate) fn write_chunks(&mut self, old: Range<u64>, guest: &mut Guest, random: &mut Random) {
        let data = self.data(random);
        let (at, len) = (old.start * self.chunk_bytes, (old.end - old.start) * self.chunk_bytes);
        guest.line(self.put("put_direct", To::Snapshot, &data, at, len));
    }

    /// Random bytes for writes to either device.
    fn data(&self, random: &mut Random) -> Data {
        let bytes = random.bytes(self.snapshot.len() as u64);
        let path = self.path(&format!("data-{}", random.below(u64::MAX)));
        fs::write(&path, &bytes).expect("the data can be written");
        Data { bytes, path }
    }

    /// The command for one write; the model learns of it.
    fn put(&mut self, put: &str, to: To, data: &Data, at: u64, len: u64) -> String {
        let from = usize::try_from(at).expect("small");
        let range = from..from + usize::try_from(len).expect("small");
        let (image, device) = match to {
            To::Snapshot => (&mut self.snapshot, format!("/dev/mapper/{}", self.name)),
            To::Origin => (&mut self.current, format!("/dev/mapper/{}-origin", self.name)),
        };
        image[range.clone()].copy_from_slice(&data.bytes[range]);
        format!("{put} {} {device} {at} {len}", in_guest(&data.path))
    }

    /// Attaches both devices: the words for the origin and the COW device, in this order.
    pub(crate) fn disks(&self, guest: &mut Guest) -> String {
        format!("{} {}", guest.disk(&self.origin), guest.disk(&self.cow))
    }
}

/// Where the images lie: in memory if there is room, because the kernel under test flushes a lot.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free_bytes = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    match free_bytes >= ROOM_BYTES {
        true => TempDir::new_in(memory),
        false => TempDir::new(),
    }
    .expect("a temporary directory can be made")
}

/// The hash of these bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many exceptions are in a store, read naively: only its areas, so that a merge can be
/// watched.
pub(crate) fn live(cow: &Path, chunk_bytes: u64) -> u64 {
    let cow = File::open(cow).expect("the COW device is there");
    let slots = chunk_bytes / 16;
    let mut area = vec![0; usize::try_from(chunk_bytes).expect("small")];
    for index in 0.. {
        cow.read_exact_at(&mut area, (1 + index * (slots + 1)) * chunk_bytes).expect("an area");
        if let Some(end) = area.chunks(16).position(|slot| slot[8..] == [0; 8]) {
            return index * slots + end as u64;
        }
    }
    unreachable!("the file has an end")
}

/// An empty image as long as another.
fn blank_like(image: &Path, path: &Path) {
    let len_bytes = fs::metadata(image).expect("the image is there").len();
    let blank = File::create(path).expect("the image can be made");
    blank.set_len(len_bytes).expect("the image can be made");
}
