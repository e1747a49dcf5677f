use dmsnap_format::{Exception, HeaderError, MAGIC, RawHeader};

use super::devices::{begins_with_store, changed_origin, shown_bytes};
use super::finding::{Finding, Place};
use super::walk::{Visitor, Walk};
use super::{Error, Which};
use crate::device::Device;
use crate::store::{BaseFence, Damage, End, Judged, Ledger, Reader, Severity, StoreError};

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

/// The same for a snapshot of this size. `None`: what the store says of itself, or else as the origin.
///
/// # Errors
///
/// As [`check`]; [`Error::PartSectors`].
pub async fn check_sized<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    len_bytes: Option<u64>,
    each: impl FnMut(Finding),
) -> Result<Report, Error> {
    let mut check = Check { each, report: Report::default(), fence: None };
    if let Some(origin) = origin {
        check.origin(cow, origin).await?;
    }
    let origin_bytes = shown_bytes(cow, origin, len_bytes).await?;
    match Reader::open(cow, origin_bytes).await.map_err(Error::from) {
        Ok(reader) => {
            check.store(&reader).await?;
            if let Some(origin) = origin.filter(|_| reader.header().valid) {
                check.fence(origin).await?;
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
pub(super) async fn was_store<C: Device>(cow: &C, error: HeaderError) -> Result<bool, Error> {
    if !matches!(error, HeaderError::Blank | HeaderError::Magic { .. }) {
        return Ok(true);
    }
    let bytes = cow.read(0, 512).await.map_err(Error::io(Which::Cow, "cannot read"))?;
    Ok(RawHeader::from_prefix(&bytes).is_some_and(|raw| {
        let restored = RawHeader { magic: MAGIC, ..raw };
        restored.validate().is_ok() && raw.valid.get() <= 1
    }))
}

/// Whether the origin begins with a store's header, which is the caller's mistake if the COW device does not.
pub(super) async fn is_swapped_or_store<C: Device, O: Device>(
    cow: &C,
    origin: &O,
) -> Result<bool, Error> {
    if !begins_with_store(origin, Which::Origin).await? {
        return Ok(false);
    }
    match begins_with_store(cow, Which::Cow).await? {
        true => Ok(true),
        false => Err(Error::Swapped),
    }
}

/// Whether what there is of the magic is that of a store.
pub(super) async fn begins_as_store<C: Device>(cow: &C) -> Result<bool, Error> {
    let len = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAGIC.len());
    let bytes = cow.read(0, len).await.map_err(Error::io(Which::Cow, "cannot read"))?;
    Ok(MAGIC.starts_with(&bytes))
}

struct Check<F> {
    each: F,
    report: Report,
    /// What the store remembers of its origin.
    fence: Option<BaseFence>,
}

impl<F: FnMut(Finding)> Visitor for Check<F> {
    fn exception(&mut self, _: u64, exception: Exception, _: Judged) {
        if let Some(fence) = &mut self.fence {
            fence.see(exception.old);
        }
    }

    fn finding(&mut self, finding: Finding) {
        match finding.damage.severity() {
            Severity::Damage => self.report.damaged += 1,
            Severity::Note => self.report.notes += 1,
        }
        (self.each)(finding);
    }
}

impl<F: FnMut(Finding)> Check<F> {
    fn tell(&mut self, place: Place, damage: Damage) {
        self.finding(Finding::new(place, damage));
    }

    async fn origin<C: Device, O: Device>(&mut self, cow: &C, origin: &O) -> Result<(), Error> {
        if is_swapped_or_store(cow, origin).await? {
            self.tell(Place::NOWHERE, Damage::OriginBeginsWithHeader);
        }
        Ok(())
    }

    async fn fence<O: Device>(&mut self, origin: &O) -> Result<(), Error> {
        let Some(fence) = self.fence.take() else { return Ok(()) };
        if let Some(found) = changed_origin(&fence, origin).await? {
            self.tell(Place::NOWHERE, Damage::OriginChanged(found));
        }
        Ok(())
    }

    async fn store<C: Device>(&mut self, reader: &Reader<'_, C>) -> Result<(), Error> {
        self.fence = Some(reader.fence());
        let mut walk = Walk::new(reader, self);
        walk.header().await?;
        let (count, end) = walk.scan(0).await?;
        walk.repeated().await?;
        // An area that lies beyond the end cannot have been read.
        let mut areas = reader.layout().position(count).0;
        if end == End::Terminator {
            areas += 1;
            walk.strays(count).await?;
        }
        let ledger = walk.end().ledger;
        self.report.areas = Some(areas);
        self.sums(reader, &ledger);
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
