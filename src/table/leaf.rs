//! A leaf: up to [`LEAF_RUNS`] runs in one packed slice.

use std::ops::Range;

use dmsnap_format::{CowChunk, OriginChunk, Run};

/// Most runs a leaf holds. More share one directory entry better, but stretch the deltas over more
/// bytes and make every insertion move more.
pub(super) const LEAF_RUNS: usize = 128;

/// Leaves take memory in steps of this many bytes, so that most insertions need none. Sizes are 8
/// less than a multiple: the usual allocators put 8 bytes of their own in front.
const STEP_BYTES: usize = 32;

/// A search first looks at one run in this many.
const PROBE: usize = 16;

/// Every field is read as a whole word, so a word may hang over the last field.
const WORD_BYTES: usize = size_of::<u64>();

/// The largest value in a field of this many bytes.
const MASKS: [u64; 9] = {
    let mut masks = [u64::MAX; 9];
    let mut width = 0;
    while width < WORD_BYTES {
        masks[width] = (1 << (8 * width)) - 1;
        width += 1;
    }
    masks
};

/// The columns, in the order they lie in memory.
const OLD: usize = 0;
const LEN: usize = 1;
const NEW: usize = 2;

/// Runs in ascending order, none overlapping, each a row of three fields: distance of the old
/// chunk from the leaf's smallest, chunks beyond the first, distance of the new chunk from the
/// leaf's smallest. Every column has the width in bytes that its largest field needs, which is
/// none at all for the lengths of isolated chunks.
#[derive(Clone)]
pub(super) struct Leaf {
    bytes: Box<[u8]>,
    /// At most the first old chunk; less after the first run was removed.
    old_base: u64,
    new_base: u64,
    runs: u16,
    widths: [u8; 3],
}

/// The last chunk of a run on the origin. A run is never so long that this overflows.
pub(super) fn last(run: &Run) -> u64 {
    run.old.get() + (run.len - 1)
}

/// Whether `after` goes on exactly where `before` ends, on both devices.
///
/// Not [`Run::extend`], whose saturating arithmetic would let a run at 2^64 - 1 go on in itself.
pub(super) fn continues(before: &Run, after: &Run) -> bool {
    before.old.get().checked_add(before.len) == Some(after.old.get())
        && before.new.get().checked_add(before.len) == Some(after.new.get())
}

/// `run` from its chunk `skip` on.
pub(super) fn rest(run: &Run, skip: u64) -> Run {
    Run {
        old: OriginChunk::new(run.old.get() + skip),
        new: CowChunk::new(run.new.get() + skip),
        len: run.len - skip,
    }
}

impl Leaf {
    /// Packs `runs`, which must be ascending and at least one.
    pub(super) fn pack(runs: &[Run]) -> Self {
        let old_base = runs.first().map_or(0, |run| run.old.get());
        let new_base = runs.iter().map(|run| run.new.get()).min().unwrap_or(0);
        // The bits of all fields of a column together are as wide as its largest field.
        let used = runs.iter().fold([0; 3], |used: [u64; 3], run| {
            let row = row(run, old_base, new_base);
            [used[OLD] | row[OLD], used[LEN] | row[LEN], used[NEW] | row[NEW]]
        });
        let mut leaf = Self {
            bytes: Box::default(),
            old_base,
            new_base,
            runs: 0,
            widths: used.map(width_bytes),
        };
        leaf.bytes = vec![0; leaf.size_bytes(runs.len())].into_boxed_slice();
        leaf.set_len(runs.len());
        for (index, run) in runs.iter().enumerate() {
            leaf.put(index, row(run, old_base, new_base));
        }
        leaf
    }

    /// How many runs.
    pub(super) fn len(&self) -> usize {
        usize::from(self.runs)
    }

    /// What the packed slice takes, with what the usual allocators add (8 bytes in front, and
    /// sizes of a multiple of 16).
    pub(super) fn memory_bytes(&self) -> usize {
        (self.bytes.len() + 8).next_multiple_of(16)
    }

    /// Run number `index`, which must be less than `len`.
    pub(super) fn run(&self, index: usize) -> Run {
        let starts = self.starts(self.len());
        Run {
            old: OriginChunk::new(self.old_base + self.field(starts, OLD, index)),
            new: CowChunk::new(self.new_base + self.field(starts, NEW, index)),
            len: self.field(starts, LEN, index) + 1,
        }
    }

