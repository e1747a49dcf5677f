use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};

use super::cached::CachedIo;
use super::descent::Descent;
use super::direct::Direct;
use super::error::OpenError;
use super::identity::Identity;
use super::limits::untorn_bytes;
use super::locks::{self, Locked};
use super::mode::{Caching, Mode};
use super::new_file::{Access, new_file};
use super::open::{self, Opened, is_one};
use super::pages::Pages;
use super::semaphore::Semaphore;
use super::threads::{Calls, blocking, need_runtime, sleeps};
use super::workers::allow_many;
use crate::device::interface::Device;

/// Requests of one file that the ring has at a time. Each may take a thread of the kernel until it ends, and
/// on a device that hangs it does not.
const MAX_REQUESTS: usize = 128;

/// A regular file or a block device, over io_uring; where that is forbidden, or would have this thread sleep
/// (FUSE), over a thread pool.
///
/// Must be opened, used and closed inside one compio runtime.
#[derive(Debug)]
pub struct File {
    /// Holds the locks; for calls that io_uring does not have.
    pub(super) std: Arc<fs::File>,
    pub(super) buffered: compio::fs::File,
    pub(super) direct: Option<(compio::fs::File, Direct)>,
    pub(super) cached: CachedIo,
    pub(super) calls: Calls,
    pub(super) requests: Semaphore<MAX_REQUESTS>,
    pub(super) pages: Pages,
    pub(super) is_disk: bool,
    /// Every request is made on another thread.
    pub(super) sleeps: bool,
    pub(super) block_bytes: u32,
    /// The page cache has been told to drop what it held when the file was opened.
    pub(super) forgotten: Cell<bool>,
    is_locked: bool,
    /// Holds the locks on the file that a loop device is attached to.
    _below: Option<fs::File>,
}

impl File {
    /// Opens what is there, and takes the locks of `mode`.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; what somebody else has is waited for for a second, and no longer. Without a runtime on this
    /// thread [`OpenError::NoRuntime`].
    pub async fn open(path: &Path, mode: Mode, caching: Caching) -> Result<Self, OpenError> {
        need_runtime()?;
        let opened = open::open(path, mode).await?;
        Self::with_locks(path, opened, mode, caching).await
    }

    /// Makes a new file of `len_bytes`, all hole, and locks it. Its name is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if there is one: nothing is ever overwritten.
    pub async fn create_new(
        path: &Path,
        len_bytes: u64,
        caching: Caching,
        access: Access,
    ) -> Result<Self, OpenError> {
        Self::make(path, len_bytes, caching, access, |_| {}).await
    }

    /// The same, for a file that is to be written in place, so that what has its blocks keeps them: on a
    /// file system that else writes everything to a new place (btrfs), and may find no room for it.
    ///
    /// # Errors
    ///
    /// As [`create_new`](Self::create_new).
    pub async fn create_in_place(
        path: &Path,
        len_bytes: u64,
        caching: Caching,
        access: Access,
    ) -> Result<Self, OpenError> {
        let in_place = |file: &fs::File| {
            // Only of an empty file, and only there: elsewhere it is refused, and nothing is lost by that.
            if let Ok(flags) = ioctl_getflags(file) {
                let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
            }
        };
        Self::make(path, len_bytes, caching, access, in_place).await
    }

    async fn make(
        path: &Path,
        len_bytes: u64,
        caching: Caching,
        access: Access,
        prepare: impl FnOnce(&fs::File) + Send + 'static,
    ) -> Result<Self, OpenError> {
        need_runtime()?;
        let owned = path.to_owned();
        let made = blocking(move || {
            let file = new_file(&owned, access)?;
            prepare(&file);
            match set_len(&file, len_bytes).and_then(|()| file.sync_all()) {
                Ok(()) => Ok(file),
                Err(error) => {
                    let _ = fs::remove_file(&owned);
                    Err(error)
                }
            }
        });
        let file = made.await?;
        let descent = Descent::of(&file.metadata()?, Some(&file));
        let opened = Opened { file, is_disk: false, descent };
        Self::with_locks(path, opened, Mode::Write, caching).await
    }

    async fn with_locks(
        path: &Path,
        opened: Opened,
        mode: Mode,
        caching: Caching,
    ) -> Result<Self, OpenError> {
        allow_many();
        let Opened { file: std, is_disk, descent } = opened;
        let locked = locks::take(&std, mode).await?;
        let below = locks::take_below(&descent, mode).await?;
        let write = mode == Mode::Write;
        // The cache of a disk that others use is not the disk: the kernel's own devices write past it.
        let caching = if is_disk && mode == Mode::Look { Caching::Direct } else { caching };
        let sleeps = !is_disk && sleeps(&std);
        let direct = match (caching, Direct::of(&std, is_disk)) {
            (Caching::Direct, Some(direct)) if !sleeps => {
                // A file system may still refuse; then the page cache has to do.
                reopen(path, &std, write, OFlags::DIRECT).await.ok().map(|file| (file, direct))
            }
            _ => None,
        };
        let std = Arc::new(std);
        let file = Self {
            buffered: reopen(path, &std, write, OFlags::empty()).await?,
            direct,
            cached: CachedIo::default(),
            calls: Calls::of(std.clone()),
            requests: Semaphore::default(),
            pages: Pages::default(),
            is_disk,
            sleeps,
            block_bytes: untorn_bytes(&std, is_disk),
            std,
            forgotten: Cell::default(),
            is_locked: locked == Locked::Yes,
            _below: below,
        };
        // What goes around the cache need not be forgotten; others may be glad of it.
        if !file.is_direct() && (write || is_disk) {
            file.forget_cached().await?;
        }
        Ok(file)
    }

    /// Which file or disk it is.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn identity(&self) -> io::Result<Identity> {
        Identity::of_open(&self.std)
    }

    /// What the system tells of it.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn metadata(&self) -> io::Result<fs::Metadata> {
        self.std.metadata()
    }

    /// False if the file system has no locks, or not all kinds: then others may have it open without anybody
    /// knowing.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// True if large aligned requests go around the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Sets the size of a regular file.
    ///
    /// # Errors
    ///
    /// Any error of the file system; [`io::ErrorKind::InvalidInput`] for a disk.
    pub async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.calls.call(move |file| set_len(file, len_bytes)).await
    }
}

/// The same file once more, under other flags. By its number, so that it is surely the same; where no
/// `/proc` is mounted by its name, if that still leads to it.
pub(super) async fn reopen(
    path: &Path,
    file: &fs::File,
    write: bool,
    flags: OFlags,
) -> io::Result<compio::fs::File> {
    let flags = (flags | OFlags::NOCTTY).bits().cast_signed();
    let mut options = compio::fs::OpenOptions::new();
    options.read(true).write(write).custom_flags(flags);
    let by_number = options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).await;
    if by_number.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let replaced = || io::Error::other("it was replaced while it was opened");
        if !is_one(&fs::metadata(path)?, &file.metadata()?) {
            return Err(replaced());
        }
        let again = options.open(path).await?;
        let found = rustix::fs::fstat(&again)?;
        let expected = rustix::fs::fstat(file)?;
        return match (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) {
            true => Ok(again),
            false => Err(replaced()),
        };
    }
    by_number
}

/// Positions in files are signed: a larger size is one that no file can have.
fn set_len(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    match i64::try_from(len_bytes) {
        Ok(_) => file.set_len(len_bytes),
        Err(_) => Err(rustix::io::Errno::FBIG.into()),
    }
}
