use std::ops::Range;

use dmsnap::device::Device;
use dmsnap::format::SECTOR_BYTES;
use dmsnap::ops::{self, Error};

/// What a store holds of its origin.
#[derive(Debug)]
pub(super) struct Holdings {
    chunk_bytes: u64,
    /// Exceptions that still fit.
    room: u64,
    /// Bytes of the origin, ascending, none twice.
    ranges: Vec<Range<u64>>,
}

impl Holdings {
    pub(super) async fn of<C: Device>(cow: &C) -> Result<Self, Error> {
        let info = ops::info(cow).await?;
        let chunk_bytes = u64::from(info.chunk_size_sectors) * SECTOR_BYTES;
        let mut ranges = Vec::new();
        ops::dump(cow, |run| {
            let end = run.old.saturating_add(run.len);
            ranges.push(run.old.saturating_mul(chunk_bytes)..end.saturating_mul(chunk_bytes));
            Ok(())
        })
        .await?;
        let room = info.capacity_exceptions.saturating_sub(info.exceptions);
        Ok(Self { chunk_bytes, room, ranges: union(ranges) })
    }

    /// How many chunks this store has to take over before all that `merging` holds is written to
    /// the origin, and whether they fit.
    pub(super) fn takes_over(&self, merging: &Self) -> (u64, bool) {
        let in_chunks = |ranges: &[Range<u64>]| {
            let chunk = self.chunk_bytes;
            union(ranges.iter().map(|it| it.start / chunk..it.end.div_ceil(chunk)).collect())
        };
        let comes = in_chunks(&merging.ranges);
        let all: u64 = comes.iter().map(|range| range.end - range.start).sum();
        let chunks = all - common(&comes, &in_chunks(&self.ranges));
        (chunks, chunks <= self.room)
    }
}

/// What lies in any of these ranges: ascending, none twice.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match whole.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => whole.push(range),
        }
    }
    whole
}

/// How much lies in both.
fn common(a: &[Range<u64>], b: &[Range<u64>]) -> u64 {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut sum = 0;
    while let (Some(first), Some(second)) = (a.peek(), b.peek()) {
        let (start, end) = (first.start.max(second.start), first.end.min(second.end));
        sum += end.saturating_sub(start);
        if first.end < second.end {
            a.next()
        } else {
            b.next()
        };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(chunk_bytes: u64, room: u64, chunks: &[u64]) -> Holdings {
        let range = |chunk: &u64| chunk * chunk_bytes..(chunk + 1) * chunk_bytes;
        Holdings { chunk_bytes, room, ranges: union(chunks.iter().map(range).collect()) }
    }

    #[test]
    fn a_store_takes_over_what_it_does_not_hold_in_its_own_chunks() {
        // Chunks 1, 2, 9 and 40 of 4 KiB lie in chunks 0, 2 and 10 of 16 KiB.
        let merging = holds(4096, 0, &[9, 2, 1, 40]);
        assert_eq!(holds(16384, 3, &[]).takes_over(&merging), (3, true));
        assert_eq!(holds(16384, 2, &[]).takes_over(&merging), (3, false));
        assert_eq!(holds(16384, 2, &[10, 7]).takes_over(&merging), (2, true));
        assert_eq!(holds(16384, 0, &[10, 2, 0]).takes_over(&merging), (0, true));
        // And the other way round: 4 small ones for each large one, but for those it has.
        let merging = holds(16384, 0, &[3]);
        assert_eq!(holds(4096, 9, &[11, 12, 15, 16]).takes_over(&merging), (2, true));
    }
}
