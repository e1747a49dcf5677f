use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use compio::driver::{DriverType, ProactorBuilder};
use compio::runtime::{Runtime, RuntimeBuilder};
use dmsnap::device::{Buffer, Caching, File, Mode};

use bytes::Bytes;

/// A directory of one test, removed after it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("device-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory can be made");
        Self(dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file can be written");
        path
    }

    /// A file that is one hole.
    pub(crate) fn hole(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).and_then(|file| file.set_len(len)).expect("a file can be made");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Drives `task` as the command does.
pub(crate) fn run<T>(task: impl Future<Output = T>) -> T {
    Runtime::new().expect("a runtime can be made").block_on(task)
}

/// Drives `task` as where io_uring is forbidden.
pub(crate) fn run_polling<T>(task: impl Future<Output = T>) -> T {
    let mut proactor = ProactorBuilder::new();
    proactor.driver_type(DriverType::Poll);
    let runtime = RuntimeBuilder::new().with_proactor(proactor).build().expect("it can be made");
    assert_eq!(runtime.driver_type(), DriverType::Poll);
    runtime.block_on(task)
}

pub(crate) async fn open(path: &Path, mode: Mode, caching: Caching) -> File {
    let opened = File::open(path, mode, caching).await;
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bytes that tell where they belong: no two stretches are alike.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // Never zero, so that no stretch passes for a hole.
        (mixed ^ (mixed >> 29)) | 0x0101_0101_0101_0101
    });
    let mut bytes: Vec<u8> =
        words.by_ref().take(len.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// The bytes in memory that begins `offset` bytes past a multiple of 4096.
pub(crate) fn placed(bytes: &[u8], offset: usize) -> Bytes {
    let mut buffer = Buffer::zeroed(offset + bytes.len());
    buffer[offset..].copy_from_slice(bytes);
    buffer.freeze().slice(offset..)
}
