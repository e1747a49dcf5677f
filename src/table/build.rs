//! A whole table at once.

use std::cmp::Reverse;

use dmsnap_format::{CowChunk, Exception, Run};

use super::directory::{BRANCH_LEAVES, filled};
use super::leaf::{LEAF_RUNS, Leaf, continues};
use super::{Duplicate, Table};

/// Memory of sorted exceptions is released in this many steps while they are packed.
const STEPS: usize = 16;

impl Table {
    /// Packs exceptions in any order, usually that of the store.
    ///
    /// Takes no memory beyond `exceptions` itself, which is given back piece by piece as the table
    /// grows.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] if an origin chunk occurs more than once: of the lowest such chunk, the two
    /// lowest COW chunks. Which of them a kernel shows depends on its version, so no table is made.
    pub fn from_exceptions(mut exceptions: Vec<Exception>) -> Result<Self, Duplicate> {
        // Descending, so that taking from the end ascends.
        exceptions.sort_unstable_by_key(|exception| Reverse(exception.old));
        let step = exceptions.len().div_ceil(STEPS).max(1);
        let mut builder = Builder::default();
        while let Some(exception) = exceptions.pop() {
            builder.push(exception).map_err(|existing| lowest(exception, existing, &exceptions))?;
            if exceptions.len().is_multiple_of(step) {
                exceptions.shrink_to_fit();
            }
        }
        Ok(builder.finish())
    }
}

/// Takes exceptions in ascending order.
#[derive(Default)]
struct Builder {
    table: Table,
    /// The next leaf, at most as long as a bulk build fills it.
    leaf: Vec<Run>,
}

impl Builder {
    /// Fails with the COW chunk that the origin chunk has already.
    fn push(&mut self, exception: Exception) -> Result<(), CowChunk> {
        let run = Run::from(exception);
        if let Some(before) = self.leaf.last_mut() {
            let last = before.len - 1;
            if before.old.get() + last == exception.old.get() {
                return Err(CowChunk::new(before.new.get() + last));
            }
            if continues(before, &run) {
                before.len += 1;
                self.table.exceptions += 1;
                return Ok(());
            }
            if self.leaf.len() == filled(LEAF_RUNS) {
                self.flush();
            }
        }
        self.leaf.push(run);
        self.table.exceptions += 1;
        Ok(())
    }

    fn flush(&mut self) {
        self.table.runs += self.leaf.len() as u64;
        self.table.directory.push(Leaf::pack(&self.leaf), filled(BRANCH_LEAVES));
        self.leaf.clear();
    }

    fn finish(mut self) -> Table {
        if !self.leaf.is_empty() {
            self.flush();
        }
        self.table.directory.shrink();
        self.table
    }
}

/// The two lowest of all COW chunks of an origin chunk: two were found, others may be the last of
/// `remaining`. An unstable sort leaves them in no order.
fn lowest(found: Exception, existing: CowChunk, remaining: &[Exception]) -> Duplicate {
    let others = remaining.iter().rev().take_while(|other| other.old == found.old);
    let mut chunks: Vec<_> = others.map(|other| other.new).chain([found.new, existing]).collect();
    chunks.sort_unstable();
    Duplicate { old: found.old, existing: chunks[0], refused: chunks[1] }
}
