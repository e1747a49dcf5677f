use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};

use bytes::Bytes;

#[cfg(feature = "file")]
use super::ioctl::trim_heap;

/// Every buffer begins at a multiple of this many bytes: enough for direct I/O on any disk with
/// blocks of up to 4 KiB.
pub const ALIGNMENT: usize = 4096;

/// Returned memory is kept for the next buffer up to this many bytes a thread, unless [`Buffer::keep_at_most`] says otherwise.
const DEFAULT_KEPT_BYTES: usize = 64 << 20;

/// Memory for I/O, aligned to [`ALIGNMENT`]. Dropping it, or the last [`Bytes`] made of it, gives
/// the memory back to this thread's pool.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` bytes with arbitrary content: zeroes, or what an earlier buffer held.
    pub fn recycled(len: usize) -> Self {
        let class = size_class(len);
        let memory = POOL
            .with_borrow_mut(|pool| pool.take(class))
            .unwrap_or_else(|| vec![0; class + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, len }
    }

    /// The most memory, in bytes, that this thread keeps of returned buffers.
    pub fn keep_at_most(bytes: usize) {
        POOL.with_borrow_mut(|pool| {
            pool.most_bytes = bytes;
            while pool.kept_bytes > bytes && pool.drop_one(usize::MAX) {}
        });
    }

    /// Gives back to the system what this thread keeps and nobody has needed since the last call. To be
    /// called about once a second.
    pub fn give_back_idle() {
        /// Worth the time to look through the heap.
        const MIN_TRIM_BYTES: usize = 1 << 20;
        let given_back = POOL.with_borrow_mut(|pool| {
            let before = pool.kept_bytes;
            pool.give_back_idle();
            pool.freed_bytes += before - pool.kept_bytes;
            pool.freed_bytes
        });
        if given_back >= MIN_TRIM_BYTES {
            POOL.with_borrow_mut(|pool| pool.freed_bytes = 0);
            // The C library keeps what was freed in the middle of its heap.
            #[cfg(feature = "file")]
            trim_heap();
        }
    }

    /// What this thread keeps of returned buffers, in bytes.
    pub fn kept_bytes() -> usize {
        POOL.with_borrow(|pool| pool.kept_bytes)
    }

    /// `len` zeroes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::recycled(len);
        buffer.fill(0);
        buffer
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::recycled(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// For writing, and for handing out in pieces that share the memory.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The memory itself and where in it the buffer's bytes lie, for callers that can only fill a `Vec`.
    pub fn into_memory(mut self) -> (Vec<u8>, Range<usize>) {
        let range = self.start..self.start + self.len;
        (std::mem::take(&mut self.memory), range)
    }

    /// The reverse of [`into_memory`](Self::into_memory).
    pub fn from_memory(memory: Vec<u8>, range: &Range<usize>) -> Self {
        Self { memory, start: range.start, len: range.len() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            // During thread exit the pool may be gone; then the memory is simply freed.
            let _ = POOL.try_with(|pool| pool.borrow_mut().put(memory));
        }
    }
}

/// Sizes are rounded up so that a buffer fits a later, slightly different request.
fn size_class(len: usize) -> usize {
    match len {
        0..=0x1_0000 => len.next_power_of_two().max(512),
        _ => len.next_multiple_of(0x1_0000),
    }
}

struct Pool {
    most_bytes: usize,
    kept_bytes: usize,
    /// Not kept, or no longer, since the heap was trimmed.
    freed_bytes: usize,
    by_class: BTreeMap<usize, Kept>,
}

/// Returned memory of one size.
#[derive(Default)]
struct Kept {
    memory: Vec<Vec<u8>>,
    /// The fewest there were since somebody last looked: that many were not needed.
    least: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            most_bytes: DEFAULT_KEPT_BYTES,
            kept_bytes: 0,
            freed_bytes: 0,
            by_class: BTreeMap::new(),
        }
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pool {
    fn take(&mut self, class: usize) -> Option<Vec<u8>> {
        let kept = self.by_class.get_mut(&class)?;
        let memory = kept.memory.pop()?;
        kept.least = kept.least.min(kept.memory.len());
        self.kept_bytes -= memory.len();
        Some(memory)
    }

    fn put(&mut self, memory: Vec<u8>) {
        let (len, class) = (memory.len(), memory.len() - ALIGNMENT);
        if len > self.most_bytes {
            self.freed_bytes += len;
            return;
        }
        // What is used now is worth more than what was used once.
        while self.kept_bytes + len > self.most_bytes {
            if !self.drop_one(class) {
                self.freed_bytes += len;
                return;
            }
        }
        self.kept_bytes += len;
        self.by_class.entry(class).or_default().memory.push(memory);
    }

    /// Gives back some memory of another class; false if there is none.
    fn drop_one(&mut self, but: usize) -> bool {
        let others = self.by_class.iter_mut().rev().filter(|(class, _)| **class != but);
        let Some((class, dropped)) =
            others.filter_map(|(class, kept)| Some((*class, kept.take()?))).next()
        else {
            return false;
        };
        self.kept_bytes -= dropped.len();
        self.freed_bytes += dropped.len();
        if self.by_class.get(&class).is_some_and(|kept| kept.memory.is_empty()) {
            self.by_class.remove(&class);
        }
        true
    }

    fn give_back_idle(&mut self) {
        let kept_bytes = &mut self.kept_bytes;
        self.by_class.retain(|_, kept| {
            for _ in 0..std::mem::take(&mut kept.least) {
                *kept_bytes -= kept.memory.pop().map_or(0, |memory| memory.len());
            }
            kept.least = kept.memory.len();
            !kept.memory.is_empty()
        });
    }
}

impl Kept {
    fn take(&mut self) -> Option<Vec<u8>> {
        let memory = self.memory.pop();
        self.least = self.least.min(self.memory.len());
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_aligned_and_as_long_as_asked() {
        for len in [0, 1, 512, 4096, 4097, 65_536, 65_537, 1 << 20] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0, "{len} bytes");
        }
    }

    #[test]
    fn memory_comes_back_after_the_last_piece_is_dropped() {
        let first = Buffer::copy_of(&[7; 8192]);
        let address = first.as_ptr();
        let frozen = first.freeze();
        let piece = frozen.slice(4096..);
        drop(frozen);
        assert_ne!(Buffer::recycled(8192).as_ptr(), address, "still in use");
        assert_eq!(piece[..], [7; 4096]);
        drop(piece);
        let again: Vec<_> = (0..2).map(|_| Buffer::recycled(8192)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ptr() == address));
        assert_eq!(Buffer::zeroed(8192)[..], [0; 8192], "zeroed really zeroes recycled memory");
    }

    #[test]
    fn what_is_kept_is_bounded_and_given_back_when_idle() {
        Buffer::keep_at_most(4 << 20);
        for mib in 1..=8 {
            drop(Buffer::recycled(mib << 19));
            assert!(Buffer::kept_bytes() <= 4 << 20, "{mib}: {}", Buffer::kept_bytes());
        }
        // Sizes of now take the place of those of before.
        let address = Buffer::recycled(4096).as_ptr();
        assert_eq!(Buffer::recycled(4096).as_ptr(), address);
        Buffer::give_back_idle();
        let in_use = Buffer::recycled(4096);
        assert_eq!(in_use.as_ptr(), address, "needed since then");
        drop(in_use);
        Buffer::give_back_idle();
        assert!((4096..16 << 10).contains(&Buffer::kept_bytes()), "{}", Buffer::kept_bytes());
        Buffer::give_back_idle();
        assert_eq!(Buffer::kept_bytes(), 0, "idle");
        Buffer::keep_at_most(0);
        drop(Buffer::recycled(4096));
        assert_eq!(Buffer::kept_bytes(), 0);
        // Other tests of this thread go on as before.
        Buffer::keep_at_most(DEFAULT_KEPT_BYTES);
    }
}
