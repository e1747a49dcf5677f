//! Exceptions in memory: which origin chunk of one snapshot lives in which COW chunk.
//!
//! A snapshot of a large device can have hundreds of millions of exceptions, and every request
//! asks for some of them. [`Table`] keeps them ordered and packed: about 6 bytes for an isolated
//! chunk of a 16 TiB origin, and next to nothing for a chunk within a run.
//!
//! ```text
//! directory     first old chunk of every branch      | 0 | 21003 | ...
//!                                                      |
//! branch        first old chunk of every leaf        | 0 | 288 | 1025 | ...    up to 64 leaves
//!                                                           |
//! leaf          bases: old 288, new 40960            widths: 2, 1, 3 bytes     up to 128 runs
//!               old - base  | 0000 | 0007 | 01a2 |
//!               len - 1     | 00   | 1f   | 00   |
//!               new - base  | 000000 | 8000a1 | 0000c4 |
//! ```
//!
//! Each leaf is one slice of memory, each column as wide as its largest field: isolated chunks have
//! no lengths, and new chunks that were allocated together are numbers of one byte. A look-up
//! searches three short sorted arrays. A change moves bytes within one leaf; only a field that does
//! not fit makes the leaf be packed anew. Exceptions that go on where
//! a run ends, on both devices, always become part of it.
//!
//! ```
//! use dmsnap::format::{CowChunk, Exception, OriginChunk};
//! use dmsnap::table::Table;
//!
//! let mut table = Table::new();
//! for (old, new) in [(8, 2), (9, 3), (7, 9)] {
//!     table.insert(Exception { old: OriginChunk::new(old), new: CowChunk::new(new) })?;
//! }
//! assert_eq!(table.get(OriginChunk::new(9)), Some(CowChunk::new(3)));
//! assert_eq!((table.len(), table.runs()), (3, 2));
//! # Ok::<(), dmsnap::table::Duplicate>(())
//! ```

mod leaf; // runs, packed
mod directory; // leaves in order
mod build; // a whole table at once
mod runs; // and its runs in order

use std::fmt;
use std::ops::Range;

use dmsnap_format::{CowChunk, Exception, OriginChunk, Run};

use directory::{BRANCH_LEAVES, Directory, Place};
use leaf::{Leaf, continues, last, rest};

pub use runs::Runs;

/// The exceptions of one snapshot; see the [module](self) for how they lie in memory.
#[derive(Clone, Default)]
pub struct Table {
    directory: Directory,
    exceptions: u64,
    runs: u64,
}

/// An origin chunk has an exception already. Two for one chunk are damage in a store, and a
/// mistake of the caller that allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("origin chunk {old} has two exceptions: COW chunks {existing} and {refused}")]
pub struct Duplicate {
    /// The chunk.
    pub old: OriginChunk,
    /// Where the table says it lives.
    pub existing: CowChunk,
    /// What was not taken in.
    pub refused: CowChunk,
}

impl Table {
    /// An empty table; takes no memory on the heap.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many exceptions, that is chunks.
    pub fn len(&self) -> u64 {
        self.exceptions
    }

    /// No exception at all.
    pub fn is_empty(&self) -> bool {
        self.exceptions == 0
    }

