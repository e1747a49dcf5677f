use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use super::Error;
use crate::copy::Joined;

/// Which differences are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffPage {
    /// From this byte on. A range that begins before is cut.
    pub from: u64,
    /// At most this many ranges; `None` for all.
    pub most: Option<NonZeroU64>,
}

/// What was told of the differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Differences {
    /// How many ranges.
    pub ranges: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where the next range begins, if there were more than were asked for.
    pub next: Option<u64>,
}

/// Tells ranges that come in order to the caller, joined, until the page is full.
pub(super) struct Teller<F> {
    each: F,
    most: Option<NonZeroU64>,
    joined: Joined<u64>,
    told: Differences,
}

impl<F: FnMut(Range<u64>) -> io::Result<()>> Teller<F> {
    pub(super) fn new(most: Option<NonZeroU64>, each: F) -> Self {
        Self { each, most, joined: Joined::default(), told: Differences::default() }
    }

    /// False once the page is full.
    pub(super) fn take(&mut self, range: Range<u64>) -> Result<bool, Error> {
        let Some(whole) = self.joined.push(range) else { return Ok(true) };
        self.tell(whole)?;
        if self.is_full() {
            self.told.next = self.joined.finish().map(|next| next.start);
        }
        Ok(!self.is_full())
    }

    /// As many ranges were told as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.most.is_some_and(|most| most.get() == self.told.ranges)
    }

    pub(super) fn end(mut self) -> Result<Differences, Error> {
        if let Some(last) = self.joined.finish() {
            self.tell(last)?;
        }
        Ok(self.told)
    }

    fn tell(&mut self, range: Range<u64>) -> Result<(), Error> {
        self.told.ranges += 1;
        self.told.bytes += range.end - range.start;
        (self.each)(range).map_err(Error::Consumer)
    }
}
