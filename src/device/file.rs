use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use dmsnap_format::SECTOR_BYTES;
use rustix::fs::{
    Advice, AtFlags, FallocateFlags, IFlags, OFlags, SeekFrom, StatxFlags, fadvise, ioctl_getflags,
    ioctl_setflags, statx,
};

use super::at_once::AtOnce;
use super::identity::Descent;
use super::ioctl::flush_disk_cache;
use super::limits::{Direct, untorn_bytes};
use super::locks::{self, Locked};
use super::open::{self, Opened, is_one};
use super::pages::{Pages, Turn, Way};
use super::threads::{Calls, blocking, sleeps};
use super::turns::Turns;
use super::workers::allow_many;
use super::{Access, Allocation, Buffer, Caching, Device, Identity, Mode, OpenError, new_file};

/// Requests of one file that the ring has at a time. Each may take a thread of the kernel until it ends, and
/// on a device that hangs it does not.
const MOST_REQUESTS: usize = 128;

/// A regular file or a block device, over io_uring; where that is forbidden, or would have this thread sleep
/// (FUSE), over a thread pool.
///
/// Must be used inside a compio runtime.
#[derive(Debug)]
pub struct File {
    /// Holds the locks; for calls that io_uring does not have.
    std: Arc<fs::File>,
    buffered: compio::fs::File,
    direct: Option<(compio::fs::File, Direct)>,
    at_once: AtOnce,
    calls: Calls,
    requests: Turns<MOST_REQUESTS>,
    pages: Pages,
    is_disk: bool,
    /// Every request is made on another thread.
    sleeps: bool,
    block_bytes: u32,
    /// The page cache has been told to drop what it held when the file was opened.
    forgotten: Cell<bool>,
    is_locked: bool,
    /// Holds the locks on the file that a loop device is attached to.
    _below: Option<fs::File>,
}

impl File {
    /// Opens what is there, and takes the locks of `mode`.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; what somebody else has is waited for for a second, and no longer.
    pub async fn open(path: &Path, mode: Mode, caching: Caching) -> Result<Self, OpenError> {
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
            at_once: AtOnce::default(),
            calls: Calls::of(std.clone()),
            requests: Turns::default(),
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

    /// The descriptor for a request: direct if position, length and memory allow it.
    fn route(
        &self,
        position: u64,
        lens: impl IntoIterator<Item = (u64, u64)>,
    ) -> &compio::fs::File {
        match &self.direct {
            Some((file, direct)) if direct.allows(position, lens) => file,
            _ => &self.buffered,
        }
    }

    /// For a write by this descriptor, once no other way of writing touches its pages; `None` where there is
    /// one way alone.
    async fn turn(&self, file: &compio::fs::File, at: u64, len: u64) -> Option<Turn<'_>> {
        if !self.is_direct() {
            return None;
        }
        let way = if std::ptr::eq(file, &self.buffered) { Way::Cached } else { Way::Direct };
        Some(self.pages.enter(at, len, way).await)
    }

