use std::cell::Cell;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2, retry_on_intr};

/// A longer write goes by the ring: other requests are served meanwhile.
const MOST_BYTES: usize = 128 << 10;

/// What the page cache takes without reading anything first.
const PAGE_BYTES: u64 = 4096;

/// A write that took longer has waited for the disk,
const LONG: Duration = Duration::from_millis(2);

/// and for so long the next ones go by the ring, where only they wait.
const PENANCE: Duration = Duration::from_millis(100);

/// A shorter read of a file that is otherwise gone to directly does not ask the page cache first: that
/// may make the system read ahead more than was wanted.
const LEAST_BYTES: usize = 64 << 10;

/// Direct reads between two questions whether the page cache has what it did not have before.
const MOST_SKIPPED: u32 = 64;

/// Requests that the page cache can answer on the spot.
///
/// The ring is no way for these: to it a write through the page cache of ext4 is one that may sleep,
/// so each goes to a thread of the kernel and back, which costs several times what is copied.
#[derive(Debug, Default)]
pub(super) struct AtOnce {
    /// The file system cannot tell whether it would have to wait.
    no_reads: Cell<bool>,
    blind_writes: Cell<bool>,
    /// Writes have had to wait.
    slow_until: Cell<Option<Instant>>,
    /// Direct reads that do not ask, and how many it were after the last miss.
    skip: Cell<u32>,
    skipped: Cell<u32>,
}

impl AtOnce {
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

    /// True if a long read of a file that is gone to directly should take what the page cache has, because
    /// it was written not long ago: memory is faster than any disk. Asks for the first page only, and after
    /// a miss ever more seldom.
    pub(super) fn is_cached(&self, file: &fs::File, at: u64, len: usize) -> bool {
        if len < LEAST_BYTES {
            return false;
        }
        if let Some(left) = self.skip.get().checked_sub(1) {
            self.skip.set(left);
            return false;
        }
        let is_cached = self.read(file, at, &mut [0; 4096]) > 0;
        let skip = if is_cached { 0 } else { (2 * self.skipped.get()).clamp(1, MOST_SKIPPED) };
        self.skip.set(skip);
        self.skipped.set(skip);
        is_cached
    }

    /// Writes into the page cache. Returns how many bytes; for the rest, and for errors, there is
    /// the ring.
    ///
    /// Where the file system cannot tell whether it would have to wait, whole pages are written all
    /// the same, until that has taken long.
    pub(super) fn write(&self, file: &fs::File, at: u64, slices: &[IoSlice<'_>]) -> usize {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len > MOST_BYTES {
            return 0;
        }
        let write = |flags| retry_on_intr(|| pwritev2(file, slices, at, flags));
        if !self.blind_writes.get() {
            match write(ReadWriteFlags::NOWAIT) {
                Ok(written) => return written,
                Err(Errno::AGAIN) => return 0,
                Err(_) => self.blind_writes.set(true),
            }
        }
        if !at.is_multiple_of(PAGE_BYTES) || !(len as u64).is_multiple_of(PAGE_BYTES) {
            return 0;
        }
        let begun = Instant::now();
        if self.slow_until.get().is_some_and(|end| begun < end) {
            return 0;
        }
        let written = write(ReadWriteFlags::empty()).unwrap_or(0);
        self.slow_until.set((begun.elapsed() > LONG).then(|| begun + LONG + PENANCE));
        written
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A new file of so many bytes of 7, all of them in the page cache. Gone when dropped.
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
        let scratch = Scratch::new("at-once-read", 1 << 20);
        let mut bytes = vec![0; 8192];
        let read = AtOnce::default().read(&scratch.1, (1 << 20) - 4096, &mut bytes);
        if read == 0 {
            eprintln!("SKIPPED: this file system cannot tell what is cached");
            return;
        }
        assert_eq!(read, 4096, "up to the end of the file");
        assert!(bytes[..4096].iter().all(|byte| *byte == 7) && bytes[4096..] == [0; 4096]);
    }

    #[test]
    fn what_the_disk_has_to_bring_is_left_to_the_ring() {
        let scratch = Scratch::new("at-once-cold", 1 << 20);
        scratch.1.sync_all().expect("it is written");
        let forget = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&scratch.1, 0, None, forget).expect("it is forgotten");
        let at_once = AtOnce::default();
        let mut bytes = vec![0; 1 << 20];
        let read = at_once.read(&scratch.1, 0, &mut bytes);
        if read == 1 << 20 {
            eprintln!("SKIPPED: this file system is in memory, and forgets nothing");
        }
        assert!(bytes[..read].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn after_a_miss_the_cache_is_asked_ever_more_seldom() {
        let scratch = Scratch::new("at-once-beside", 1 << 20);
        scratch.1.sync_all().expect("it is written");
        let at_once = AtOnce::default();
        let is_cached = |len| at_once.is_cached(&scratch.1, 0, len);
        if !is_cached(1 << 20) {
            eprintln!("SKIPPED: this file system cannot tell what is cached");
            return;
        }
        assert!(!is_cached(4096), "a short read is not worth the question");
        at_once.skip.set(2);
        let hits: Vec<_> = (0..4).map(|_| is_cached(1 << 20)).collect();
        assert_eq!(hits, [false, false, true, true]);
        // Behind the end nothing is cached.
        let mut asked = Vec::new();
        for n in 0..300 {
            at_once.is_cached(&scratch.1, 1 << 20, 1 << 20);
            asked.extend((at_once.skip.get() == at_once.skipped.get()).then_some(n));
        }
        assert_eq!(asked, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
    }

    #[test]
    fn whole_pages_are_written_and_long_or_odd_writes_are_not() {
        let scratch = Scratch::new("at-once-write", 1 << 20);
        let at_once = AtOnce::default();
        at_once.blind_writes.set(true);
        let write = |at, len| at_once.write(&scratch.1, at, &[IoSlice::new(&vec![9; len])]);
        assert_eq!(write(4096, 512), 0, "a part of a page may have to be read first");
        assert_eq!(write(512, 4096), 0);
        assert_eq!(write(0, MOST_BYTES + 4096), 0);
        assert!(fs::read(&scratch.0).expect("content").iter().all(|byte| *byte == 7));
        assert_eq!(write(8192, 4096), 4096);
        assert_eq!(fs::read(&scratch.0).expect("content")[8192..12288], [9; 4096]);
    }

    #[test]
    fn after_a_long_write_the_next_ones_go_by_the_ring_for_a_while() {
        let scratch = Scratch::new("at-once-slow", 1 << 20);
        let at_once = AtOnce::default();
        at_once.blind_writes.set(true);
        let write = || at_once.write(&scratch.1, 0, &[IoSlice::new(&[9; 4096])]);
        at_once.slow_until.set(Some(Instant::now() + Duration::from_secs(60)));
        assert_eq!(write(), 0);
        at_once.slow_until.set(Some(Instant::now()));
        assert_eq!(write(), 4096);
    }
}
