use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom};

use super::at_once::AtOnce;
use super::limits::{Direct, untorn_bytes};
use super::open::{is_read_only, refusal, take};
use super::{Allocation, Buffer, Caching, Device, Identity, Mode, OpenError};

/// A regular file or a block device, over io_uring (or, where that is forbidden, a thread pool).
///
/// Must be used inside a compio runtime.
#[derive(Debug)]
pub struct File {
    /// Holds the locks; for calls that io_uring does not have.
    std: Arc<fs::File>,
    buffered: compio::fs::File,
    direct: Option<(compio::fs::File, Direct)>,
    at_once: AtOnce,
    is_disk: bool,
    block_bytes: u32,
}

impl File {
    /// Opens what is there, and takes the lock of `mode`.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a lock is never waited for, except for a second on a disk.
    pub async fn open(path: &Path, mode: Mode, caching: Caching) -> Result<Self, OpenError> {
        let metadata = fs::metadata(path)?;
        let is_disk = metadata.file_type().is_block_device();
        if !is_disk && !metadata.is_file() {
            return Err(OpenError::NotStorage);
        }
        if mode == Mode::Write && !is_disk && metadata.mode() & 0o222 == 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(OpenError::ReadOnly(format!("its mode is {mode:04o}")));
        }
        if mode == Mode::Write && is_disk && is_read_only(metadata.rdev()) {
            return Err(OpenError::ReadOnly("the disk is set so".into()));
        }
        let exclusive = if is_disk && mode == Mode::Write { OFlags::EXCL } else { OFlags::empty() };
        let std = OpenOptions::new()
            .read(true)
            .write(mode == Mode::Write)
            .custom_flags(exclusive.bits().cast_signed())
            .open(path)
            .map_err(|error| refusal(error, mode))?;
        Self::with_locks(std, mode, caching, is_disk).await
    }

    /// Makes a new file of `len_bytes`, all hole, and locks it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if there is one: nothing is ever overwritten.
    pub async fn create_new(
        path: &Path,
        len_bytes: u64,
        caching: Caching,
    ) -> Result<Self, OpenError> {
        let std = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        if let Err(error) = std.set_len(len_bytes) {
            let _ = fs::remove_file(path);
            return Err(error.into());
        }
        Self::with_locks(std, Mode::Write, caching, false).await
    }

    async fn with_locks(
        std: fs::File,
        mode: Mode,
        caching: Caching,
        is_disk: bool,
    ) -> Result<Self, OpenError> {
        let lock = match mode {
            Mode::Look => None,
            Mode::Read => Some(FlockOperation::NonBlockingLockShared),
            Mode::Write => Some(FlockOperation::NonBlockingLockExclusive),
        };
        if let Some(lock) = lock {
            take(lock, &std).await?;
        }
        let write = mode == Mode::Write;
        let direct = match (caching, Direct::of(&std, is_disk)) {
            (Caching::Direct, Some(direct)) => {
                // A file system may still refuse; then the page cache has to do.
                reopen(&std, write, OFlags::DIRECT).await.ok().map(|file| (file, direct))
            }
            _ => None,
        };
        Ok(Self {
            buffered: reopen(&std, write, OFlags::empty()).await?,
            direct,
            at_once: AtOnce::default(),
            is_disk,
            block_bytes: untorn_bytes(&std, is_disk),
            std: Arc::new(std),
        })
    }

    /// Which file or disk it is.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn identity(&self) -> io::Result<Identity> {
        self.std.metadata().map(|metadata| Identity::from_metadata(&metadata))
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
        let std = self.std.clone();
        blocking(move || std.set_len(len_bytes)).await
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

    async fn fallocate(&self, flags: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        let std = self.std.clone();
        let call = move || rustix::fs::fallocate(&std, flags, at, len);
        // A signal may be delivered to the thread that makes the call.
        blocking(move || Ok(rustix::io::retry_on_intr(call)?)).await
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

    /// How many bytes the page cache has taken: none if it is to be gone around.
    fn write_at_once(&self, at: u64, slices: &[IoSlice<'_>]) -> usize {
        match self.is_direct() {
            true => 0,
            false => self.at_once.write(&self.std, at, slices),
        }
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
        let (mut memory, range) = Buffer::recycled(len).into_memory();
        let address = range.start as u64 + memory.as_ptr().addr() as u64;
        let mut file = match self.is_cached(at, len) {
            true => &self.buffered,
            false => self.route(at, [(address, len as u64)]),
        };
        let mut filled = match self.is_direct() {
            true => 0,
            false => self.at_once.read(&self.std, at, &mut memory[range.clone()]),
        };
        while filled < len {
            let slice = memory.slice(range.start + filled..range.end);
            let BufResult(read, slice) = file.read_at(slice, at + filled as u64).await;
            memory = slice.into_inner();
            match self.moved(file, read)? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read.unwrap_or(0),
            }
            // A direct read that came back short continues unaligned: at the end of a file.
            file = &self.buffered;
        }
        Ok(Buffer::from_memory(memory, &range))
    }

    async fn write(&self, mut at: u64, mut data: Bytes) -> io::Result<()> {
        let written = self.write_at_once(at, &[IoSlice::new(&data)]);
        bytes::Buf::advance(&mut data, written);
        at += written as u64;
        let mut file = self.route(at, [(data.as_ptr().addr() as u64, data.len() as u64)]);
        while !data.is_empty() {
            let BufResult(written, mut rest) = file.write_at(data, at).await;
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
        let mut at = at;
        while !pieces.is_empty() {
            let rest = pieces.split_off(pieces.len().min(MOST));
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut written = self.write_at_once(at, &slices);
            if written == 0 {
                let lens = pieces.iter().map(|p| (p.as_ptr().addr() as u64, p.len() as u64));
                let mut file = self.route(at, lens);
                let BufResult(by_ring, batch) = file.write_vectored_at(pieces, at).await;
                (written, pieces) = (self.moved(file, by_ring)?.unwrap_or(0), batch);
            }
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
        if at.checked_add(len).is_none_or(|end| self.len_bytes().is_ok_and(|size| end > size)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.fallocate(flags, at, len).await {
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
        match self.fallocate(flags, at, len).await {
            Err(error) if not_supported(&error) => Err(io::ErrorKind::Unsupported.into()),
            other => other,
        }
    }

    async fn flush(&self) -> io::Result<()> {
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
        let std = self.std.clone();
        let found = blocking(move || {
            let start = rustix::fs::seek(&std, SeekFrom::Data(at))?;
            Ok(start..rustix::fs::seek(&std, SeekFrom::Hole(start))?)
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
            false => self.std.metadata().map(|metadata| metadata.len()),
        }
    }

    /// Makes a regular file longer, with a hole up to its new last block. It never becomes shorter,
    /// whatever else makes it longer at the same time.
    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if self.len_bytes()? >= len_bytes {
            return Ok(());
        }
        match self.is_disk {
            true => Err(io::ErrorKind::Unsupported.into()),
            false => self.fallocate(FallocateFlags::empty(), len_bytes - 1, 1).await,
        }
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn kernel_file(&self) -> Option<Arc<fs::File>> {
        (!self.is_disk).then(|| self.std.clone())
    }
}

/// Runs a call that may sleep off this thread.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match compio::runtime::spawn_blocking(call).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the thread that made the call died")),
    }
}

/// The same file once more, under other flags. By its number, so that it is surely the same.
async fn reopen(file: &fs::File, write: bool, flags: OFlags) -> io::Result<compio::fs::File> {
    compio::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .await
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
            let Ok(direct) = reopen(&file.std, true, OFlags::DIRECT).await else {
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
            let beyond = file.read(9_999, 2).await.expect_err("past the end");
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        });
        fs::remove_file(&path).expect("clean up");
    }
}
