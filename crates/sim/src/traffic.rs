use std::cell::{Cell, RefCell};
use std::ops::Range;

/// What reached a disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write or zeroing of these bytes.
    Write(Range<u64>),
    /// A flush.
    Flush,
}

/// How often what was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes and zeroings.
    pub writes: u64,
    /// Bytes written and zeroed.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// What a disk was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    log: RefCell<Vec<Operation>>,
    counts: Cell<Counts>,
}

impl Traffic {
    pub(crate) fn read(&self, bytes: usize) {
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += bytes as u64;
        });
    }

    pub(crate) fn write(&self, at: u64, bytes: usize) {
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += bytes as u64;
        });
        self.log.borrow_mut().push(Operation::Write(at..at + bytes as u64));
    }

    pub(crate) fn flush(&self) {
        self.count(|counts| counts.flushes += 1);
        self.log.borrow_mut().push(Operation::Flush);
    }

    /// Every write and flush so far.
    pub(crate) fn log(&self) -> Vec<Operation> {
        self.log.borrow().clone()
    }

    /// How much was asked so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.get()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}
