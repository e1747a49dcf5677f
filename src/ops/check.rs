use std::collections::BTreeMap;

use dmsnap_format::{Exception, HeaderError, Layout, MAGIC, RawHeader};

use super::devices::{begins_with_store, changed_origin, snapshot_bytes};
use super::finding::{Finding, Place};
use super::{Error, Which};
use crate::device::Device;
use crate::store::{
    self, BaseFence, Damage, End, Fault, Ledger, Reader, Severity, StoreError, Stretch,
};

/// Repeated chunks whose first slots are looked up; of more, only the later slot is named.
const LOOK_UP: usize = 4096;

/// The sum of a check.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
/// With the origin at hand, exceptions are checked against its size as well, and it is looked at for
/// what a failed merge of the kernel leaves there.
///
/// # Errors
///
/// An error of a device; devices that look swapped; [`Error::Header`] if there is no store at all, nor a
/// damaged one. Whatever is wrong with a store is a finding, not an error.
pub async fn check<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    each: impl FnMut(Finding),
) -> Result<Report, Error> {
    check_sized(cow, origin, None, each).await
}

/// The same for a snapshot of this size, where its origin has been made longer since. `None`: as the origin.
///
/// # Errors
///
/// As [`check`]; [`Error::OriginTooSmall`].
pub async fn check_sized<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    len_bytes: Option<u64>,
    each: impl FnMut(Finding),
) -> Result<Report, Error> {
    let mut check = Check { each, report: Report::default() };
    let origin_bytes = match origin {
        Some(origin) => {
            check.origin(cow, origin).await?;
            Some(snapshot_bytes(origin, len_bytes)?)
        }
        None => len_bytes,
    };
    match Reader::open(cow, origin_bytes).await.map_err(Error::from) {
        Ok(reader) => {
            let fence = check.store(cow, &reader).await?;
            if let Some(origin) = origin.filter(|_| reader.header().valid) {
                check.fence(fence, origin).await?;
            }
        }
        Err(Error::Header(error)) if was_store(cow, error).await? => {
            check.tell(Place::HEADER, Damage::Header(error));
        }
        Err(Error::Store(StoreError::TooSmall { cow_bytes, needed_bytes }))
            if begins_as_store(cow).await? =>
        {
            check.tell(Place::HEADER, Damage::TooSmall { cow_bytes, needed_bytes });
        }
        Err(error) => return Err(error),
    }
    check.report.sound = check.report.damaged == 0;
    Ok(check.report)
}

/// Whether a header that no kernel opens is that of a store, damaged. Without the magic, what follows it
/// has to say so.
async fn was_store<C: Device>(cow: &C, error: HeaderError) -> Result<bool, Error> {
    if !matches!(error, HeaderError::Blank | HeaderError::Magic { .. }) {
        return Ok(true);
    }
    let bytes = cow.read(0, 512).await.map_err(Error::io(Which::Cow, "cannot read"))?;
    Ok(RawHeader::from_prefix(&bytes).is_some_and(|raw| {
        let restored = RawHeader { magic: MAGIC, ..raw };
        restored.validate().is_ok() && raw.valid.get() <= 1
    }))
}

