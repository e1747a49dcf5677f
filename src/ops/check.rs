use std::collections::BTreeMap;

use dmsnap_format::{Exception, HeaderError, RawHeader};
use serde::Serialize;

use super::finding::{Finding, Place, Severity};
use super::strays::each_stretch;
use super::survey::{Survey, has_magic, whole_sectors};
use super::{Error, Which};
use crate::device::Device;
use crate::store::{self, End, Fault, Ledger, StoreError, read_exceptions};

/// Repeated chunks whose first slots are looked up; of more, only the later slot is named.
const LOOK_UP: usize = 4096;

/// The sum of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// True if nothing is damaged.
    pub sound: bool,
    /// Findings of severity damage.
    pub damaged: u64,
    /// Findings of severity note.
    pub notes: u64,
    /// Exceptions; `None` if the header already was beyond use.
    pub exceptions: Option<u64>,
    /// Data chunks no exception uses, below the next free one.
    pub holes: Option<u64>,
    /// Exceptions that are not where an in-order writer would have put them.
    pub out_of_order: Option<u64>,
    /// Areas read.
    pub areas: Option<u64>,
}

/// Reads header and areas and tells every finding to `each`, as it is found. Writes nothing.
///
/// With the origin at hand, exceptions are held against its size as well, and it is looked at for
/// what a failed merge of the kernel leaves there.
///
/// # Errors
///
/// An error of a device; devices that look swapped. Whatever is wrong with the bytes is no error
/// but a finding.
pub async fn check<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    each: impl FnMut(Finding),
) -> Result<Report, Error> {
    let mut check = Check { each, report: Report::default() };
    let origin_bytes = match origin {
        Some(origin) => {
            check.origin(cow, origin).await?;
            Some(whole_sectors(origin, Which::Origin)?)
        }
        None => None,
    };
    match Survey::of(cow, origin_bytes).await {
        Ok(survey) => check.store(cow, &survey).await?,
        Err(Error::Header(error)) => check.tell(Finding::header(error)),
        Err(Error::Store(error @ StoreError::TooSmall { .. })) => {
            check.tell(Finding::damage("truncated", Place::HEADER, error.to_string()));
        }
        Err(error) => return Err(error),
    }
    check.report.sound = check.report.damaged == 0;
    Ok(check.report)
}

struct Check<F> {
    each: F,
    report: Report,
}

/// Exceptions that repeat an earlier one, and where the earlier ones are.
#[derive(Default)]
struct Repeated {
    found: Vec<(store::Place, Exception, Fault)>,
    first_old: BTreeMap<u64, store::Place>,
    first_new: BTreeMap<u64, store::Place>,
}

