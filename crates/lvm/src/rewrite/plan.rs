use super::error::RewriteError;
use crate::area::{AREA_HEADER_BYTES, Area, TextPlace};
use crate::assemble::{CopyState, Group, GroupProblem, TextCopy};
use crate::bytes::{SECTOR_BYTES, checksum};
use crate::group::VolumeGroup;

const SECTOR: usize = 512;

/// One step of a rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Write `bytes` to the disk of this index, from byte `start` on. Whole sectors.
    Write {
        /// As the disks were given.
        disk: usize,
        /// In bytes from the start of the disk, partitions and all.
        start: u64,
        /// What to write there.
        bytes: Vec<u8>,
    },
    /// Make all writes to that disk durable before anything else is done.
    Flush {
        /// As the disks were given.
        disk: usize,
    },
}

/// A metadata area that gets the new text.
struct Target<'a> {
    disk: usize,
    /// Of the PV on its disk.
    base: u64,
    area: &'a Area,
    text: TextPlace,
}

impl Group {
    pub(super) fn steps(&self, text: &[u8]) -> Result<Vec<Step>, RewriteError> {
        let mut text = text.to_owned();
        text.push(0);
        let mut targets = Vec::new();
        for copy in self.copies.iter().filter(|copy| copy.is_used()) {
            if let (Some(area), Some(place)) = (&copy.area, self.places[copy.pv]) {
                let text = new_place(area, &text, &self.vg.pvs[copy.pv].name)?;
                targets.push(Target { disk: place.disk, base: place.place.start, area, text });
            }
        }
        if targets.is_empty() {
            return Err(RewriteError::NoArea);
        }
        let mut steps = Vec::new();
        for target in &targets {
            target.write_text(&text, &mut steps);
        }
        flush(&targets, &mut steps);
        for target in &targets {
            let precommitted = Some(target.text);
            target.write_header(&Area { precommitted, ..target.area.clone() }, &mut steps);
        }
        flush(&targets, &mut steps);
        for target in &targets {
            let (live, precommitted) = (Some(target.text), None);
            target.write_header(&Area { live, precommitted, ..target.area.clone() }, &mut steps);
            steps.push(Step::Flush { disk: target.disk });
        }
        Ok(steps)
    }

    /// The group as it is when all the steps of this text are done.
    pub(super) fn following(&self, text: &[u8]) -> Result<Self, RewriteError> {
        let vg = VolumeGroup::parse(text).map_err(|error| RewriteError::Check(Some(error)))?;
        let mut group = self.clone();
        (group.vg, group.text) = (vg, text.to_owned());
        let on_disk = [text, &[0]].concat();
        for copy in group.copies.iter_mut().filter(|copy| copy.is_used()) {
            if let Some(area) = &mut copy.area {
                area.live = Some(new_place(area, &on_disk, &self.vg.pvs[copy.pv].name)?);
                area.precommitted = None;
                copy.state = CopyState::Current;
            }
        }
        group.problems.retain(|problem| !matches!(problem, GroupProblem::OldText { .. }));
        Ok(group)
    }
}

impl TextCopy {
    /// Whether it gets every new text.
    fn is_used(&self) -> bool {
        matches!(self.state, CopyState::Current | CopyState::Differs)
    }
}

/// Each disk once.
fn flush(targets: &[Target<'_>], steps: &mut Vec<Step>) {
    let mut disks: Vec<_> = targets.iter().map(|target| target.disk).collect();
    disks.sort_unstable();
    disks.dedup();
    steps.extend(disks.into_iter().map(|disk| Step::Flush { disk }));
}

/// Behind the live text, from the next sector on, round the end of the buffer if need be.
///
/// Whole sectors are written; none of them holds a byte of the live text.
fn new_place(area: &Area, text: &[u8], pv: &str) -> Result<TextPlace, RewriteError> {
    let unaligned = || RewriteError::Unaligned { pv: pv.to_owned() };
    let place = area.place;
    if ![place.start, place.len].iter().all(|at| at.is_multiple_of(SECTOR_BYTES)) {
        return Err(unaligned());
    }
    let buffer = place.len - AREA_HEADER_BYTES;
    let needed = (text.len() as u64).next_multiple_of(SECTOR_BYTES);
    let (offset, free) = match area.live {
        None => (AREA_HEADER_BYTES, buffer),
        Some(live) => {
            let first = live.offset - live.offset % SECTOR_BYTES;
            let behind = (live.offset + live.size).next_multiple_of(SECTOR_BYTES);
            let offset = if behind >= place.len { behind - buffer } else { behind };
            (offset, buffer.saturating_sub(behind - first))
        }
    };
    if needed > free {
        return Err(RewriteError::Full { pv: pv.to_owned(), free, needed });
    }
    let (size, checksum) = (text.len() as u64, checksum(&[text]));
    Ok(TextPlace { area: place, offset, size, checksum })
}

impl Target<'_> {
    fn write_text(&self, text: &[u8], steps: &mut Vec<Step>) {
        let mut rest = text;
        for range in self.text.ranges() {
            let len = usize::try_from(range.end - range.start).unwrap_or(rest.len());
            let (part, behind) = rest.split_at(len.min(rest.len()));
            rest = behind;
            if !part.is_empty() {
                let mut bytes = part.to_owned();
                bytes.resize(part.len().next_multiple_of(SECTOR), 0);
                steps.push(Step::Write { disk: self.disk, start: self.base + range.start, bytes });
            }
        }
    }

    fn write_header(&self, area: &Area, steps: &mut Vec<Step>) {
        let start = self.base + area.place.start;
        steps.push(Step::Write { disk: self.disk, start, bytes: area.to_bytes() });
    }
}