/// Whether what there is of the magic is that of a store.
async fn begins_as_store<C: Device>(cow: &C) -> Result<bool, Error> {
    let len = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAGIC.len());
    let bytes = cow.read(0, len).await.map_err(Error::io(Which::Cow, "cannot read"))?;
    Ok(MAGIC.starts_with(&bytes))
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
    fn tell(&mut self, place: impl Into<Place>, damage: Damage) {
        match damage.severity() {
            Severity::Damage => self.report.damaged += 1,
            Severity::Note => self.report.notes += 1,
        }
        (self.each)(Finding::new(place, damage));
    }

    async fn origin<C: Device, O: Device>(&mut self, cow: &C, origin: &O) -> Result<(), Error> {
        if !begins_with_store(origin, Which::Origin).await? {
            return Ok(());
        }
        if !begins_with_store(cow, Which::Cow).await? {
            return Err(Error::Swapped);
        }
        self.tell(Place::NOWHERE, Damage::OriginBeginsWithHeader);
        Ok(())
    }

    async fn fence<O: Device>(&mut self, fence: BaseFence, origin: &O) -> Result<(), Error> {
        if let Some(found) = changed_origin(&fence, origin).await? {
            self.tell(Place::NOWHERE, Damage::OriginChanged(found));
        }
        Ok(())
    }

    /// Returns what the store remembers of its origin.
    async fn store<C: Device>(
        &mut self,
        cow: &C,
        reader: &Reader<'_, C>,
    ) -> Result<BaseFence, Error> {
        self.header(cow, reader).await?;
        let layout = reader.layout();
        let mut ledger = Ledger::new(reader.extents());
        let mut repeated = Repeated::default();
        let mut fence = reader.fence();
        let scanned = reader.scan(|index, exception| {
            fence.see(exception.old);
            let place = store::Place::of(layout, index);
            let in_step = exception.new == layout.lock_step_chunk(index);
            match ledger.admit(exception) {
                Ok(()) => {}
                Err(fault @ Fault::Device(_)) => {
                    let earlier = None;
                    self.tell(place, Damage::Exception { exception, fault, in_step, earlier });
                    // In step, it is what a writer of this store put there.
                    if index == 0 && !in_step {
                        self.tell(place, Damage::StaleFirstArea);
                    }
                }
                Err(fault) if repeated.found.len() < LOOK_UP => {
                    repeated.found.push((place, exception, fault));
                }
                Err(fault) => self.tell(place, repeats(exception, fault, None)),
            }
            Ok::<_, Error>(())
        });
        let (count, end) = scanned.await?;
        self.repeated(reader, repeated).await?;
        // An area that lies beyond the end cannot have been read.
        let mut areas = layout.position(count).0;
        match end {
            End::Terminator => {
                areas += 1;
                let told = reader.strays(count, |stretch| {
                    self.tell(stretch.place(layout), strays(stretch, layout, count));
                });
                told.await?;
            }
            End::Missing { area } => {
                let chunk = layout.area_location(area).get();
                let place = Place { chunk: Some(chunk), area: Some(area), slot: None };
                self.tell(place, Damage::MissingTerminator { cow_bytes: reader.cow_bytes() });
            }
        }
        self.report.areas = Some(areas);
        self.sums(reader, &ledger);
        Ok(fence)
    }

    async fn header<C: Device>(&mut self, cow: &C, reader: &Reader<'_, C>) -> Result<(), Error> {
        let bytes = cow.read(0, 512).await.map_err(Error::io(Which::Cow, "cannot read"))?;
        let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
        if !reader.header().valid {
            self.tell(Place::HEADER, Damage::Invalid);
        } else if raw.valid.get() != 1 {
            self.tell(Place::HEADER, Damage::OddValidFlag { valid: raw.valid.get() });
        }
        let extra_bytes = reader.cow_bytes() % reader.layout().chunk_size().bytes();
        if extra_bytes > 0 {
            let place = Place { chunk: Some(reader.extents().cow_chunks), area: None, slot: None };
            self.tell(place, Damage::PartialChunk { extra_bytes });
        }
        Ok(())
    }

    /// Names both slots of everything that occurs twice: the earlier ones take a second reading.
    async fn repeated<C: Device>(
        &mut self,
        reader: &Reader<'_, C>,
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
        let scanned = reader.scan(|index, exception| {
            let here = store::Place::of(reader.layout(), index);
            for first in [
                repeated.first_old.get_mut(&exception.old.get()),
                repeated.first_new.get_mut(&exception.new.get()),
            ] {
                if let Some(first) = first.filter(|first| **first == nowhere) {
                    *first = here;
                }
            }
            Ok::<_, Error>(())
        });
        scanned.await?;
        for (place, exception, fault) in repeated.found {
            let earlier = match fault {
                Fault::DuplicateOld => repeated.first_old.get(&exception.old.get()),
                _ => repeated.first_new.get(&exception.new.get()),
            };
            self.tell(place, repeats(exception, fault, earlier.copied()));
        }
        Ok(())
    }

    fn sums<C: Device>(&mut self, reader: &Reader<'_, C>, ledger: &Ledger) {
        let (tally, layout) = (ledger.tally(), reader.layout());
        let chunks = reader.extents().cow_chunks;
        let exceptions = tally.exceptions();
        self.report.exceptions = Some(exceptions);
        self.report.holes = Some(tally.holes());
        self.report.out_of_order = Some(ledger.out_of_order());
        // With damage in it the list says nothing about who wrote it, and how.
        let sound = self.report.damaged == 0;
        if tally.holes() > 0 && sound {
            self.tell(Place::NOWHERE, Damage::Holes { chunks: tally.holes() });
        }
        if ledger.out_of_order() > 0 && sound {
            let exceptions = ledger.out_of_order();
            self.tell(Place::NOWHERE, Damage::OutOfOrder { exceptions });
        }
        let hazard = layout.kernel_loses_last_chunk(chunks);
        let full = exceptions > 0 && exceptions >= layout.capacity(chunks);
        let note = match (reader.header().valid, hazard, full) {
            (false, true, true) => Damage::DroppedAtLastChunk,
            (true, _, true) if sound => Damage::Full,
            (true, true, false) => Damage::KernelLosesLastChunk { chunks },
            _ => return,
        };
        self.tell(Place::NOWHERE, note);
    }
}

/// An exception that repeats the one in slot `earlier`.
fn repeats(exception: Exception, fault: Fault, earlier: Option<store::Place>) -> Damage {
    Damage::Exception { exception, fault, in_step: false, earlier }
}

/// Slots after the terminator in slot `terminator`.
fn strays(stretch: Stretch, layout: Layout, terminator: u64) -> Damage {
    let (_, first) = layout.position(stretch.first());
    let (last, front_zeroed) =
        (first + stretch.len - 1, stretch.front_was_zeroed(layout, terminator));
    let (_, terminator) = layout.position(terminator);
    match front_zeroed {
        true => Damage::FrontZeroed { first, last, terminator },
        false => Damage::StraySlots { first, last, terminator },
    }
}
