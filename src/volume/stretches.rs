use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::copy::index;
use crate::device::{ALIGNMENT, Buffer};

/// Memory that a stretch takes besides its data, in bytes: what aligns it, and its place in the tree.
pub(super) const OVERHEAD_BYTES: u64 = ALIGNMENT as u64 + 128;

/// Data at places, none over another.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    by_start: BTreeMap<u64, Bytes>,
    /// The memory they take.
    bytes: u64,
}

fn end_of((start, data): (&u64, &Bytes)) -> u64 {
    start + data.len() as u64
}

impl Stretches {
    pub(super) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// The memory they take, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    /// Each with where it begins, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        self.by_start.iter().map(|(start, data)| (*start, data))
    }

    /// Puts data over whatever is there.
    pub(super) fn put(&mut self, at: u64, data: Bytes) {
        let end = at + data.len() as u64;
        let before = self.by_start.range(..at).next_back().filter(|it| end_of(*it) > at);
        let covered: Vec<u64> = before
            .map(|(start, _)| *start)
            .into_iter()
            .chain(self.by_start.range(at..end).map(|(start, _)| *start))
            .collect();
        for start in covered {
            let Some(old) = self.by_start.remove(&start) else { continue };
            self.bytes -= old.len() as u64 + OVERHEAD_BYTES;
            let old_end = start + old.len() as u64;
            // What stays is copied: it must not keep the memory of the whole.
            if start < at {
                self.insert(start, Buffer::copy_of(&old[..index(at - start)]).freeze());
            }
            if old_end > end {
                self.insert(end, Buffer::copy_of(&old[index(end - start)..]).freeze());
            }
        }
        self.insert(at, data);
    }

    /// Puts all of `newer` over what is there.
    pub(super) fn put_all(&mut self, newer: Self) {
        for (at, data) in newer.by_start {
            self.put(at, data);
        }
    }

    fn insert(&mut self, at: u64, data: Bytes) {
        self.bytes += data.len() as u64 + OVERHEAD_BYTES;
        self.by_start.insert(at, data);
    }

    /// The first that ends after `at`.
    pub(super) fn next(&self, at: u64) -> Option<Range<u64>> {
        let before = self.by_start.range(..=at).next_back().filter(|it| end_of(*it) > at);
        let next = before.or_else(|| self.by_start.range(at..).next());
        next.map(|it| *it.0..end_of(it))
    }

    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        self.next(range.start).is_some_and(|next| next.start < range.end)
    }

    /// The parts inside a range.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let Some(first) = self.next(range.start) else { return Vec::new() };
        let parts = self.by_start.range(first.start..range.end.max(first.start));
        parts
            .map(|(start, data)| {
                let (from, to) =
                    (range.start.max(*start), range.end.min(start + data.len() as u64));
                (from, data.slice(index(from - start)..index(to - start)))
            })
            .collect()
    }

    /// How many chunks of this size they touch; those that two of them touch count twice.
    pub(super) fn chunks(&self, chunk_bytes: u64) -> u64 {
        let touched = |it: (&u64, &Bytes)| end_of(it).div_ceil(chunk_bytes) - it.0 / chunk_bytes;
        self.by_start.iter().map(touched).sum()
    }

    /// At least that many, found without looking at each.
    pub(super) fn most_chunks(&self, chunk_bytes: u64) -> u64 {
        let stretches = self.by_start.len() as u64;
        // One that does not begin with a chunk touches one more.
        (self.bytes - stretches * OVERHEAD_BYTES) / chunk_bytes + 2 * stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random writes over each other against a plain array.
    #[test]
    fn stretches_hold_what_was_put_last() {
        const LEN: usize = 200;
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut below = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % end
        };
        for _ in 0..200 {
            let (mut stretches, mut plain) = (Stretches::default(), [None; LEN]);
            for n in 0..30_u8 {
                let at = below(LEN as u64 - 1);
                let len = 1 + below((LEN as u64 - at).min(40));
                stretches.put(at, Bytes::from(vec![n; index(len)]));
                plain[index(at)..index(at + len)].fill(Some(n));
                let from = below(LEN as u64 - 1);
                let range = from..from + 1 + below(LEN as u64 - from);
                let mut seen = [None; LEN];
                for (start, data) in stretches.within(&range) {
                    for (n, byte) in data.iter().enumerate() {
                        assert_eq!(seen[index(start) + n].replace(*byte), None, "twice");
                    }
                }
                let inside = index(range.start)..index(range.end);
                assert_eq!(seen[inside.clone()], plain[inside.clone()]);
                let any = plain[inside].iter().any(Option::is_some);
                assert_eq!(stretches.touches(&range), any, "{range:?}");
            }
            let memory = stretches.by_start.values().map(|it| it.len() as u64 + OVERHEAD_BYTES);
            assert_eq!(stretches.bytes, memory.sum::<u64>());
        }
    }
}
