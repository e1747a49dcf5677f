use std::cell::{Cell, OnceCell, RefCell};
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::cached::CachedIo;
use super::descent::Descent;
use super::error::OpenError;
use super::handles::Handles;
use super::identity::Identity;
use super::limits::untorn_bytes;
use super::locks::{self, Locked};
use super::mode::{Caching, Mode};
use super::new_file::{Access, new_file};
use super::open::{self, Opened};
use super::pages::Pages;
use super::rights::Rights;
use super::semaphore::Semaphore;
use super::threads::{blocking, need_runtime, sleeps};
use super::trace::Trace;
use super::workers::allow_many;

/// Requests of one file that the ring has at a time. Each may take a thread of the kernel until it ends, and
/// on a device that hangs it does not.
const MAX_REQUESTS: usize = 128;

/// A regular file or a block device, over io_uring; where that is forbidden, or would have this thread sleep
/// (FUSE), over a thread pool.
///
/// Must be opened, used and closed inside one compio runtime.
#[derive(Debug)]
pub struct File {
    /// The first one holds the locks.
    pub(super) handles: Handles,
    /// Those that write, if they are others: see [`Mode::Share`].
    pub(super) writing: OnceCell<Handles>,
    /// What it may be used for.
    pub(super) rights: Rights,
    pub(super) cached: CachedIo,
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
    pub(super) below: RefCell<Option<fs::File>>,
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
        let opened = Opened { file, is_disk: false, descent, not_writable: None };
        Self::with_locks(path, opened, Mode::Write, caching).await
    }

    async fn with_locks(
        path: &Path,
        opened: Opened,
        mode: Mode,
        caching: Caching,
    ) -> Result<Self, OpenError> {
        allow_many();
        let Opened { file: std, is_disk, descent, not_writable } = opened;
        let locked = locks::take(&std, mode).await?;
        let below = locks::take_below(&descent, mode).await?;
        let write = mode == Mode::Write;
        // The cache of a disk that others use is not the disk: the kernel's own devices write past it.
        let caching = if is_disk && mode == Mode::Look { Caching::Direct } else { caching };
        let (sleeps, block_bytes) = (!is_disk && sleeps(&std), untorn_bytes(&std, is_disk));
        let trace = match is_disk {
            true => None,
            false => Some(Trace::of(&std.metadata()?)),
        };
        let file = Self {
            handles: Handles::of(path, std, (is_disk, write), caching).await?,
            writing: OnceCell::new(),
            rights: Rights::new(path, (mode, caching), trace, not_writable),
            cached: CachedIo::default(),
            requests: Semaphore::default(),
            pages: Pages::default(),
            is_disk,
            sleeps,
            block_bytes,
            forgotten: Cell::default(),
            is_locked: locked == Locked::Yes,
            below: below.into(),
        };
        // What goes around the cache need not be forgotten; others may be glad of it.
        if !file.is_direct() && (write || is_disk && mode != Mode::Share) {
            file.drop_cached().await?;
        }
        Ok(file)
    }

    /// Which file or disk it is.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn identity(&self) -> io::Result<Identity> {
        Identity::of_open(&self.handles.std)
    }

    /// What the system tells of it.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn metadata(&self) -> io::Result<fs::Metadata> {
        self.handles.std.metadata()
    }

    /// False if the file system has no locks, or not all kinds: then others may have it open without anybody
    /// knowing.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// True if large aligned requests go around the page cache.
    pub fn is_direct(&self) -> bool {
        self.handles.direct.is_some()
    }

    /// Sets the size of a regular file.
    ///
    /// # Errors
    ///
    /// Any error of the file system; [`io::ErrorKind::InvalidInput`] for a disk.
    pub async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.for_writing().await?.calls.call(move |file| set_len(file, len_bytes)).await
    }
}

/// Positions in files are signed: a larger size is one that no file can have.
fn set_len(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    match i64::try_from(len_bytes) {
        Ok(_) => file.set_len(len_bytes),
        Err(_) => Err(rustix::io::Errno::FBIG.into()),
    }
}