impl<F: FnMut(Finding)> Check<F> {
    fn tell(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Damage => self.report.damaged += 1,
            Severity::Note => self.report.notes += 1,
        }
        (self.each)(finding);
    }

    async fn origin<C: Device, O: Device>(&mut self, cow: &C, origin: &O) -> Result<(), Error> {
        if !has_magic(origin, Which::Origin).await? {
            return Ok(());
        }
        if !has_magic(cow, Which::Cow).await? {
            return Err(Error::Swapped);
        }
        self.tell(Finding::damage(
            "origin-begins-with-header",
            Place::NOWHERE,
            "the origin begins with a store's header: kernels copy it there when a merge goes on \
             after a failed write to the COW device (or this is a COW device itself)"
                .into(),
        ));
        Ok(())
    }

    async fn store<C: Device>(&mut self, cow: &C, survey: &Survey) -> Result<(), Error> {
        self.header(cow, survey).await?;
        let layout = survey.layout;
        let mut ledger = Ledger::new(survey.extents);
        let mut repeated = Repeated::default();
        let (count, end) = read_exceptions(cow, survey.extents, |index, exception| {
            let place = store::Place::of(layout, index);
            match ledger.admit(exception) {
                Ok(()) => {}
                Err(fault @ Fault::Device(_)) => {
                    let in_step = exception.new == layout.lock_step_chunk(index);
                    self.tell(Finding::exception(place, exception, fault, in_step, None));
                    // In step, it is what a writer of this store put there.
                    if index == 0 && !in_step {
                        self.tell(stale_first_area());
                    }
                }
                Err(fault) if repeated.found.len() < LOOK_UP => {
                    repeated.found.push((place, exception, fault));
                }
                Err(fault) => self.tell(Finding::exception(place, exception, fault, false, None)),
            }
            Ok::<_, Error>(())
        })
        .await?;
        self.repeated(cow, survey, repeated).await?;
        // An area that lies beyond the end cannot have been read.
        let mut areas = layout.position(count).0;
        match end {
            End::Terminator => {
                areas += 1;
                self.strays(cow, survey, count).await?;
            }
            End::Missing { area } => self.tell(Finding::damage(
                "missing-terminator",
                Place {
                    chunk: Some(layout.area_location(area).get()),
                    area: Some(area),
                    slot: None,
                },
                format!(
                    "the list of exceptions goes on here, but the device ends at {} bytes: it was \
                     cut off, or a kernel filled it to the last chunk",
                    survey.cow_bytes
                ),
            )),
        }
        self.report.areas = Some(areas);
        self.sums(survey, &ledger);
        Ok(())
    }

    async fn header<C: Device>(&mut self, cow: &C, survey: &Survey) -> Result<(), Error> {
        let bytes = cow.read(0, 512).await.map_err(Error::io(Which::Cow, "cannot read"))?;
        let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
        if !survey.header.valid {
            self.tell(Finding::damage(
                "invalid",
                Place::HEADER,
                "the snapshot was dropped: the origin may have changed since without copies".into(),
            ));
        } else if raw.valid.get() != 1 {
            let message = format!("the valid flag is {}; kernels take that for 1", raw.valid.get());
            self.tell(Finding::note("odd-valid-flag", Place::HEADER, message));
        }
        let chunk = survey.layout.chunk_size().bytes();
        if !survey.cow_bytes.is_multiple_of(chunk) {
            let message = format!(
                "the device ends {} bytes into a chunk: these are never used (normal, unless the \
                 file was cut short)",
                survey.cow_bytes % chunk
            );
            let place = Place { chunk: Some(survey.extents.cow_chunks), area: None, slot: None };
            self.tell(Finding::note("partial-chunk", place, message));
        }
        Ok(())
    }

    /// Names both slots of everything that occurs twice: the earlier ones take a second reading.
    async fn repeated<C: Device>(
        &mut self,
        cow: &C,
        survey: &Survey,
        mut repeated: Repeated,
    ) -> Result<(), Error> {
        if repeated.found.is_empty() {
            return Ok(());
        }
        let nowhere = store::Place { chunk: 0, area: 0, slot: 0 };
        for (_, exception, fault) in &repeated.found {
            match fault {
                Fault::DuplicateOld => repeated.first_old.insert(exception.old.get(), nowhere),
                _ => repeated.first_new.insert(exception.new.get(), nowhere),
            };
        }
        read_exceptions(cow, survey.extents, |index, exception| {
            let here = store::Place::of(survey.layout, index);
            for first in [
                repeated.first_old.get_mut(&exception.old.get()),
                repeated.first_new.get_mut(&exception.new.get()),
            ] {
                if let Some(first) = first.filter(|first| **first == nowhere) {
                    *first = here;
                }
            }
            Ok::<_, Error>(())
        })
        .await?;
        for (place, exception, fault) in repeated.found {
            let earlier = match fault {
                Fault::DuplicateOld => repeated.first_old.get(&exception.old.get()),
                _ => repeated.first_new.get(&exception.new.get()),
            };
            self.tell(Finding::exception(place, exception, fault, false, earlier.copied()));
        }
        Ok(())
    }

    /// What lies behind the terminator: one finding for each stretch of slots.
    async fn strays<C: Device>(
        &mut self,
        cow: &C,
        survey: &Survey,
        terminator: u64,
    ) -> Result<(), Error> {
        each_stretch(cow, survey.layout, terminator, |stretch| {
            self.tell(stretch.finding(survey.layout, terminator));
        })
        .await
    }

    fn sums(&mut self, survey: &Survey, ledger: &Ledger) {
        let (tally, layout) = (ledger.tally(), survey.layout);
        let chunks = survey.extents.cow_chunks;
        let exceptions = tally.exceptions();
        self.report.exceptions = Some(exceptions);
        self.report.holes = Some(tally.holes());
        self.report.out_of_order = Some(ledger.out_of_order());
        // With damage in it the list says nothing about who wrote it, and how.
        let sound = self.report.damaged == 0;
        if tally.holes() > 0 && sound {
            let message =
                format!("{} data chunks are used by no exception: lost room", tally.holes());
            self.tell(Finding::note("holes", Place::NOWHERE, message));
        }
        if ledger.out_of_order() > 0 && sound {
            let message = format!(
                "{} exceptions are not where an in-order writer puts them: written before 2013, or \
                 by something else than a kernel",
                ledger.out_of_order()
            );
            self.tell(Finding::note("out-of-order", Place::NOWHERE, message));
        }
        let hazard = layout.kernel_loses_last_chunk(chunks);
        let full = exceptions > 0 && exceptions >= layout.capacity(chunks);
        match (survey.header.valid, hazard, full) {
            (false, true, true) => self.tell(Finding::note(
                "dropped-at-last-chunk",
                Place::NOWHERE,
                "kernels drop a snapshot of this size when its last chunk is filled, by a defect \
                 of their own: that is what happened here, and all exceptions are whole"
                    .into(),
            )),
            (true, _, true) if sound => self.tell(Finding::note(
                "full",
                Place::NOWHERE,
                "the store is full. Had a kernel dropped the snapshot for that, a power cut could \
                 have lost the mark, which it writes without a flush"
                    .into(),
            )),
            (true, true, false) => self.tell(Finding::note(
                "kernel-loses-last-chunk",
                Place::NOWHERE,
                format!(
                    "with {chunks} chunks a kernel drops the snapshot when the last one is filled, \
                     by a defect of its own: make the device a chunk larger or smaller"
                ),
            )),
            _ => {}
        }
    }
}

/// A store whose creation was cut off shows what lay in its first area before.
fn stale_first_area() -> Finding {
    Finding::note(
        "stale-first-area",
        Place { chunk: Some(1), area: Some(0), slot: Some(0) },
        "the very first exception cannot be: perhaps the store had just been created, and a crash \
         left the header but not the zeroes of the first area"
            .into(),
    )
}
