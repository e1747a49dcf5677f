use std::cell::RefCell;
use std::ops::Range;

use crate::naive::SECTOR;

/// The sectors of a disk that have no place on the medium, and so read as zeroes.
#[derive(Debug)]
pub(crate) struct Holes(RefCell<Vec<bool>>);

impl Holes {
    /// Every sector of zeroes is one.
    pub(crate) fn of(content: &[u8]) -> Self {
        let holes = content.chunks(SECTOR).map(is_zero);
        Self(holes.collect::<Vec<_>>().into())
    }

    /// There is none any more.
    pub(crate) fn fill(&self) {
        self.0.borrow_mut().fill(false);
    }

    /// The disk has this length now; what is new is a hole.
    pub(crate) fn grow(&self, len: usize) {
        self.0.borrow_mut().resize(len.div_ceil(SECTOR), true);
    }

    /// The disk reads as this now: what lost its place has one again.
    pub(crate) fn see(&self, content: &[u8]) {
        for (hole, sector) in self.0.borrow_mut().iter_mut().zip(content.chunks(SECTOR)) {
            *hole &= is_zero(sector);
        }
    }

    /// A write fills the holes it meets; one that punches makes holes of the whole sectors it covers.
    pub(crate) fn mark(&self, range: &Range<usize>, punches: bool) {
        let sectors = match punches {
            true => range.start.div_ceil(SECTOR)..range.end / SECTOR,
            false => range.start / SECTOR..range.end.div_ceil(SECTOR),
        };
        if let Some(holes) = self.0.borrow_mut().get_mut(sectors) {
            holes.fill(punches);
        }
    }

    /// The first sector from `sector` on that is a hole, or is none.
    pub(crate) fn next(&self, sector: usize, hole: bool) -> Option<usize> {
        let holes = self.0.borrow();
        let found = holes.get(sector..)?.iter().position(|it| *it == hole);
        found.map(|n| sector + n)
    }
}

fn is_zero(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}
