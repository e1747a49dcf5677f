use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::Buffer;
use crate::sync::join_all;

/// May zeroed bytes lose their place on the medium?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The range may become a hole.
    MayPunch,
    /// The range stays (or becomes) allocated: later writes to it find room.
    Keep,
}

/// What somebody else has done to a device since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It has another size, in bytes.
    Size {
        /// When it was opened.
        then: u64,
        /// Now.
        now: u64,
    },
    /// It was written to.
    Written,
    /// Its attributes were changed, and maybe its content with an old time.
    Attributes,
    /// Its name leads to another file, or to none: the next to open it finds something else.
    Replaced,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { then, now } => write!(f, "it had {then} bytes, and has {now}"),
            Self::Written => f.write_str("somebody has written to it"),
            Self::Attributes => f.write_str("its attributes were changed, and maybe its content"),
            Self::Replaced => f.write_str("its name leads to another file, or to none"),
        }
    }
}

/// Is the error that there is no room below the device: a file without all its blocks on a full file
/// system, a quota, a limit of file sizes?
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Refuses a range that reaches past the end of a device of `len_bytes`.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`], also where the range has no end.
pub fn within(at: u64, len: u64, len_bytes: u64) -> io::Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= len_bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Bytes at positions.
///
/// All positions and lengths are in bytes. Completion of a write promises nothing about a power
/// cut; only [`flush`](Device::flush) does. Requests in flight at the same time may reach the
/// medium in any order. A future that writes must be driven to its end: what was handed to the
/// disk cannot be called back, and a dropped future leaves it open whether it happened.
///
/// Methods with a body are right for a device that has nothing better. A device that passes requests on to
/// another one has to pass on all of them: `#[deny(clippy::missing_trait_methods)]` at its `impl` finds what
/// was forgotten.
#[allow(async_fn_in_trait, reason = "a volume lives on one thread: its futures need not be Send")]
pub trait Device {
    /// Reads exactly `len` bytes from `at` on. A device whose length is not a multiple of 512 reads as zeroes
    /// from its end to the end of that sector; a write there makes it longer.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the device ends before; any error of the device.
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer>;

    /// The same from the medium, where a cache between here and there may hold something else: what a
    /// failed flush has lost, or what somebody has changed past it. For metadata, on which other data
    /// depends. A write that completed before is seen.
    ///
    /// # Errors
    ///
    /// As [`read`](Device::read).
    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.read(at, len).await
    }

    /// Drops what a cache between here and the medium holds and the medium has, or should have: later
    /// reads see the medium. What was written and not yet brought there stays.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    async fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }

    /// Writes all of `data` at `at`.
    ///
    /// # Errors
    ///
    /// Any error of the device; how much was written is then unknown.
    async fn write(&self, at: u64, data: Bytes) -> io::Result<()>;

    /// Writes `pieces` one after the other from `at` on, in one request where the device can.
    ///
    /// # Errors
    ///
    /// As [`write`](Device::write).
    async fn write_vectored(&self, mut at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        for piece in pieces {
            let len = piece.len() as u64;
            self.write(at, piece).await?;
            at += len;
        }
        Ok(())
    }

    /// Makes these writes, which are independent of each other, in as few requests as the device can: a
    /// snapshot puts new chunks next to each other on its COW device, however far apart they are here. None
    /// should overlap another: which of them is the last is open.
    ///
    /// # Errors
    ///
    /// An error of any of them; which were made is then unknown.
    async fn write_many(&self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
        let writes = writes.into_iter().map(|(at, data)| self.write(at, data));
        join_all(writes).await.into_iter().collect()
    }

    /// Makes the range read as zeroes.
    ///
    /// # Errors
    ///
    /// As [`write`](Device::write).
    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()>;

    /// Gives the range back. What it reads as afterwards is undefined.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where the device cannot; any error of the device.
    async fn discard(&self, at: u64, len: u64) -> io::Result<()>;

    /// Makes every write that has completed survive a power cut.
    ///
    /// # Errors
    ///
    /// Any error of the device. What is on the medium is then unknown, and a second flush that
    /// succeeds says nothing about the writes before the first.
    async fn flush(&self) -> io::Result<()>;

    /// Makes sure that it may be written, before anything is: a device that is shared with others until then
    /// takes it for itself. A write does so too, but what belongs to it may have been done by then.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] as long as others have it; [`io::ErrorKind::ReadOnlyFilesystem`] if
    /// it [is read-only](Self::is_read_only); any error of the device.
    async fn claim(&self) -> io::Result<()> {
        Ok(())
    }

    /// True if it is open for reading alone: every write is refused.
    fn is_read_only(&self) -> bool {
        false
    }

    /// What somebody else has done to it since it was opened, as far as that can be found out. `None` of a device
    /// that is written here.
    ///
    /// # Errors
    ///
    /// If it cannot be asked.
    async fn change(&self) -> io::Result<Option<Change>> {
        Ok(None)
    }

    /// The next stretch at or after `at` that may hold something else than zeroes; `None` if only
    /// holes follow. A device that does not know of holes says "everything".
    ///
    /// # Errors
    ///
    /// Any error of the device.
    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let end = self.len_bytes()?;
        Ok((at < end).then_some(at..end))
    }

    /// The size now. Asked anew each time, so that a device that has grown is noticed.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Makes the device at least `len_bytes` long.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where the device cannot grow by itself; any error of the
    /// device.
    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        match self.len_bytes()? >= len_bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What the device writes untorn, in bytes: a power of two, at least 512.
    fn block_bytes(&self) -> u32;

    /// The size of the blocks that the device is addressed by, in bytes: a power of two. Requests that are
    /// not made of whole ones are served too, but kernels map nothing else.
    fn logical_block_bytes(&self) -> u32 {
        512
    }

    /// The open file that the device is, if the kernel may copy from it or to it by itself (see
    /// [`share`](fn@super::share)).
    fn kernel_file(&self) -> Option<Arc<std::fs::File>> {
        None
    }
}
