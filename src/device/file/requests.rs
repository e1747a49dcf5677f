use std::fs;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use dmsnap_format::SECTOR_BYTES;
use rustix::fs::{Advice, AtFlags, FallocateFlags, SeekFrom, StatxFlags, fadvise, statx};

use super::direct::Direct;
use super::handle::File;
use super::handles::Handles;
use super::mode::Mode;
use super::pages::{PageWrite, Way};
use crate::device::buffer::Buffer;
use crate::device::interface::{Allocation, Change, Device};
use crate::device::ioctl::flush_disk_cache;

impl File {
    /// For a write by this descriptor, once no other way of writing touches its pages; `None` where there is
    /// one way alone.
    async fn enter_pages(
        &self,
        (handles, file): (&Handles, &compio::fs::File),
        at: u64,
        len: u64,
    ) -> Option<PageWrite<'_>> {
        handles.direct.as_ref()?;
        let way = if handles.is_cached_way(file) { Way::Cached } else { Way::Direct };
        Some(self.pages.enter(at, len, way).await)
    }

    /// True if the page cache is worth asking although the file bypasses it. Never that of a disk: others
    /// write to disks without it, a volume manager to a partition, say.
    fn is_cached(&self, at: u64, len: usize) -> bool {
        self.is_direct() && !self.is_disk && self.cached.is_cached(&self.handles.std, at, len)
    }

    /// True if a read bypasses the page cache, by itself or widened to what the disk reads.
    fn is_around(&self, at: u64, len: usize) -> bool {
        let allows = |direct: &Direct| direct.allows(at, [(0, len as u64)]);
        self.handles.direct.as_ref().is_some_and(|(_, direct)| self.is_disk || allows(direct))
    }

    /// Reads past the page cache where that is possible. From a disk more is read than was asked for
    /// rather than what its cache holds.
    async fn read_around(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let direct = self
            .handles
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
            let (memory, filled) = self.handles.calls.read(at, memory, range.clone()).await?;
            return match filled == len || self.reaches(at + len as u64)? {
                true => Ok(Buffer::from_memory(memory, &range)),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let address = range.start as u64 + memory.as_ptr().addr() as u64;
        let mut file = file.unwrap_or_else(|| self.handles.route(at, [(address, len as u64)]));
        let mut filled = match self.is_direct() {
            true => 0,
            false => self.cached.read(&self.handles.std, at, &mut memory[range.clone()]),
        };
        while filled < len {
            let slice = memory.slice(range.start + filled..range.end);
            let request = self.requests.acquire().await;
            let BufResult(read, slice) = file.read_at(slice, at + filled as u64).await;
            drop(request);
            memory = slice.into_inner();
            match self.handles.moved(file, read)? {
                Some(0) if self.reaches(at + len as u64)? => {
                    memory[range.start + filled..range.end].fill(0);
                    break;
                }
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read.unwrap_or(0),
            }
            // A direct read that came back short continues unaligned: at the end of a file.
            file = &self.handles.buffered;
        }
        Ok(Buffer::from_memory(memory, &range))
    }

    /// Asks the system to drop the file's pages. Those that wait to be written stay, and so does what
    /// another program has mapped.
    pub(super) async fn drop_cached(&self) -> io::Result<()> {
        let is_disk = self.is_disk;
        let forget = move |file: &fs::File| {
            // Without the privilege for the first the second does nearly the same; a file system that
            // does not know of it keeps no such cache.
            if !is_disk || flush_disk_cache(file).is_err() {
                let _ = fadvise(file, 0, None, Advice::DontNeed);
            }
            Ok(())
        };
        self.handles.calls.call(forget).await?;
        self.forgotten.set(true);
        Ok(())
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
            true => self.read_by(Some(&self.handles.buffered), at, len).await,
            false => self.read_around(at, len).await,
        }
    }

    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        if !self.is_around(at, len) && !self.forgotten.get() {
            self.drop_cached().await?;
        }
        self.read_around(at, len).await
    }

    /// Asks the system to drop the file's pages, unless it is shared: others read it too, and what one has read the
    /// next one finds in the cache. They are dropped when it is claimed.
    async fn forget_cached(&self) -> io::Result<()> {
        match self.rights.mode == Mode::Share && !self.has_writer() {
            true => Ok(()),
            false => self.drop_cached().await,
        }
    }

    async fn write(&self, mut at: u64, mut data: Bytes) -> io::Result<()> {
        let handles = self.for_writing().await?;
        if self.sleeps {
            return handles.calls.write(at, vec![data]).await;
        }
        let mut file = handles.route(at, [(data.as_ptr().addr() as u64, data.len() as u64)]);
        while !data.is_empty() {
            let _pages = self.enter_pages((handles, file), at, data.len() as u64).await;
            let request = self.requests.acquire().await;
            let BufResult(written, mut rest) = file.write_at(data, at).await;
            drop(request);
            let written = match handles.moved(file, written)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                written => written.unwrap_or(0),
            };
            bytes::Buf::advance(&mut rest, written);
            data = rest;
            at += written as u64;
            file = &handles.buffered;
        }
        Ok(())
    }

    async fn write_vectored(&self, at: u64, mut pieces: Vec<Bytes>) -> io::Result<()> {
        /// IOV_MAX of Linux.
        const MAX_PIECES: usize = 1024;
        let handles = self.for_writing().await?;
        if self.sleeps {
            return handles.calls.write(at, pieces).await;
        }
        let mut at = at;
        while !pieces.is_empty() {
            let rest = pieces.split_off(pieces.len().min(MAX_PIECES));
            let lens = pieces.iter().map(|p| (p.as_ptr().addr() as u64, p.len() as u64));
            let mut file = handles.route(at, lens);
            let len = pieces.iter().map(|piece| piece.len() as u64).sum();
            let in_pages = self.enter_pages((handles, file), at, len).await;
            let request = self.requests.acquire().await;
            let BufResult(written, batch) = file.write_vectored_at(pieces, at).await;
            drop((in_pages, request));
            let mut written = handles.moved(file, written)?.unwrap_or(0);
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
        match self.for_writing().await?.calls.fallocate(flags, at, len).await {
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
        match self.for_writing().await?.calls.fallocate(flags, at, len).await {
            Err(error) if not_supported(&error) => Err(io::ErrorKind::Unsupported.into()),
            other => other,
        }
    }

    async fn flush(&self) -> io::Result<()> {
        let handles = self.written();
        if self.sleeps {
            return handles.calls.flush().await;
        }
        handles.buffered.sync_data().await
    }

    async fn claim(&self) -> io::Result<()> {
        self.for_writing().await.map(drop)
    }

    async fn change(&self) -> io::Result<Option<Change>> {
        let Some(trace) = self.rights.trace.filter(|_| !self.has_writer()) else { return Ok(None) };
        let path = self.rights.path.clone();
        self.handles.calls.call(move |file| trace.change(file, &path)).await
    }

    fn is_read_only(&self) -> bool {
        self.rights.is_read_only()
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len_bytes()?;
        if at >= len {
            return Ok(None);
        }
        if self.is_disk {
            return Ok(Some(at..len));
        }
        let found = self.handles.calls.call(move |file| {
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
            true => Ok(rustix::fs::seek(&self.handles.std, SeekFrom::End(0))?),
            // What the system knows: to ask a file server, or FUSE, may take for ever, and this thread
            // has more to do.
            false => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
                match statx(&self.handles.std, "", flags, StatxFlags::SIZE) {
                    Ok(found) => Ok(found.stx_size),
                    // Forbidden where `seccomp` is older than the call.
                    Err(_) => self.handles.std.metadata().map(|metadata| metadata.len()),
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
        if self.handles.calls.call(|file| Ok(file.metadata()?.len())).await? >= len_bytes {
            return Ok(());
        }
        let handles = self.for_writing().await?;
        handles.calls.fallocate(FallocateFlags::empty(), len_bytes - 1, 1).await
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn logical_block_bytes(&self) -> u32 {
        let asked =
            self.is_disk.then(|| rustix::fs::ioctl_blksszget(&self.handles.std).ok()).flatten();
        asked.unwrap_or(512)
    }

    fn kernel_file(&self) -> Option<Arc<fs::File>> {
        (!self.is_disk).then(|| self.written().std.clone())
    }
}

fn not_supported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV))
}

#[cfg(test)]
mod tests {
    use rustix::fs::OFlags;

    use super::super::direct::Direct;
    use super::super::handles::reopen;
    use super::super::mode::Caching;
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
            let Ok(direct) = reopen(&path, &file.handles.std, true, OFlags::DIRECT).await else {
                eprintln!("SKIPPED: this file system has no direct I/O");
                return;
            };
            file.handles.direct = Some((direct, any));
            let refused =
                file.handles.route(1, [(1, 7)]).write_at(Bytes::from_static(&[2; 7]), 1).await;
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