    /// How many runs. No run can be joined to its neighbour, whatever the order of insertions was.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Memory taken, in bytes, with all overhead: the value itself, reserves, and what the usual
    /// allocators add to each allocation. Walks over all leaves.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.directory.memory_bytes()
    }

    /// Where `old` lives on the COW device, if it has an exception.
    pub fn get(&self, old: OriginChunk) -> Option<CowChunk> {
        self.run_at(old).map(|run| run.new)
    }

    /// The run that holds `old`, from `old` on.
    pub fn run_at(&self, old: OriginChunk) -> Option<Run> {
        let place = self.directory.locate(old.get())?;
        self.directory.leaf(place).find(old.get())
    }

    /// The first run at or after `from`; if it begins before, the rest of it. The chunks from
    /// `from` to the start of that run have no exception.
    pub fn next_run(&self, from: OriginChunk) -> Option<Run> {
        self.runs_from(from).next()
    }

    /// Takes in an exception, and joins it to the runs it continues.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] if the origin chunk has an exception already, the same or another. The table
    /// is then unchanged.
    pub fn insert(&mut self, exception: Exception) -> Result<(), Duplicate> {
        let (old, refused) = (exception.old, exception.new);
        self.put(Run::from(exception)).map_err(|existing| Duplicate { old, existing, refused })?;
        self.exceptions += 1;
        Ok(())
    }

    /// Takes the exception of `old` out, and says where the chunk lived.
    pub fn remove(&mut self, old: OriginChunk) -> Option<CowChunk> {
        let place = self.directory.locate(old.get())?;
        let new = self.directory.leaf(place).find(old.get())?.new;
        self.cut(place, old.get(), old.get());
        Some(new)
    }

    /// Takes out every exception of the `len` chunks from `first` on, and says how many there were.
    /// Runs that reach beyond the range are cut.
    pub fn remove_range(&mut self, first: OriginChunk, len: u64) -> u64 {
        let Some(beyond) = len.checked_sub(1) else { return 0 };
        let (first, end) = (first.get(), first.plus(beyond).get());
        let before = self.exceptions;
        let mut next = Some(first);
        while let Some(from) = next.filter(|&from| from <= end)
            && let Some(place) = self.directory.locate(from)
        {
            // The place is void once the leaf has changed, its neighbour's first chunk is not.
            let after = self.directory.after(place);
            next = after.map(|after| self.directory.leaf(after).run(0).old.get());
            self.cut(place, first, end);
        }
        before - self.exceptions
    }

    /// Forgets all exceptions and gives their memory back.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Puts in a run of which at most the first chunk has an exception, and fails with that one's
    /// COW chunk. Counts runs, not exceptions.
    fn put(&mut self, single: Run) -> Result<(), CowChunk> {
        let mut run = single;
        let Some(place) = self.directory.locate(run.old.get()) else {
            self.runs += 1;
            self.directory.push(Leaf::pack(&[run]), BRANCH_LEAVES);
            return Ok(());
        };
        let leaf = self.directory.leaf(place);
        let begun = leaf.begun(run.old.get());
        let mut joined = begun..begun;
        if let Some(before) = begun.checked_sub(1).map(|index| leaf.run(index)) {
            if last(&before) >= run.old.get() {
                return Err(rest(&before, run.old.get() - before.old.get()).new);
            }
            if continues(&before, &run) {
                run = Run { len: before.len + run.len, ..before };
                joined.start -= 1;
            }
        }
        if begun < leaf.len() {
            let after = leaf.run(begun);
            if continues(&run, &after) {
                run.len += after.len;
                joined.end += 1;
            }
        } else if let Some(next) = self.directory.after(place) {
            let after = self.directory.leaf(next).run(0);
            if continues(&run, &after) {
                // What is joined belongs to this leaf, but taking it out of the next one may move
                // this one: begin again, with nothing left to join after it.
                self.replace(next, 0..1, &[]);
                return self.put(Run { len: single.len + after.len, ..single });
            }
        }
        self.replace(place, joined, &[run]);
        Ok(())
    }

    /// Takes the chunks `first..=end` out of one leaf.
    fn cut(&mut self, place: Place, first: u64, end: u64) {
        let leaf = self.directory.leaf(place);
        let (mut from, to) = (leaf.begun(first), leaf.begun(end));
        if let Some(before) = from.checked_sub(1)
            && last(&leaf.run(before)) >= first
        {
            from = before;
        }
        if from == to {
            return;
        }
        let (low, high) = (leaf.run(from), leaf.run(to - 1));
        let left = (low.old.get() < first).then(|| Run { len: first - low.old.get(), ..low });
        let right = (last(&high) > end).then(|| rest(&high, end + 1 - high.old.get()));
        let kept: &[Run] = match (left, right) {
            (Some(left), Some(right)) => &[left, right],
            (Some(one), None) | (None, Some(one)) => &[one],
            (None, None) => &[],
        };
        let gone = (from..to).map(|index| leaf.run(index).len).sum::<u64>();
        self.exceptions -= gone - kept.iter().map(|run| run.len).sum::<u64>();
        self.replace(place, from..to, kept);
    }

    fn replace(&mut self, place: Place, range: Range<usize>, with: &[Run]) {
        self.runs = self.runs - range.len() as u64 + with.len() as u64;
        self.directory.splice(place, range, with);
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("exceptions", &self.exceptions)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
