use std::io;
use std::ops::Range;

use dmsnap_format::SECTOR_BYTES;

use super::extents::Extents;
use super::merging::Merges;
use super::origin::Origin;
use crate::device::Device;
use crate::planted::{Planted, planted};

/// How often a stretch is looked at anew because a merge has moved data meanwhile. After that it counts
/// as data.
const ATTEMPTS: u32 = 8;

/// What holds a stretch of a device of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A COW device. It counts as data, also where it holds zeroes.
    Saved,
    /// The origin, which may hold something else than zeroes there.
    Origin,
    /// The origin, which has a hole there: it reads as zeroes.
    Hole,
}

/// Looks up what holds the stretches of a device of a volume.
///
/// The answer for a place is one that was right at some moment since the question began, or it is
/// [`Layer::Saved`] or [`Layer::Origin`], which promise nothing. That takes no lock:
///
/// 1. what has an exception before the origin is asked is [`Layer::Saved`]
/// 2. the origin is asked
/// 3. what has an exception now is [`Layer::Saved`]
///
/// Who changes the origin makes an exception first, in every snapshot that shows the origin there.
/// So a place without one in 3 is what the origin said in 2. The other way round, an exception only
/// goes away when a merge has brought its chunk to the origin; the volume counts that, and what was
/// asked before it is asked again.
pub(super) struct Layers<'a, O, C, S> {
    origin: &'a Origin<O>,
    merges: &'a Merges<C>,
    /// The first stretch from a position on that a COW device holds; empty, at the given end, if there is
    /// none before.
    saved: S,
    /// The origin's last answer: a file system takes its time, and a scattered snapshot asks for each
    /// gap.
    known: Option<Known>,
}

struct Known {
    asked: u64,
    /// [`Merges::moved`] before.
    moved: u64,
    data: Option<Range<u64>>,
}

impl Known {
    fn answers(&self, at: u64) -> bool {
        self.asked <= at && self.data.as_ref().is_none_or(|data| at < data.end)
    }

    /// Where what is at `at` ends, and what it is.
    fn at(&self, at: u64) -> (u64, Layer) {
        match &self.data {
            Some(data) if data.start <= at => (data.end, Layer::Origin),
            Some(data) => (data.start, Layer::Hole),
            None => (u64::MAX, Layer::Hole),
        }
    }
}

impl<'a, O, C, S> Layers<'a, O, C, S>
where
    O: Device,
    S: Fn(u64, u64) -> io::Result<Range<u64>>,
{
    pub(super) fn new(origin: &'a Origin<O>, merges: &'a Merges<C>, saved: S) -> Self {
        Self { origin, merges, saved, known: None }
    }

    /// What holds a range: lengths in bytes, at most `most` of them.
    pub(super) async fn list(
        mut self,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<(u64, Layer)>> {
        let mut found = Extents::at_most(most);
        let mut at = range.start;
        while at < range.end {
            let (end, layer) = self.at(at, range.end).await?;
            if !found.push(end - at, layer) {
                break;
            }
            at = end;
        }
        Ok(found.into_vec())
    }

    /// The next stretch at or after `at`, and before `end`, that is not a hole.
    pub(super) async fn next_data(mut self, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = at;
        while at < end {
            let (upto, layer) = self.at(at, end).await?;
            if layer != Layer::Hole {
                return Ok(Some(at..upto));
            }
            at = upto;
        }
        Ok(None)
    }

    /// What holds the byte `at`, and where that ends: past `at`, and not past `end`.
    async fn at(&mut self, at: u64, end: u64) -> io::Result<(u64, Layer)> {
        let mut attempts = 0;
        loop {
            let moved = self.merges.moved();
            let before = (self.saved)(at, end)?;
            if before.start == at {
                return Ok((before.end, Layer::Saved));
            }
            let known = match self.known.take() {
                Some(known) if known.moved == moved && known.answers(at) => known,
                _ => self.ask(at, moved).await?,
            };
            let steady = self.merges.moved() == moved;
            attempts += 1;
            if !steady && attempts < ATTEMPTS {
                continue;
            }
            let saved = match planted(Planted::StatusOfTwoMoments) {
                true => before,
                false => (self.saved)(at, end)?,
            };
            if saved.start == at {
                return Ok((saved.end, Layer::Saved));
            }
            let (upto, layer) = known.at(at);
            self.known = Some(known);
            let layer = if steady { layer } else { Layer::Origin };
            return Ok((upto.min(saved.start), layer));
        }
    }

    async fn ask(&self, at: u64, moved: u64) -> io::Result<Known> {
        let data = self.origin.next_data(at).await?;
        if data.as_ref().is_some_and(|data| data.end <= at) {
            return Err(io::Error::other(
                "the device names data before the place that was asked for",
            ));
        }
        // A sector with any data in it is data.
        let whole = |data: Range<u64>| {
            let end = data.end.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(u64::MAX);
            data.start / SECTOR_BYTES * SECTOR_BYTES..end
        };
        Ok(Known { asked: at, moved, data: data.map(whole) })
    }
}
