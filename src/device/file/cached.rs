use std::cell::Cell;
use std::fs;
use std::io::IoSliceMut;

use rustix::io::{Errno, ReadWriteFlags, preadv2, retry_on_intr};

/// A shorter read of a file opened with `O_DIRECT` does not ask the page cache first: that
/// may make the system read ahead more than was wanted.
const MIN_BYTES: usize = 64 << 10;

/// Direct reads between two questions whether the page cache has what it did not have before.
const MAX_SKIPPED: u32 = 64;

/// Reads that the page cache can answer on the spot.
///
/// For these the ring is a detour: what is in memory is copied sooner than it is asked for.
///
/// Writes all go by the ring, though some file systems (ext4 is one) hand each of them to a thread of the kernel
/// and back. Nothing promises that a write into the page cache does not sleep: on a file system that is
/// frozen, throttled, or somewhere else, it does, and with it would everybody whom this thread serves. Even
/// `RWF_NOWAIT` sleeps on a frozen one; only the ring looks first.
#[derive(Debug, Default)]
pub(super) struct CachedIo {
    /// The file system cannot tell whether it would have to wait.
    no_reads: Cell<bool>,
    /// Direct reads that do not ask, and the back-off chosen after the last miss.
    skip: Cell<u32>,
    skipped: Cell<u32>,
}

impl CachedIo {
    /// Reads what is in the page cache. Returns how many bytes; for whatever is missing, and for
    /// errors, there is the ring.
    pub(super) fn read(&self, file: &fs::File, at: u64, into: &mut [u8]) -> usize {
        if self.no_reads.get() {
            return 0;
        }
        let mut slices = [IoSliceMut::new(into)];
        match retry_on_intr(|| preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT)) {
            Ok(read) => read,
            Err(error) => {
                self.no_reads.set(error != Errno::AGAIN);
                0
            }
        }
    }

    /// True if a long read of a file opened with `O_DIRECT` should take what the page cache has, because
    /// it was written not long ago: memory is faster than any disk. Asks for the first page only, and after
    /// a miss less and less often.
    pub(super) fn is_cached(&self, file: &fs::File, at: u64, len: usize) -> bool {
        if len < MIN_BYTES {
            return false;
        }
        if let Some(left) = self.skip.get().checked_sub(1) {
            self.skip.set(left);
            return false;
        }
        let is_cached = self.read(file, at, &mut [0; 4096]) > 0;
        let skip = if is_cached { 0 } else { (2 * self.skipped.get()).clamp(1, MAX_SKIPPED) };
        self.skip.set(skip);
        self.skipped.set(skip);
        is_cached
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A new file of `len` bytes of 7, all of them in the page cache. Gone when dropped.
    struct Scratch(PathBuf, fs::File);

    impl Scratch {
        fn new(name: &str, len: usize) -> Self {
            let path = std::env::temp_dir().join(format!("dmsnap-{name}-{}", std::process::id()));
            fs::write(&path, vec![7; len]).expect("a new file");
            let file = fs::File::options().read(true).write(true).open(&path).expect("it opens");
            Self(path, file)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_read_gets_what_is_there_and_nothing_else() {
        let scratch = Scratch::new("cached-read", 1 << 20);
        let mut bytes = vec![0; 8192];
        let read = CachedIo::default().read(&scratch.1, (1 << 20) - 4096, &mut bytes);
        if read == 0 {
            eprintln!("SKIPPED: this file system cannot tell what is cached");
            return;
        }
        assert_eq!(read, 4096, "up to the end of the file");
        assert!(bytes[..4096].iter().all(|byte| *byte == 7) && bytes[4096..] == [0; 4096]);
    }

    #[test]
    fn what_the_disk_has_to_bring_is_left_to_the_ring() {
        let scratch = Scratch::new("cached-cold", 1 << 20);
        scratch.1.sync_all().expect("it is written");
        let forget = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&scratch.1, 0, None, forget).expect("it is forgotten");
        let cached = CachedIo::default();
        let mut bytes = vec![0; 1 << 20];
        let read = cached.read(&scratch.1, 0, &mut bytes);
        if read == 1 << 20 {
            eprintln!("SKIPPED: this file system is in memory, and forgets nothing");
        }
        assert!(bytes[..read].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn after_a_miss_the_cache_is_asked_less_and_less_often() {
        let scratch = Scratch::new("cached-misses", 1 << 20);
        scratch.1.sync_all().expect("it is written");
        let cached = CachedIo::default();
        let is_cached = |len| cached.is_cached(&scratch.1, 0, len);
        if !is_cached(1 << 20) {
            eprintln!("SKIPPED: this file system cannot tell what is cached");
            return;
        }
        assert!(!is_cached(4096), "a short read is not worth the question");
        cached.skip.set(2);
        let hits: Vec<_> = (0..4).map(|_| is_cached(1 << 20)).collect();
        assert_eq!(hits, [false, false, true, true]);
        // Past the end nothing is cached.
        let mut asked = Vec::new();
        for n in 0..300 {
            cached.is_cached(&scratch.1, 1 << 20, 1 << 20);
            asked.extend((cached.skip.get() == cached.skipped.get()).then_some(n));
        }
        assert_eq!(asked, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
    }
}
