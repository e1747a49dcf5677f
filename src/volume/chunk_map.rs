use std::cell::RefCell;
use std::ops::Range;

use dmsnap_format::{ChunkSize, CowChunk, Exception, OriginChunk, Run};

use crate::table::Table;

/// Where the bytes of a snapshot lie: its size, its chunks, and the table of those that have an exception.
#[derive(Debug)]
pub(super) struct ChunkMap {
    len_bytes: u64,
    chunk_size: ChunkSize,
    /// What reads see: complete exceptions, published or not.
    table: RefCell<Table>,
}

impl ChunkMap {
    pub(super) fn new(len_bytes: u64, chunk_size: ChunkSize, table: Table) -> Self {
        Self { len_bytes, chunk_size, table: table.into() }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(super) fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.chunk_size.bytes()
    }

    /// The first byte of a chunk of the COW device.
    pub(super) fn cow_byte(&self, new: CowChunk) -> u64 {
        new.get() * self.chunk_bytes()
    }

    /// How many exceptions there are.
    pub(super) fn len(&self) -> u64 {
        self.table.borrow().len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.borrow().memory_bytes()
    }

    pub(super) fn insert(&self, exception: Exception) {
        let inserted = self.table.borrow_mut().insert(exception);
        debug_assert!(inserted.is_ok(), "chunk {} was pending twice", exception.old);
    }

    /// These exceptions are in the origin.
    pub(super) fn remove(&self, exceptions: &[Exception]) {
        let mut table = self.table.borrow_mut();
        for exception in exceptions {
            table.remove(exception.old);
        }
    }

    pub(super) fn get(&self, old: u64) -> Option<CowChunk> {
        self.table.borrow().get(OriginChunk::new(old))
    }

    pub(super) fn has(&self, old: u64) -> bool {
        self.get(old).is_some()
    }

    /// The first run that ends after chunk `old`, from there on.
    pub(super) fn next_run(&self, old: u64) -> Option<Run> {
        self.table.borrow().next_run(OriginChunk::new(old))
    }

    /// The chunks that the part of a range touches that lies in the snapshot. Kernel: `__origin_write`, which
    /// goes by where a write begins.
    pub(super) fn chunks(&self, range: &Range<u64>) -> Range<u64> {
        let chunk = self.chunk_bytes();
        let first = range.start / chunk;
        match range.end.min(self.len_bytes) {
            end if end > range.start => first..end.div_ceil(chunk),
            _ => first..first,
        }
    }

    /// The bytes of a chunk, up to the end of a device of `len` bytes.
    pub(super) fn chunk_range(&self, old: u64, len: u64) -> Range<u64> {
        let chunk = self.chunk_bytes();
        old * chunk..((old + 1) * chunk).min(len)
    }

    /// The bytes of the first run of chunks with an exception that ends after `at`, from `at` on; not past
    /// the snapshot's end, whatever its last chunk holds.
    pub(super) fn next_saved(&self, at: u64) -> Option<Range<u64>> {
        self.next_stored(at).map(|(range, _)| range)
    }

    /// The same, and its first byte on the COW device.
    pub(super) fn next_stored(&self, at: u64) -> Option<(Range<u64>, u64)> {
        let chunk = self.chunk_bytes();
        let run = self.next_run(at / chunk)?;
        let begin = run.old.get() * chunk;
        let start = begin.max(at);
        let end = (begin + run.len * chunk).min(self.len_bytes);
        (start < end).then(|| (start..end, run.new.get() * chunk + (start - begin)))
    }

    /// Which bytes of a range have an exception: lengths in bytes, one after the other from the beginning of
    /// the range on, at most `most` of them.
    pub(super) fn differences(&self, range: Range<u64>, most: usize) -> Vec<(u64, bool)> {
        let chunk = self.chunk_bytes();
        let table = self.table.borrow();
        let mut found = Vec::new();
        let mut at = range.start;
        for run in table.runs_from(OriginChunk::new(at / chunk)) {
            let begin = run.old.get().saturating_mul(chunk).clamp(at, range.end);
            let end = (run.old.get() + run.len).saturating_mul(chunk).clamp(begin, range.end);
            found.extend((begin > at).then_some((begin - at, false)));
            found.extend((end > begin).then_some((end - begin, true)));
            at = end;
            if at == range.end || found.len() >= most {
                break;
            }
        }
        found.extend((at < range.end).then_some((range.end - at, false)));
        found.truncate(most);
        found
    }
}
