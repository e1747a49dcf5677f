use std::cell::Cell;
use std::time::Duration;

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Discards.
    Trim,
    /// Zeroing.
    WriteZeroes,
    /// Flushes.
    Flush,
    /// Reading ahead.
    Cache,
    /// What a range is made of.
    BlockStatus,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Write,
        Self::Trim,
        Self::WriteZeroes,
        Self::Flush,
        Self::Cache,
        Self::BlockStatus,
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Trim => "trim",
            Self::WriteZeroes => "write_zeroes",
            Self::Flush => "flush",
            Self::Cache => "cache",
            Self::BlockStatus => "block_status",
        }
    }
}

/// Upper bounds of latencies, in microseconds: each four times the one before. Whatever took longer
/// than the last counts only as a request.
pub const LATENCY_MICROS: [u64; 12] = {
    let mut bounds = [4; 12];
    let mut n = 1;
    while n < bounds.len() {
        bounds[n] = bounds[n - 1] * 4;
        n += 1;
    }
    bounds
};

/// Requests of one kind, counted since the export was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many were answered.
    pub requests: u64,
    /// How many of them with an error.
    pub errors: u64,
    /// Bytes of their ranges.
    pub bytes: u64,
    /// What they took together, in nanoseconds.
    pub nanos: u64,
    /// How many took at most as long as the bound in [`LATENCY_MICROS`], and longer than the one
    /// before.
    pub latencies: [u64; LATENCY_MICROS.len()],
}

/// Counts what an export's clients ask for. Costs a few additions a request.
#[derive(Debug, Default)]
pub(crate) struct Meter([Cell<Counts>; Kind::ALL.len()]);

impl Meter {
    /// A request about a range of `bytes` was answered.
    pub(crate) fn count(&self, kind: Kind, bytes: u64, took: Duration, failed: bool) {
        let cell = &self.0[kind as usize];
        let mut counts = cell.get();
        counts.requests += 1;
        counts.errors += u64::from(failed);
        counts.bytes += bytes;
        counts.nanos += u64::try_from(took.as_nanos()).unwrap_or(0);
        if let Some(bucket) = counts.latencies.get_mut(bucket(took)) {
            *bucket += 1;
        }
        cell.set(counts);
    }

    /// What was counted so far, kind by kind as in [`Kind::ALL`].
    pub(crate) fn counts(&self) -> [Counts; Kind::ALL.len()] {
        Kind::ALL.map(|kind| self.0[kind as usize].get())
    }
}

/// The first bound of [`LATENCY_MICROS`] that is not below: `4^(n + 1)`, without a search.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    let power = u64::BITS - micros.saturating_sub(1).leading_zeros();
    (power.div_ceil(2) as usize).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_falls_into_the_first_bucket_that_holds_it() {
        for nanos in (0..80_000).chain([1 << 24, (1 << 24) + 1, 1 << 34, u64::MAX]) {
            let found = bucket(Duration::from_nanos(nanos));
            let wanted = LATENCY_MICROS.iter().position(|bound| nanos <= bound * 1000);
            assert_eq!(Some(found).filter(|n| *n < LATENCY_MICROS.len()), wanted, "{nanos} ns");
        }
    }

    #[test]
    fn requests_are_counted_by_kind() {
        let meter = Meter::default();
        meter.count(Kind::Read, 512, Duration::from_micros(3), false);
        meter.count(Kind::Read, 1024, Duration::from_secs(60), true);
        let counts = meter.counts();
        let read = counts[Kind::Read as usize];
        assert_eq!((read.requests, read.errors, read.bytes), (2, 1, 1536));
        assert_eq!((read.latencies[0], read.latencies.iter().sum::<u64>()), (1, 1));
        assert_eq!(counts.iter().map(|it| it.requests).sum::<u64>(), 2);
    }
}
