use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::direct::Direct;
use super::mode::Caching;
use super::open::is_one;
use super::threads::{Calls, sleeps};

/// One file, open once for each way to it: all for reading, or all for writing as well.
#[derive(Debug)]
pub(super) struct Handles {
    /// For calls that io_uring does not have.
    pub(super) std: Arc<fs::File>,
    pub(super) buffered: compio::fs::File,
    pub(super) direct: Option<(compio::fs::File, Direct)>,
    pub(super) calls: Calls,
}

impl Handles {
    /// Opens what `std` is once more for each way.
    pub(super) async fn of(
        path: &Path,
        std: fs::File,
        (is_disk, write): (bool, bool),
        caching: Caching,
    ) -> io::Result<Self> {
        let direct = match (caching, Direct::of(&std, is_disk)) {
            (Caching::Direct, Some(direct)) if is_disk || !sleeps(&std) => {
                // A file system may still refuse; then the page cache has to do.
                reopen(path, &std, write, OFlags::DIRECT).await.ok().map(|file| (file, direct))
            }
            _ => None,
        };
        let buffered = reopen(path, &std, write, OFlags::empty()).await?;
        let std = Arc::new(std);
        Ok(Self { buffered, direct, calls: Calls::of(std.clone()), std })
    }

    /// The descriptor for a request: direct if position, length and memory allow it.
    pub(super) fn route(
        &self,
        position: u64,
        lens: impl IntoIterator<Item = (u64, u64)>,
    ) -> &compio::fs::File {
        match &self.direct {
            Some((file, direct)) if direct.allows(position, lens) => file,
            _ => &self.buffered,
        }
    }

    /// How many bytes a request moved; `None` if it has to be made again, through the page cache.
    pub(super) fn moved(
        &self,
        through: &compio::fs::File,
        result: io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        match result.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::Interrupted) => Ok(None),
            // A file system may demand more than it says.
            Err(io::ErrorKind::InvalidInput) if !self.is_cached_way(through) => Ok(None),
            _ => result.map(Some),
        }
    }

    /// Whether this descriptor goes through the page cache.
    pub(super) fn is_cached_way(&self, file: &compio::fs::File) -> bool {
        std::ptr::eq(file, &self.buffered)
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
