use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};

use bytes::Bytes;

/// Every buffer begins at a multiple of this many bytes: enough for direct I/O on any disk with
/// blocks of up to 4 KiB.
pub const ALIGNMENT: usize = 4096;

/// Returned memory is kept for the next buffer up to this many bytes a thread.
const KEEP_BYTES: usize = 256 << 20;

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

    /// The memory itself and where in it the buffer's bytes lie, for who can only fill such.
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

#[derive(Default)]
struct Pool {
    kept_bytes: usize,
    by_class: BTreeMap<usize, Vec<Vec<u8>>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pool {
    fn take(&mut self, class: usize) -> Option<Vec<u8>> {
        let memory = self.by_class.get_mut(&class)?.pop()?;
        self.kept_bytes -= memory.len();
        Some(memory)
    }

    fn put(&mut self, memory: Vec<u8>) {
        if self.kept_bytes + memory.len() <= KEEP_BYTES {
            self.kept_bytes += memory.len();
            self.by_class.entry(memory.len() - ALIGNMENT).or_default().push(memory);
        }
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
}