    /// How many runs begin at or before the origin chunk `old`.
    pub(super) fn begun(&self, old: u64) -> usize {
        let Some(delta) = old.checked_sub(self.old_base) else { return 0 };
        let width = usize::from(self.widths[OLD]);
        let mask = MASKS[width];
        let begun = |index: usize| self.word(index * width) & mask <= delta;
        // One field of every cache line or so first: these loads do not wait for each other, as
        // those of a search by halves would, each for a line that is far away.
        let probes = (PROBE..self.len()).step_by(PROBE);
        let from = PROBE * probes.map(|index| usize::from(begun(index))).sum::<usize>();
        let mut left = (self.len() - from).min(PROBE);
        let mut from = from;
        // Every step halves what is left, without a branch to predict.
        while left > 1 {
            let half = left / 2;
            from = if begun(from + half) { from + half } else { from };
            left -= half;
        }
        from + usize::from(left == 1 && begun(from))
    }

    /// The run that holds the origin chunk `old`, from that chunk on.
    pub(super) fn find(&self, old: u64) -> Option<Run> {
        let run = self.run(self.begun(old).checked_sub(1)?);
        let skip = old - run.old.get();
        (skip < run.len).then(|| rest(&run, skip))
    }

    /// Puts `with` in the place of the runs numbered `range`; the order must stay ascending.
    pub(super) fn splice(&mut self, range: Range<usize>, with: &[Run]) {
        if with.iter().all(|run| self.fits(run)) {
            self.reshape(range.clone(), with.len());
            for (index, run) in (range.start..).zip(with) {
                self.put(index, row(run, self.old_base, self.new_base));
            }
        } else {
            let mut runs = self.unpack();
            runs.splice(range, with.iter().copied());
            *self = Self::pack(&runs);
        }
    }

