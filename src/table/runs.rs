//! Runs in order.

use std::iter::FusedIterator;

use dmsnap_format::{OriginChunk, Run};

use super::Table;
use super::directory::Place;
use super::leaf::{last, rest};

/// The runs of a table in ascending order of origin chunks: see [`Table::runs_from`].
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    table: &'a Table,
    /// The leaf and the number of the run in it that come next.
    next: Option<(Place, usize)>,
    /// Nothing below this chunk is returned; only the first run can reach below it.
    from: u64,
}

impl Table {
    /// All runs at or after `from`, ascending; the first is cut if it begins before.
    ///
    /// So a request over many chunks is cut at the bounds of runs and gaps:
    ///
    /// ```
    /// # use dmsnap::format::{CowChunk, Exception, OriginChunk};
    /// # use dmsnap::table::Table;
    /// let exceptions = (5..9).map(|old| Exception {
    ///     old: OriginChunk::new(old),
    ///     new: CowChunk::new(old + 100),
    /// });
    /// let table = Table::from_exceptions(exceptions.collect())?;
    /// let run = table.runs_from(OriginChunk::new(6)).next().expect("chunks 6 to 8");
    /// assert_eq!((run.old.get(), run.new.get(), run.len), (6, 106, 3));
    /// # Ok::<(), dmsnap::table::Duplicate>(())
    /// ```
    pub fn runs_from(&self, from: OriginChunk) -> Runs<'_> {
        Runs::new(self, from)
    }

    /// All runs, ascending.
    pub fn iter(&self) -> Runs<'_> {
        self.runs_from(OriginChunk::new(0))
    }
}

impl<'a> Runs<'a> {
    fn new(table: &'a Table, from: OriginChunk) -> Self {
        let from = from.get();
        let next = table.directory.locate(from).map(|place| {
            let leaf = table.directory.leaf(place);
            // The run that holds the chunk, or the one after it.
            let begun = leaf.begun(from);
            let holds = begun > 0 && last(&leaf.run(begun - 1)) >= from;
            (place, begun - usize::from(holds))
        });
        Self { table, next, from }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let directory = &self.table.directory;
        let (mut place, mut index) = self.next?;
        if index == directory.leaf(place).len() {
            let Some(after) = directory.after(place) else {
                self.next = None;
                return None;
            };
            (place, index) = (after, 0);
        }
        self.next = Some((place, index + 1));
        let run = directory.leaf(place).run(index);
        Some(rest(&run, self.from.saturating_sub(run.old.get())))
    }
}

impl FusedIterator for Runs<'_> {}

impl<'a> IntoIterator for &'a Table {
    type Item = Run;
    type IntoIter = Runs<'a>;

    fn into_iter(self) -> Runs<'a> {
        self.iter()
    }
}
