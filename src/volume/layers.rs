use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::SECTOR_BYTES;

use super::snapshot::Snapshot;
use super::{View, Volume, VolumeError};
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

/// Looks up what holds the stretches of a view.
///
/// The answer for a place is one that was right at some moment since the question began, or it is
/// [`Layer::Saved`] or [`Layer::Origin`], which promise nothing. That takes no lock:
///
/// 1. what has an exception before the origin is asked is [`Layer::Saved`]
/// 2. the origin is asked
/// 3. what has an exception now is [`Layer::Saved`]
///
/// Whoever changes the origin makes an exception first, in every snapshot that shows the origin there.
/// So a place without one in 3 is what the origin said in 2. The other way round, an exception only
/// goes away when a merge has brought its chunk to the origin; the volume counts that, and what was
/// asked before it is asked again.
pub(super) struct Layers<'a, O, C> {
    view: &'a View<O, C>,
    /// The origin's last answer: a file system takes its time, and a scattered snapshot asks for each
    /// gap.
    known: Option<Known>,
}

struct Known {
    asked: u64,
    /// [`Volume::moved`] before.
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

impl<'a, O: Device, C: Device> Layers<'a, O, C> {
    pub(super) fn new(view: &'a View<O, C>) -> Self {
        Self { view, known: None }
    }

    /// What holds the byte `at`, and where that ends: behind `at`, and not behind `end`.
    pub(super) async fn at(&mut self, at: u64, end: u64) -> io::Result<(u64, Layer)> {
        let volume = self.view.volume();
        let mut attempts = 0;
        loop {
            let moved = volume.moved.get();
            let before = self.view.saved(at, end)?;
            if before.start == at {
                return Ok((before.end, Layer::Saved));
            }
            let known = match self.known.take() {
                Some(known) if known.moved == moved && known.answers(at) => known,
                _ => self.ask(at, moved).await?,
            };
            let steady = volume.moved.get() == moved;
            attempts += 1;
            if !steady && attempts < ATTEMPTS {
                continue;
            }
            let saved = match planted(Planted::StatusOfTwoMoments) {
                true => before,
                false => self.view.saved(at, end)?,
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
        let data = self.view.volume().next_origin_data(at).await?;
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

impl<O: Device, C: Device> View<O, C> {
    /// What holds a range: lengths in bytes, one after the other from the beginning of the range on, at most
    /// `most` of them (at least one), no two neighbours alike. Each was right at some moment of the call;
    /// what changed meanwhile may be called data.
    ///
    /// # Errors
    ///
    /// A range past the end; a snapshot that was dropped, before or meanwhile; an error of the origin.
    pub async fn layers(&self, range: Range<u64>, most: usize) -> io::Result<Vec<(u64, Layer)>> {
        self.within(range.start, range.end.saturating_sub(range.start))?;
        let mut layers = Layers::new(self);
        let mut found: Vec<(u64, Layer)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (end, layer) = layers.at(at, range.end).await?;
            let is_full = found.len() >= most.max(1);
            match found.last_mut() {
                Some((len, before)) if *before == layer => *len += end - at,
                _ if is_full => break,
                _ => found.push((end - at, layer)),
            }
            at = end;
        }
        self.usable()?;
        Ok(found)
    }

    /// The next stretch at or after `at` that is no hole.
    pub(super) async fn next_no_hole(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let end = self.len();
        let mut layers = Layers::new(self);
        let mut at = at;
        while at < end {
            let (upto, layer) = layers.at(at, end).await?;
            if layer != Layer::Hole {
                return Ok(Some(at..upto));
            }
            at = upto;
        }
        self.usable()?;
        Ok(None)
    }
}

impl<O: Device, C: Device> Volume<O, C> {
    /// Where the origin, as its clients see it, may differ from what it was when `snapshot` was made: lengths
    /// in bytes, one after the other from the beginning of the range on, at most `most` of them (at
    /// least one), no two neighbours alike. What is called unchanged is so at the moment of the call.
    ///
    /// Changed is what has an exception; what waits in memory to be written; what another snapshot that
    /// merges holds, because the origin shows that; and whatever lies past the end of the snapshot.
    ///
    /// # Errors
    ///
    /// [`VolumeError::ChangesUnknown`] of one that cannot tell ([`tells_changes`](Self::tells_changes)).
    pub fn changes(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, VolumeError> {
        if !self.tells_changes(snapshot) {
            return Err(VolumeError::ChangesUnknown);
        }
        let merging = self.merging_with(None);
        let merging = merging.as_ref().filter(|_| !planted(Planted::BitmapForgetsMerge));
        let sources: [&dyn Fn(u64) -> Option<Range<u64>>; 4] = [
            &|at| snapshot.next_saved(at),
            &|at| merging.and_then(|it| it.snapshot.next_saved(at)),
            &|at| self.backlog.next(at),
            &|at| Some(at.max(snapshot.len_bytes())..u64::MAX),
        ];
        let mut found: Vec<(u64, bool)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next = || sources.iter().filter_map(|source| source(at));
            let covered = next().filter(|it| it.start <= at).map(|it| it.end).max();
            let end =
                covered.unwrap_or_else(|| next().map(|it| it.start).min().unwrap_or(range.end));
            let (len, changed) = (end.min(range.end) - at, covered.is_some());
            let is_full = found.len() >= most.max(1);
            match found.last_mut() {
                Some((before, kind)) if *kind == changed => *before += len,
                _ if is_full => break,
                _ => found.push((len, changed)),
            }
            at += len;
        }
        Ok(found)
    }

    /// Can a snapshot tell what has changed since it was made? Not one that was dropped or taken out:
    /// nobody makes exceptions for it any more. Nor one whose merge was begun, whatever became of that:
    /// from then on it and the origin changed together, and its exceptions went away.
    pub fn tells_changes(&self, snapshot: &Rc<Snapshot<C>>) -> bool {
        let is_there = self.snapshots.borrow().iter().any(|it| Rc::ptr_eq(it, snapshot));
        is_there && snapshot.usable().is_ok() && !snapshot.was_merged.get()
    }
}
