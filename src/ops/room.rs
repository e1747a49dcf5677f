use std::ops::Range;

use dmsnap_format::{Exception, Run};

use super::devices::whole_sectors;
use super::{Error, Which};
use crate::copy::union;
use crate::device::Device;
use crate::store::Loaded;

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
    /// Of a valid store that can be opened for writing; the list is read once. `origin_bytes` is the size of its
    /// snapshot. One that has lost exceptions is refused, unless it is to `force` them.
    pub(super) async fn of<C: Device>(
        cow: &C,
        origin_bytes: u64,
        force: bool,
    ) -> Result<Self, Error> {
        let mut runs: Vec<Run> = Vec::new();
        let visit = |exception: Exception| {
            if !runs.last_mut().is_some_and(|run| run.extend(exception)) {
                runs.push(exception.into());
            }
        };
        let mut loaded = Loaded::read(cow, Some(origin_bytes), visit).await?;
        if !force {
            loaded.refuse_lost_front().await?;
        }
        let chunk_bytes = loaded.layout().chunk_size().bytes();
        let range = |run: Run| run.old.get() * chunk_bytes..(run.old.get() + run.len) * chunk_bytes;
        let ranges = union(runs.into_iter().map(range).collect());
        let capacity = loaded.layout().capacity(whole_sectors(cow, Which::Cow)? / chunk_bytes);
        Ok(Self { chunk_bytes, room: capacity.saturating_sub(loaded.published()), ranges })
    }

    /// What it holds of the first bytes of the origin, this many.
    pub(super) fn before(&self, len_bytes: u64) -> Self {
        let within = self.ranges.iter().map(|range| range.start..range.end.min(len_bytes));
        Self { ranges: within.filter(|range| !range.is_empty()).collect(), ..*self }
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
        // Only what lies in the other snapshot, which may be smaller than its origin.
        let within = |bytes| holds(16384, 9, &[]).takes_over(&merging.before(bytes));
        assert_eq!(
            (within(9 * 4096 + 512), within(9 * 4096), within(4096)),
            ((2, true), (1, true), (0, true))
        );
        // And the other way round: 4 small ones for each large one, but for those it has.
        let merging = holds(16384, 0, &[3]);
        assert_eq!(holds(4096, 9, &[11, 12, 15, 16]).takes_over(&merging), (2, true));
    }
}