    /// Keeps the first `at` runs and returns the others, both packed anew. Neither part may be
    /// empty.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let runs = self.unpack();
        *self = Self::pack(&runs[..at]);
        Self::pack(&runs[at..])
    }

    /// Takes in the runs of `after`, all of which lie after this leaf's.
    pub(super) fn append(&mut self, after: &Self) {
        let mut runs = self.unpack();
        runs.extend((0..after.len()).map(|index| after.run(index)));
        *self = Self::pack(&runs);
    }

    fn unpack(&self) -> Vec<Run> {
        let mut runs = Vec::with_capacity(LEAF_RUNS + 2);
        runs.extend((0..self.len()).map(|index| self.run(index)));
        runs
    }

    /// Whether bases and widths suffice for `run`.
    fn fits(&self, run: &Run) -> bool {
        run.old.get() >= self.old_base
            && run.new.get() >= self.new_base
            && row(run, self.old_base, self.new_base)
                .into_iter()
                .zip(self.widths)
                .all(|(field, width)| field <= MASKS[usize::from(width)])
    }

    /// Makes room for `with` rows in the place of the rows `range`; the new rows hold garbage.
    fn reshape(&mut self, range: Range<usize>, with: usize) {
        let (before, tail) = (self.len(), self.len() - range.end);
        let after = range.start + with + tail;
        if after == before {
            return;
        }
        let (from, to) = (self.starts(before), self.starts(after));
        // Of every column the rows before the range and those after it, in memory's order.
        let moves = [OLD, LEN, NEW].map(|column| {
            let width = usize::from(self.widths[column]);
            let (from, to) = (from[column], to[column]);
            let behind = (from + range.end * width, to + (range.start + with) * width);
            [(from, to, range.start * width), (behind.0, behind.1, tail * width)]
        });
        // Growing, everything moves up: the last must go first. Shrinking is the reverse.
        if after > before {
            self.resize(after);
            moves.iter().flatten().rev().for_each(|&piece| self.shift(piece));
        } else {
            moves.iter().flatten().for_each(|&piece| self.shift(piece));
            self.resize(after);
        }
        self.set_len(after);
    }

    fn shift(&mut self, (from, to, len): (usize, usize, usize)) {
        self.bytes.copy_within(from..from + len, to);
    }

    fn resize(&mut self, runs: usize) {
        let size = self.size_bytes(runs);
        if size != self.bytes.len() {
            let mut bytes = std::mem::take(&mut self.bytes).into_vec();
            bytes.reserve_exact(size.saturating_sub(bytes.len()));
            bytes.resize(size, 0);
            self.bytes = bytes.into_boxed_slice();
        }
    }

    fn set_len(&mut self, runs: usize) {
        // A leaf is split as soon as it has more than LEAF_RUNS.
        self.runs = u16::try_from(runs).unwrap_or(u16::MAX);
    }

    fn size_bytes(&self, runs: usize) -> usize {
        let rows = self.widths.iter().map(|&width| usize::from(width) * runs).sum::<usize>();
        (rows + WORD_BYTES + 8).next_multiple_of(STEP_BYTES) - 8
    }

    /// Where each column begins when there are this many runs.
    fn starts(&self, runs: usize) -> [usize; 3] {
        let [old, len, _] = self.widths.map(usize::from);
        [0, old * runs, (old + len) * runs]
    }

    fn field(&self, starts: [usize; 3], column: usize, index: usize) -> u64 {
        let width = usize::from(self.widths[column]);
        self.word(starts[column] + index * width) & MASKS[width]
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; WORD_BYTES];
        word.copy_from_slice(&self.bytes[at..at + WORD_BYTES]);
        u64::from_le_bytes(word)
    }

    fn put(&mut self, index: usize, row: [u64; 3]) {
        let starts = self.starts(self.len());
        for column in [OLD, LEN, NEW] {
            let width = usize::from(self.widths[column]);
            let at = starts[column] + index * width;
            let word = self.word(at) & !MASKS[width] | row[column];
            self.bytes[at..at + WORD_BYTES].copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn row(run: &Run, old_base: u64, new_base: u64) -> [u64; 3] {
    [run.old.get() - old_base, run.len - 1, run.new.get() - new_base]
}

fn width_bytes(field: u64) -> u8 {
    const WIDTHS: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    WIDTHS[(u64::BITS - field.leading_zeros()).div_ceil(8) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(old: u64, new: u64, len: u64) -> Run {
        Run { old: OriginChunk::new(old), new: CowChunk::new(new), len }
    }

    fn runs(leaf: &Leaf) -> Vec<Run> {
        (0..leaf.len()).map(|index| leaf.run(index)).collect()
    }

    /// Runs whose fields need every combination of widths from 0 to 8 bytes.
    fn of_widths(old: u32, len: u32, new: u32) -> Vec<Run> {
        let largest = |bytes| if bytes == 0 { 0 } else { u64::MAX >> (64 - 8 * bytes) };
        let second = run(5, 2, 1);
        if old == 0 {
            return vec![run(0, 0, largest(len).saturating_add(1))];
        }
        let long = run(largest(old), largest(new), 1);
        let first = run(0, 0, largest(len).min(3) + 1);
        if old > 1 || new > 1 { vec![first, second, long] } else { vec![first, long] }
    }

    #[test]
    fn every_combination_of_widths_comes_back_as_packed() {
        for (old, len, new) in
            (0..=8).flat_map(|o| (0..=7).flat_map(move |l| (0..=8).map(move |n| (o, l, n))))
        {
            let want = of_widths(old, len, new);
            let leaf = Leaf::pack(&want);
            assert_eq!(runs(&leaf), want, "widths {old}, {len}, {new}");
            assert_eq!(leaf.bytes.len() % STEP_BYTES, STEP_BYTES - 8);
        }
    }

    #[test]
    fn isolated_chunks_take_no_bytes_for_their_lengths() {
        let leaf = Leaf::pack(&[run(7, 2, 1), run(9, 3, 1), run(300, 4, 1)]);
        assert_eq!(leaf.widths, [2, 0, 1]);
    }

    /// Every range of a leaf of five is replaced by none to three runs that fit, and by runs that
    /// need new widths or bases: always what a plain vector gives.
    #[test]
    fn splice_does_what_a_vector_does() {
        let five: Vec<_> = (0..5).map(|i| run(100 + i * 40, 50 + (i * 3) % 5, 1 + i % 3)).collect();
        let mut tried = 0;
        for (start, end) in (0..=5).flat_map(|s| (s..=5).map(move |e| (s, e))) {
            for (count, new) in (0..=3).flat_map(|c| [52, 0, u64::MAX].map(|n| (c, n))) {
                if end - start == 5 && count == 0 {
                    continue;
                }
                let low = if start == 0 { 90 } else { 100 + (start as u64 - 1) * 40 + 4 };
                let with: Vec<_> = (0..count).map(|i| run(low + i * 2, new, 1)).collect();
                let mut want = five.clone();
                want.splice(start..end, with.clone());
                let mut leaf = Leaf::pack(&five);
                leaf.splice(start..end, &with);
                assert_eq!(runs(&leaf), want, "{start}..{end} with {with:?}");
                for old in 85..300 {
                    let begun = want.iter().filter(|run| run.old.get() <= old).count();
                    assert_eq!(leaf.begun(old), begun, "{start}..{end} at {old}");
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 21 * 12 - 3);
    }

    #[test]
    fn a_leaf_takes_back_the_memory_of_removed_runs() {
        let many: Vec<_> = (0..LEAF_RUNS as u64).map(|i| run(i * 300, i, 1)).collect();
        let mut leaf = Leaf::pack(&many);
        let full = leaf.memory_bytes();
        leaf.splice(1..LEAF_RUNS, &[]);
        assert!(full > 380 && leaf.memory_bytes() == STEP_BYTES, "{full} bytes when full");
    }
}
