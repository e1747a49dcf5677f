//! Running the command and making stores for it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dmsnap::format::{ChunkSize, Layout, RawHeader};

/// Four sectors: 128 slots in an area.
pub(crate) const CHUNK: usize = 2048;

pub(crate) fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmsnap"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a run ended.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("ended by itself, not by a signal"),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }
}

impl Ran {
    /// Asserts success with nothing to complain about, and gives stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""));
        self.stdout
    }

    /// Asserts "could not be done" with nothing on stdout, and gives the one line that says why.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        assert_eq!((self.status, self.stdout.as_str()), (3, ""), "{}", self.stderr);
        one_line(&self.stderr)
    }
}

/// Asserts that an error is one line of the command's, and gives it.
#[track_caller]
pub(crate) fn one_line(stderr: &str) -> String {
    assert_eq!(stderr.lines().count(), 1, "one line of error:\n{stderr}");
    assert!(stderr.starts_with("dmsnap: ") && stderr.ends_with('\n'), "{stderr}");
    stderr.trim_end().to_owned()
}

pub(crate) fn run<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    command(args).output().expect("the command starts").into()
}

/// Arguments of unlike types.
macro_rules! dmsnap {
    ($($arg:expr),* $(,)?) => {
        $crate::common::run(&[$(std::ffi::OsStr::new(&$arg)),*])
    };
}

/// A directory of its own, removed after the test.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("write");
        path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .expect("read directory")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// A store as the kernel writes it: each old chunk's exception in lock-step, its data in every
/// byte the number of the old chunk, plus 100.
pub(crate) fn store(old_chunks: &[u64], chunks: u64) -> Vec<u8> {
    let chunk_size = ChunkSize::from_sectors(4).expect("power of two");
    let layout = Layout::new(chunk_size);
    let mut image = vec![0; usize::try_from(chunks).expect("small") * CHUNK];
    write_at(&mut image, 0, zerocopy_bytes(&RawHeader::new(chunk_size, true)));
    for (index, &old) in (0..).zip(old_chunks) {
        let new = layout.lock_step_chunk(index).get();
        let slot = layout.slot_byte(index).expect("small");
        write_at(&mut image, slot, &old.to_le_bytes());
        write_at(&mut image, slot + 8, &new.to_le_bytes());
        write_at(&mut image, new * CHUNK as u64, &[data(old); CHUNK]);
    }
    image
}

/// What a store's data chunk for an old chunk is full of.
pub(crate) fn data(old: u64) -> u8 {
    (old % 100) as u8 + 100
}

/// An origin whose every byte is its chunk's number, below 100, plus 1.
pub(crate) fn origin(chunks: u64) -> Vec<u8> {
    (0..chunks).flat_map(|chunk| [(chunk % 99) as u8 + 1; CHUNK]).collect()
}

/// What a snapshot of that origin shows.
pub(crate) fn snapshot(old_chunks: &[u64], chunks: u64) -> Vec<u8> {
    let mut image = origin(chunks);
    for &old in old_chunks {
        write_at(&mut image, old * CHUNK as u64, &[data(old); CHUNK]);
    }
    image
}

pub(crate) fn write_at(image: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).expect("small");
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn zerocopy_bytes(header: &RawHeader) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(header)
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("read")
}

/// Old chunks with three runs: 5..=7, 2, 20.
pub(crate) const OLD: [u64; 5] = [5, 6, 7, 2, 20];
pub(crate) const ORIGIN_CHUNKS: u64 = 32;

pub(crate) struct Pair {
    pub(crate) dir: Dir,
    pub(crate) cow: PathBuf,
    pub(crate) disk: PathBuf,
}

/// A store with `old_chunks` and its origin.
pub(crate) fn pair(old_chunks: &[u64], origin_chunks: u64) -> Pair {
    let dir = Dir::new();
    let chunks = old_chunks.len() as u64 + old_chunks.len() as u64 / 128 + 16;
    let cow = dir.file("cow", &store(old_chunks, chunks));
    let disk = dir.file("disk", &origin(origin_chunks));
    Pair { dir, cow, disk }
}

pub(crate) fn parsed(line: &str) -> serde_json::Value {
    serde_json::from_str(line).expect("a line of JSON")
}
