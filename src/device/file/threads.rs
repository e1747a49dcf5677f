use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use compio::runtime::Runtime;
use rustix::fs::{FallocateFlags, FsWord};
use rustix::io::{pwritev, retry_on_intr};

use super::error::OpenError;
use super::semaphore::Semaphore;

/// FUSE's number among file systems (`statfs`).
const FUSE: FsWord = 0x6573_5546;

/// Pieces of one write; IOV_MAX of Linux.
const MAX_PIECES: usize = 1024;

/// Calls of one file that sleep on other threads at a time. There are 256 threads for all files: one whose
/// device hangs must not take them all.
const MAX_CALLS: usize = 8;

/// Refuses to go on where nothing could be waited for.
pub(super) fn need_runtime() -> Result<(), OpenError> {
    Runtime::try_with_current(|_| ()).map_err(|_| OpenError::NoRuntime)
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

/// Calls of one file that are made on other threads.
#[derive(Debug)]
pub(super) struct Calls {
    file: Arc<fs::File>,
    calls: Semaphore<MAX_CALLS>,
}

impl Calls {
    pub(super) fn of(file: Arc<fs::File>) -> Self {
        Self { file, calls: Semaphore::default() }
    }

    /// Makes a call that may sleep, when there are not too many others.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&fs::File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = self.file.clone();
        let _permit = self.calls.acquire().await;
        blocking(move || call(&file)).await
    }

    pub(super) async fn fallocate(
        &self,
        flags: FallocateFlags,
        at: u64,
        len: u64,
    ) -> io::Result<()> {
        // A signal may be delivered to the thread that makes the call.
        let call = move |file: &fs::File| {
            Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, at, len))?)
        };
        self.call(call).await
    }

    /// Fills this part of the memory, with zeroes from the end of the file on; returns how many bytes the file had.
    pub(super) async fn read(
        &self,
        at: u64,
        mut memory: Vec<u8>,
        part: Range<usize>,
    ) -> io::Result<(Vec<u8>, usize)> {
        let read = self.call(move |file| {
            let into = &mut memory[part];
            let filled = read(file, into, at)?;
            into[filled..].fill(0);
            Ok((memory, filled))
        });
        read.await
    }

    /// Writes all pieces, one after the other.
    pub(super) async fn write(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        // The data comes back: its memory belongs to this thread.
        let written = self.call(move |file| Ok((write(file, &pieces, at), pieces)));
        written.await.and_then(|(written, _data)| written)
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        self.call(fs::File::sync_data).await
    }
}

/// True if requests of this file may sleep though they were asked not to. FUSE says that it can tell, and
/// sleeps as soon as its server has a dozen requests to answer (`max_background`): the ring, which asks on
/// our thread first, would stop everybody.
pub(super) fn sleeps(file: &fs::File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == FUSE)
}

fn read(file: &fs::File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn write(file: &fs::File, pieces: &[Bytes], mut at: u64) -> io::Result<()> {
    for batch in pieces.chunks(MAX_PIECES) {
        let mut slices: Vec<_> = batch.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        // Empty ones in front are skipped.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = retry_on_intr(|| pwritev(file, rest, at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pieces_are_written_and_what_is_there_is_read() {
        let file = tempfile::tempfile().expect("a file");
        let pieces: Vec<_> =
            (0..3000_usize).map(|n| Bytes::from(vec![n.to_le_bytes()[0]; n % 7])).collect();
        write(&file, &pieces, 5).expect("written");
        let expected = [vec![0; 5], pieces.concat()].concat();
        let mut found = vec![9; expected.len() + 100];
        assert_eq!(read(&file, &mut found, 0).expect("read"), expected.len(), "to the end");
        assert!(found[..expected.len()] == expected && found[expected.len()..] == [9; 100]);
    }
}
