use std::path::PathBuf;
use std::{fmt, io};

use super::mode::Mode;

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// What the system says: not found, permission denied, ...
    #[error("{0}")]
    System(#[from] io::Error),
    /// No compio runtime runs on this thread. Files are opened, used and closed inside one.
    #[error(
        "no compio runtime runs on this thread: open files inside `Runtime::block_on`, or use `dmsnap::blocking`"
    )]
    NoRuntime,
    /// Somebody else has it.
    #[error("in use{0}")]
    InUse(User),
    /// Marked as not to be written.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// A directory, a socket, ...
    #[error("neither a regular file nor a block device")]
    NotStorage,
}

/// Who else has a device, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum User {
    /// A process with a lock (`flock`) on it, or on the same part of the same file.
    Lock,
    /// A process with the byte locks of QEMU.
    Qemu,
    /// A process that has the file open for writing, or the kernel.
    Writer,
    /// The disk is mounted, part of another disk, or opened by somebody for himself alone.
    Claimed,
    /// A program that is running.
    Running,
    /// The loop device that is attached to it.
    Loop(PathBuf),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str(" by another process, which has it locked"),
            Self::Qemu => f.write_str(" by another process, which has it locked as QEMU does"),
            Self::Writer => f.write_str(" by another process, which has it open for writing"),
            Self::Claimed => {
                f.write_str(" by another process (or mounted, or part of a device-mapper table)")
            }
            Self::Running => f.write_str(": it is a program that is running"),
            Self::Loop(node) => write!(f, ": {} is attached to it", node.display()),
        }
    }
}

/// What it means that the system refuses to open a file or disk.
pub(super) fn refusal(error: io::Error, mode: Mode) -> OpenError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::BUSY) => OpenError::InUse(User::Claimed),
        Some(Errno::ROFS) => OpenError::ReadOnly("so is its file system".into()),
        Some(Errno::TXTBSY) => OpenError::InUse(User::Running),
        Some(Errno::PERM) if matches!(mode, Mode::Write | Mode::Share) => {
            OpenError::ReadOnly("it is marked so, or immutable".into())
        }
        _ => OpenError::System(error),
    }
}
