use std::time::Duration;
use std::{fs, io};

use rustix::fs::FlockOperation;

use super::identity::sysfs;

/// What the device is opened for, and so who else may have it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading, whoever else writes: for looking at a device in use.
    Look,
    /// Reading, while nobody who locks writes (a shared lock).
    Read,
    /// Reading and writing, alone (an exclusive lock; `O_EXCL` on disks, which also keeps out
    /// mounts and device-mapper tables).
    Write,
}

/// Whether the page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Around it (`O_DIRECT`) where the device can and the request is aligned; the rest through it.
    #[default]
    Direct,
    /// Through it.
    Buffered,
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// What the system says: not found, permission denied, ...
    #[error("{0}")]
    System(#[from] io::Error),
    /// Somebody has a lock on it, has mounted it, or has a device-mapper table on it.
    #[error("in use by another process (or mounted, or part of a device-mapper table)")]
    InUse,
    /// Marked as not to be written.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// A directory, a socket, ...
    #[error("neither a regular file nor a block device")]
    NotStorage,
}

/// Behind every writer of a disk udev looks at it for a moment, under a lock; and a process that was
/// killed keeps its locks until the system has cleared up its ring. Without patience the second of
/// two commands in a row would find the device in use.
pub(super) async fn take(lock: FlockOperation, file: &fs::File) -> Result<(), OpenError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut pauses = 50;
    loop {
        match rustix::fs::flock(file, lock) {
            Err(rustix::io::Errno::WOULDBLOCK) if pauses == 0 => return Err(OpenError::InUse),
            Err(rustix::io::Errno::WOULDBLOCK) => compio::time::sleep(PAUSE).await,
            other => return Ok(other.map_err(io::Error::from)?),
        }
        pauses -= 1;
    }
}

/// The kernel refuses to open such a disk for writing as if a permission were missing.
pub(super) fn is_read_only(rdev: u64) -> bool {
    sysfs(rdev, "ro").is_some_and(|ro| ro.trim_end() == "1")
}

pub(super) fn refusal(error: io::Error, mode: Mode) -> OpenError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::BUSY) => OpenError::InUse,
        Some(Errno::ROFS) => OpenError::ReadOnly("so is its file system".into()),
        Some(Errno::TXTBSY) => OpenError::InUse,
        Some(Errno::PERM) if mode == Mode::Write => {
            OpenError::ReadOnly("it is marked so, or immutable".into())
        }
        _ => OpenError::System(error),
    }
}
