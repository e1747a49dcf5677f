use std::collections::BTreeSet;

use dmsnap_format::Exception;

use super::list::{Fate, Judge, List, walk};
use super::options::{Condition, RepairOptions};
use super::repeats::Repeat;
use super::treatment::Treatment;
use crate::device::Device;
use crate::ops::Error;
use crate::ops::finding::{Finding, Place};
use crate::ops::walk::Visitor;
use crate::store::{self, Damage, Fault, Judged, Severity};

/// What a repair would do, in numbers.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RepairPlan {
    /// There is nothing to do.
    pub sound: bool,
    /// Findings of severity damage.
    pub damaged: u64,
    /// In sectors; `None` if it is not known.
    pub chunk_size_sectors: Option<u32>,
    /// Exceptions that were found.
    pub exceptions: u64,
    /// Of those, the ones that the repaired store has.
    pub kept: u64,
    /// The least size of a device for a copy, in bytes.
    pub needed_bytes: u64,
    /// What the caller still has to agree to, or to say, before it can be done; the gravest first.
    pub needs: Vec<Condition>,
}

/// Tells findings with their treatments, and adds up what that takes.
pub(super) struct Teller<'o, F> {
    each: F,
    options: &'o RepairOptions,
    damaged: u64,
    needs: BTreeSet<Condition>,
}

impl<'o, F: FnMut(&Finding, &Treatment)> Teller<'o, F> {
    pub(super) fn new(options: &'o RepairOptions, each: F) -> Self {
        Self { each, options, damaged: 0, needs: BTreeSet::new() }
    }

    pub(super) fn tell(&mut self, finding: &Finding, treatment: &Treatment) {
        if finding.damage.severity() == Severity::Damage {
            self.damaged += 1;
        }
        if let Some(condition) = treatment.needs() {
            let is_met = match treatment {
                Treatment::Choose { keep, .. } => keep.is_some(),
                _ => self.options.meets(condition),
            };
            if !is_met {
                self.needs.insert(condition);
            }
        }
        (self.each)(finding, treatment);
    }

    /// Tells everything that is found in a list.
    pub(super) async fn list<C: Device>(&mut self, list: &List<'_, C>) -> Result<(), Error> {
        let judge = Judge::new(list.reader.extents());
        let mut telling = Telling { list, judge, left: None, teller: self };
        walk(&list.reader, &mut telling, true).await.map(|_| ())
    }

    /// The sum; without a list there is nothing to be repaired.
    pub(super) fn plan<C: Device>(self, list: Option<&List<'_, C>>) -> RepairPlan {
        let needs = self.needs.into_iter().collect();
        let plan = RepairPlan { damaged: self.damaged, needs, ..RepairPlan::default() };
        let Some(list) = list else { return plan };
        let layout = list.reader.layout();
        RepairPlan {
            chunk_size_sectors: Some(layout.chunk_size().sectors()),
            exceptions: list.found,
            kept: list.kept(),
            needed_bytes: layout
                .chunks_needed(list.kept())
                .saturating_mul(layout.chunk_size().bytes()),
            ..plan
        }
    }
}

/// The second reading: each finding gets its treatment.
struct Telling<'t, 'l, 'a, 'o, C, F> {
    list: &'l List<'a, C>,
    judge: Judge,
    /// The slots of the last stretch past a gap: area and end.
    left: Option<(u64, u64)>,
    teller: &'t mut Teller<'o, F>,
}

impl<C: Device, F: FnMut(&Finding, &Treatment)> Visitor for Telling<'_, '_, '_, '_, C, F> {
    fn exception(&mut self, index: u64, exception: Exception, judged: Judged) {
        let fate = self.judge.next(self.list, self.teller.options, (index, exception, judged));
        if fate == Fate::DropNewest {
            let place = store::Place::of(self.list.reader.layout(), index);
            let damage = Damage::MissingTerminator { cow_bytes: self.list.reader.cow_bytes() };
            let origin = self.list.origin_bytes(exception);
            self.teller.tell(&Finding::new(place, damage), &Treatment::DropNewest { origin });
        }
    }

    fn finding(&mut self, finding: Finding) {
        let mut treatment = self.list.treatment(&finding, self.teller.options);
        if let (Treatment::MoveUp { left, lost }, Damage::FrontZeroed { first, .. }) =
            (&mut treatment, finding.damage)
        {
            let area = finding.place.area.unwrap_or(0);
            let before = self.left.filter(|(of, _)| *of == area).map_or(0, |(_, end)| end);
            *lost = first - before;
            self.left = Some((area, first + *left));
        }
        self.teller.tell(&finding, &treatment);
    }
}

impl<C: Device> List<'_, C> {
    /// What is done about a finding.
    pub(super) fn treatment(&self, finding: &Finding, options: &RepairOptions) -> Treatment {
        let layout = self.reader.layout();
        match finding.damage {
            Damage::Header(_) | Damage::OddValidFlag { .. } => {
                Treatment::WriteHeader { chunk_size: layout.chunk_size() }
            }
            Damage::TooSmall { .. } => Treatment::NothingLeft,
            Damage::MissingTerminator { .. } if !self.reader.extents().has_area(0) => {
                Treatment::NothingLeft
            }
            Damage::MissingTerminator { .. } => Treatment::EndList,
            Damage::Invalid => Treatment::Revive,
            Damage::Exception { exception, fault, .. } => {
                self.of_exception(finding.place, exception, fault, options)
            }
            Damage::StraySlots { first, last, .. } => {
                Treatment::ZeroSlots { slots: last - first + 1 }
            }
            Damage::FrontZeroed { first, last, terminator } => {
                Treatment::MoveUp { left: last - first + 1, lost: first - terminator }
            }
            Damage::OriginChanged(_) => Treatment::LeaveOrigin { chunk_0: None },
            Damage::OriginBeginsWithHeader => Treatment::LeaveOrigin { chunk_0: self.chunk_0 },
            Damage::PartialChunk { .. }
            | Damage::StaleFirstArea
            | Damage::Holes { .. }
            | Damage::OutOfOrder { .. }
            | Damage::DroppedAtLastChunk
            | Damage::Full
            | Damage::KernelLosesLastChunk { .. } => Treatment::Leave,
        }
    }

    fn of_exception(
        &self,
        place: Place,
        exception: Exception,
        fault: Fault,
        options: &RepairOptions,
    ) -> Treatment {
        let (layout, extents) = (self.reader.layout(), self.reader.extents());
        let origin = self.origin_bytes(exception);
        let is_unseen = extents.origin_chunks.is_some_and(|end| exception.old.get() >= end);
        match fault {
            Fault::Device(_) if is_unseen => Treatment::DropUnseen,
            Fault::Device(_) => Treatment::Drop { origin },
            Fault::DuplicateNew => Treatment::CopyChunk,
            Fault::DuplicateOld => {
                let (area, slot) = (place.area.unwrap_or(0), place.slot.unwrap_or(0));
                match self.repeats.of(area * layout.exceptions_per_area() + slot, exception) {
                    Repeat::First => Treatment::KeepRepeat,
                    Repeat::Same => Treatment::DropRepeat,
                    Repeat::Differs => {
                        Treatment::Choose { origin, keep: self.repeats.keep(options.duplicates) }
                    }
                }
            }
        }
    }
}