    /// How many bytes a request moved; `None` if it has to be made again, through the page cache.
    fn moved(
        &self,
        through: &compio::fs::File,
        result: io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let is_direct = !std::ptr::eq(through, &self.buffered);
        match result.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::Interrupted) => Ok(None),
            // A file system may demand more than it says.
            Err(io::ErrorKind::InvalidInput) if is_direct => Ok(None),
            _ => result.map(Some),
        }
    }

    /// True if the page cache is to be asked although it is gone around. Never that of a disk: others
    /// write to disks behind its back, a volume manager to a partition, say.
    fn is_cached(&self, at: u64, len: usize) -> bool {
        self.is_direct() && !self.is_disk && self.at_once.is_cached(&self.std, at, len)
    }

    /// True if a read goes around the page cache, by itself or widened to what the disk reads.
    fn is_around(&self, at: u64, len: usize) -> bool {
        let allows = |direct: &Direct| direct.allows(at, [(0, len as u64)]);
        self.direct.as_ref().is_some_and(|(_, direct)| self.is_disk || allows(direct))
    }

    /// Reads around the page cache where that is possible. From a disk more is read than was asked for
    /// rather than what its cache holds.
    async fn read_around(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let direct = self
            .direct
            .as_ref()
            .filter(|(_, direct)| self.is_disk && !direct.allows(at, [(0, len as u64)]));
        let Some((_, direct)) = direct else { return self.read_by(None, at, len).await };
        let begin = at - at % direct.position;
        let end = at.saturating_add(len as u64).next_multiple_of(direct.position);
        let whole = self.read_by(None, begin, usize::try_from(end - begin).unwrap_or(0)).await?;
        let skipped = usize::try_from(at - begin).unwrap_or(0);
        Ok(Buffer::copy_of(&whole[skipped..skipped + len]))
    }

    async fn read_by(
        &self,
        file: Option<&compio::fs::File>,
        at: u64,
        len: usize,
    ) -> io::Result<Buffer> {
        let (mut memory, range) = Buffer::recycled(len).into_memory();
        if self.sleeps {
            let (memory, filled) = self.calls.read(at, memory, range.clone()).await?;
            return match filled == len || self.reaches(at + len as u64)? {
                true => Ok(Buffer::from_memory(memory, &range)),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let address = range.start as u64 + memory.as_ptr().addr() as u64;
        let mut file = file.unwrap_or_else(|| self.route(at, [(address, len as u64)]));
        let mut filled = match self.is_direct() {
            true => 0,
            false => self.at_once.read(&self.std, at, &mut memory[range.clone()]),
        };
        while filled < len {
            let slice = memory.slice(range.start + filled..range.end);
            let request = self.requests.take().await;
            let BufResult(read, slice) = file.read_at(slice, at + filled as u64).await;
            drop(request);
            memory = slice.into_inner();
            match self.moved(file, read)? {
                Some(0) if self.reaches(at + len as u64)? => {
                    memory[range.start + filled..range.end].fill(0);
                    break;
                }
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read.unwrap_or(0),
            }
            // A direct read that came back short continues unaligned: at the end of a file.
            file = &self.buffered;
        }
        Ok(Buffer::from_memory(memory, &range))
    }

    /// Does the file reach as far, its last sector counted as whole?
    fn reaches(&self, end: u64) -> io::Result<bool> {
        Ok(end <= self.len_bytes()?.next_multiple_of(SECTOR_BYTES))
    }

    async fn write_zero_bytes(&self, mut at: u64, mut len: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeroes = Buffer::zeroed(usize::try_from(len.min(PIECE)).unwrap_or(0)).freeze();
        while len > 0 {
            let piece = len.min(PIECE);
            self.write(at, Bytes::slice(&zeroes, ..usize::try_from(piece).unwrap_or(0))).await?;
            (at, len) = (at + piece, len - piece);
        }
        Ok(())
    }
}

impl Device for File {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        match self.is_cached(at, len) {
            true => self.read_by(Some(&self.buffered), at, len).await,
            false => self.read_around(at, len).await,
        }
    }

    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        if !self.is_around(at, len) && !self.forgotten.get() {
            self.forget_cached().await?;
        }
        self.read_around(at, len).await
    }

    /// Asks the system to drop the file's pages. Those that wait to be written stay, and so does what
    /// another program has mapped.
    async fn forget_cached(&self) -> io::Result<()> {
        let is_disk = self.is_disk;
        let forget = move |file: &fs::File| {
            // Without the privilege for the first the second does nearly the same; a file system that
            // does not know of it keeps no such cache.
            if !is_disk || flush_disk_cache(file).is_err() {
                let _ = fadvise(file, 0, None, Advice::DontNeed);
            }
            Ok(())
        };
        self.calls.call(forget).await?;
        self.forgotten.set(true);
        Ok(())
    }

    async fn write(&self, mut at: u64, mut data: Bytes) -> io::Result<()> {
        if self.sleeps {
            return self.calls.write(at, vec![data]).await;
        }
        let mut file = self.route(at, [(data.as_ptr().addr() as u64, data.len() as u64)]);
        while !data.is_empty() {
            let _turn = self.turn(file, at, data.len() as u64).await;
            let request = self.requests.take().await;
            let BufResult(written, mut rest) = file.write_at(data, at).await;
            drop(request);
            let written = match self.moved(file, written)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                written => written.unwrap_or(0),
            };
            bytes::Buf::advance(&mut rest, written);
            data = rest;
            at += written as u64;
            file = &self.buffered;
        }
        Ok(())
    }

    async fn write_vectored(&self, at: u64, mut pieces: Vec<Bytes>) -> io::Result<()> {
        /// IOV_MAX of Linux.
        const MOST: usize = 1024;
        if self.sleeps {
            return self.calls.write(at, pieces).await;
        }
        let mut at = at;
        while !pieces.is_empty() {
            let rest = pieces.split_off(pieces.len().min(MOST));
            let lens = pieces.iter().map(|p| (p.as_ptr().addr() as u64, p.len() as u64));
            let mut file = self.route(at, lens);
            let len = pieces.iter().map(|piece| piece.len() as u64).sum();
            let turn = self.turn(file, at, len).await;
            let request = self.requests.take().await;
            let BufResult(written, batch) = file.write_vectored_at(pieces, at).await;
            drop((turn, request));
            let mut written = self.moved(file, written)?.unwrap_or(0);
            pieces = batch;
            // What a short write left over goes out piece by piece.
            for mut piece in pieces {
                let end = at + piece.len() as u64;
                let done = written.min(piece.len());
                bytes::Buf::advance(&mut piece, done);
                self.write(at + done as u64, piece).await?;
                (at, written) = (end, written - done);
            }
            pieces = rest;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = match allocation {
            Allocation::MayPunch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocation::Keep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        if at.checked_add(len).is_none_or(|end| self.reaches(end).is_ok_and(|reaches| !reaches)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.calls.fallocate(flags, at, len).await {
            // Not this file system, not this disk, or not at this alignment.
            Err(error) if not_supported(&error) => self.write_zero_bytes(at, len).await,
            other => other,
        }
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.calls.fallocate(flags, at, len).await {
            Err(error) if not_supported(&error) => Err(io::ErrorKind::Unsupported.into()),
            other => other,
        }
    }

    async fn flush(&self) -> io::Result<()> {
        if self.sleeps {
            return self.calls.flush().await;
        }
        self.buffered.sync_data().await
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len_bytes()?;
        if at >= len {
            return Ok(None);
        }
        if self.is_disk {
            return Ok(Some(at..len));
        }
        let found = self.calls.call(move |file| {
            let start = rustix::fs::seek(file, SeekFrom::Data(at))?;
            Ok(start..rustix::fs::seek(file, SeekFrom::Hole(start))?)
        });
        match found.await {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Ok(None)
            }
            Err(error) if not_supported(&error) => Ok(Some(at..len)),
            Err(error) => Err(error),
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        match self.is_disk {
            true => Ok(rustix::fs::seek(&self.std, SeekFrom::End(0))?),
            // What the system knows: to ask a file server, or FUSE, may take for ever, and this thread
            // has more to do.
            false => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
                match statx(&self.std, "", flags, StatxFlags::SIZE) {
                    Ok(found) => Ok(found.stx_size),
                    // Forbidden where `seccomp` is older than the call.
                    Err(_) => self.std.metadata().map(|metadata| metadata.len()),
                }
            }
        }
    }

    /// Makes a regular file longer, with a hole up to its new last block. It never becomes shorter,
    /// whatever else makes it longer at the same time.
    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if self.is_disk {
            return match self.len_bytes()? >= len_bytes {
                true => Ok(()),
                false => Err(io::ErrorKind::Unsupported.into()),
            };
        }
        // Somebody else may have made it longer, on another machine.
        if self.calls.call(|file| Ok(file.metadata()?.len())).await? >= len_bytes {
            return Ok(());
        }
        self.calls.fallocate(FallocateFlags::empty(), len_bytes - 1, 1).await
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn logical_block_bytes(&self) -> u32 {
        let asked = self.is_disk.then(|| rustix::fs::ioctl_blksszget(&self.std).ok()).flatten();
        asked.unwrap_or(512)
    }

    fn kernel_file(&self) -> Option<Arc<fs::File>> {
        (!self.is_disk).then(|| self.std.clone())
    }
}

/// The same file once more, under other flags. By its number, so that it is surely the same; where no
/// `/proc` is mounted by its name, if that still leads to it.
async fn reopen(
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

fn not_supported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses direct requests that the file was said to allow; all are served.
    #[test]
    fn a_direct_request_that_is_refused_goes_through_the_page_cache() {
        let name = format!("dmsnap-refused-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, [1; 10_000]).expect("write");
        let runtime = compio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(async {
            let mut file = File::open(&path, Mode::Write, Caching::Direct).await.expect("open");
            let any = Direct { memory: 1, position: 1 };
            let Ok(direct) = reopen(&path, &file.std, true, OFlags::DIRECT).await else {
                eprintln!("SKIPPED: this file system has no direct I/O");
                return;
            };
            file.direct = Some((direct, any));
            let refused = file.route(1, [(1, 7)]).write_at(Bytes::from_static(&[2; 7]), 1).await;
            let kind = refused.0.err().map(|error| error.kind());
            if kind != Some(io::ErrorKind::InvalidInput) {
                eprintln!("SKIPPED: this file system takes unaligned direct requests: {kind:?}");
            }
            file.write(1, Bytes::from_static(&[2; 7])).await.expect("write");
            let pieces = vec![Bytes::from_static(&[3; 5]), Bytes::from_static(&[4; 600])];
            file.write_vectored(101, pieces).await.expect("vectored write");
            assert_eq!(file.read(0, 10).await.expect("read")[..], [1, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
            assert_eq!(file.read(100, 7).await.expect("read")[..], [1, 3, 3, 3, 3, 3, 4]);
            assert_eq!(file.read(704, 4).await.expect("read")[..], [4, 4, 1, 1]);
            let beyond = file.read(10_239, 2).await.expect_err("past the end");
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        });
        fs::remove_file(&path).expect("clean up");
    }
}
