use std::ops::Range;

use dmsnap_format::{Exception, Extents, Header, Layout, Tag};

use super::fence::BaseFence;
use super::header::read_first_sector;
use super::room::Room;
use super::scan::{End, read_exceptions_from, read_range};
use super::strays::{Lost, Stretch, each_stretch};
use super::{Ledger, Place, StoreError};
use crate::device::Device;
use crate::planted::{Planted, planted};

/// Reads what lies on a COW device: its header, checked against the devices' sizes, and from there the list of
/// exceptions. Writes nothing, and also reads what cannot be opened.
#[derive(Debug)]
pub struct Reader<'a, D> {
    cow: &'a D,
    header: Header,
    tag: Option<Box<Tag>>,
    extents: Extents,
    cow_bytes: u64,
    origin_bytes: Option<u64>,
}

/// The most slots that are in memory when a range of them is read.
const BATCH_SLOTS: u64 = 1 << 14;

/// Takes slots from the front of `rest`, as many as are read at a time; `None` if none are left.
pub(crate) fn batch(rest: &mut Range<u64>) -> Option<Range<u64>> {
    let first = rest.start;
    rest.start = rest.end.min(first.saturating_add(BATCH_SLOTS));
    (first < rest.start).then_some(first..rest.start)
}

impl<'a, D: Device> Reader<'a, D> {
    /// Of a store in any state in which a kernel would look at it, dropped ones included. `origin_bytes` is the
    /// size of the origin, or of the snapshot if that is smaller; `None` if there is none to hold exceptions
    /// against.
    ///
    /// # Errors
    ///
    /// As [`read_header`](super::read_header).
    pub async fn open(cow: &'a D, origin_bytes: Option<u64>) -> Result<Self, StoreError> {
        let (header, tag) = read_first_sector(cow).await?;
        Self::assume(cow, header, tag.map(Box::new), origin_bytes)
    }

    /// The same without a look at the header: as if it said this.
    ///
    /// # Errors
    ///
    /// If the device does not tell its size.
    pub(crate) fn assume(
        cow: &'a D,
        header: Header,
        tag: Option<Box<Tag>>,
        origin_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let cow_bytes = cow.len_bytes().map_err(StoreError::unknown_size)?;
        let extents = Extents::new(Layout::new(header.chunk_size), cow_bytes, origin_bytes);
        Ok(Self { cow, header, tag, extents, cow_bytes, origin_bytes })
    }

    /// The header.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Whom the store belongs to, if it says so.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_deref()
    }

    /// What the store remembers of its origin. Exceptions are still to be shown to it.
    pub fn fence(&self) -> BaseFence {
        BaseFence::new(self.tag(), self.header.chunk_size)
    }

    /// Where everything lies.
    pub fn layout(&self) -> Layout {
        self.extents.layout
    }

    /// The devices in whole chunks.
    pub fn extents(&self) -> Extents {
        self.extents
    }

    /// The size of the COW device as the device tells it, for messages; what counts is in whole chunks.
    pub fn cow_bytes(&self) -> u64 {
        self.cow_bytes
    }

    /// The size of the origin, or of the snapshot if that is smaller, in bytes; `None` if there is none.
    pub(crate) fn origin_bytes(&self) -> Option<u64> {
        self.origin_bytes
    }

    /// Visits every exception as it stands, with its index, in order; says how many there are and how the list
    /// ends.
    ///
    /// # Errors
    ///
    /// An error of the device, or of `visit`.
    pub async fn scan<E: From<StoreError>>(
        &self,
        visit: impl FnMut(u64, Exception) -> Result<(), E>,
    ) -> Result<(u64, End), E> {
        self.scan_from(0, visit).await
    }

    /// The same from slot `first` on.
    ///
    /// # Errors
    ///
    /// As [`scan`](Self::scan).
    pub(crate) async fn scan_from<E: From<StoreError>>(
        &self,
        first: u64,
        visit: impl FnMut(u64, Exception) -> Result<(), E>,
    ) -> Result<(u64, End), E> {
        read_exceptions_from(self.cow, self.extents, first, visit).await
    }

    /// Visits the slots of `range`, which the caller knows to be exceptions.
    ///
    /// # Errors
    ///
    /// As [`read_range`].
    pub(crate) async fn each(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, Exception),
    ) -> Result<(), StoreError> {
        let mut rest = range;
        while let Some(batch) = batch(&mut rest) {
            let exceptions = read_range(self.cow, self.layout(), batch.clone()).await?;
            batch.zip(exceptions).for_each(|(index, exception)| visit(index, exception));
        }
        Ok(())
    }

    /// The device.
    pub(crate) fn device(&self) -> &'a D {
        self.cow
    }

    /// The same for a list that has an end. None of the exceptions is believed: see
    /// [`believe`](Self::believe).
    ///
    /// # Errors
    ///
    /// [`StoreError::NoTerminator`]; as [`scan`](Self::scan).
    pub async fn exceptions<E: From<StoreError>>(
        &self,
        visit: impl FnMut(u64, Exception) -> Result<(), E>,
    ) -> Result<u64, E> {
        match self.scan(visit).await? {
            (count, End::Terminator) => Ok(count),
            (_, End::Missing { area }) => {
                Err(StoreError::NoTerminator { area, cow_bytes: self.cow_bytes }.into())
            }
        }
    }

    /// Visits every exception in order, and refuses at the first that contradicts the devices or repeats an
    /// earlier one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fault`]; as [`exceptions`](Self::exceptions).
    pub async fn believe(&self, mut visit: impl FnMut(Exception)) -> Result<Ledger, StoreError> {
        let mut ledger = Ledger::new(self.extents);
        self.exceptions(|index, exception| {
            let place = || Place::of(self.layout(), index);
            let admitted = ledger.admit(exception);
            let admitted =
                admitted.map_err(|fault| StoreError::Fault { place: place(), exception, fault });
            if !planted(Planted::BelieveExceptions) {
                admitted?;
            }
            visit(exception);
            Ok::<_, StoreError>(())
        })
        .await?;
        Ok(ledger)
    }

    /// Visits what lies after the terminator in slot `terminator`, stretch by stretch.
    pub(crate) async fn strays(
        &self,
        terminator: u64,
        each: impl FnMut(Stretch),
    ) -> Result<(), StoreError> {
        each_stretch(self.cow, self.layout(), terminator, each).await
    }
}

/// What an opening for writing does with slots that are not empty after the end of the list. They count for
/// nothing, but a kernel brings them to life once the slots before them are filled, so they are zeroed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strays {
    /// Zero them, unless they are all that is left of an area whose front a kernel's unaligned discard has
    /// wiped: such a store has lost exceptions, and is refused ([`StoreError::FrontZeroed`]).
    #[default]
    Refuse,
    /// Zero them, whatever they are: what is left of a store that has lost exceptions goes, too.
    Wipe,
}

/// A valid store that was read and judged, and is not open yet: nothing was written to it. So whatever a
/// caller wants to refuse is refused in between, and the list is read once.
#[derive(Debug)]
pub struct Loaded<D> {
    pub(super) cow: D,
    pub(super) layout: Layout,
    pub(super) tag: Option<Box<Tag>>,
    fence: BaseFence,
    pub(super) published: u64,
    pub(super) room: Room,
    pub(super) strays: Option<Found>,
}

/// What lies after the terminator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// The first and the last slot that is not empty.
    pub(super) span: Option<(u64, u64)>,
    /// The area has lost its front.
    lost: Option<Lost>,
}

impl<D: Device> Loaded<D> {
    /// Reads a valid store. Every exception is checked against the devices' sizes and the others, then
    /// handed to `visit`, in order.
    ///
    /// `origin_bytes` is the size of the origin, if there is one to check exceptions against.
    ///
    /// # Errors
    ///
    /// Why the store cannot be opened.
    pub async fn read(
        cow: D,
        origin_bytes: Option<u64>,
        visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        Self::read_of_size(cow, |_| origin_bytes, visit).await
    }

    /// The same, where the size may be what the tag says.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) async fn read_of_size(
        cow: D,
        origin_bytes: impl FnOnce(Option<&Tag>) -> Option<u64>,
        mut visit: impl FnMut(Exception),
    ) -> Result<Self, StoreError> {
        let (header, tag) = read_first_sector(&cow).await?;
        let origin_bytes = origin_bytes(tag.as_ref());
        let reader = Reader::assume(&cow, header, tag.map(Box::new), origin_bytes)?;
        if !reader.header.valid && !planted(Planted::InvalidOpens) {
            return Err(StoreError::Invalid);
        }
        let mut fence = reader.fence();
        let ledger = match fence.is_empty() {
            true => reader.believe(visit).await?,
            false => {
                let both = |exception: Exception| {
                    fence.see(exception.old);
                    visit(exception);
                };
                reader.believe(both).await?
            }
        };
        let (extents, tag) = (reader.extents, reader.tag.clone());
        Ok(Self {
            layout: extents.layout,
            tag,
            fence,
            published: ledger.tally().exceptions(),
            room: Room::new(&ledger, extents.cow_chunks),
            strays: None,
            cow,
        })
    }

    /// The COW device.
    pub fn device(&self) -> &D {
        &self.cow
    }

    /// Where everything lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whom the store belongs to, if it says so.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_deref()
    }

    /// What the store remembers of its origin.
    pub fn fence(&self) -> &BaseFence {
        &self.fence
    }

    /// How many exceptions it has.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Slots in what the device writes untorn: clearing inside one such unit takes one write.
    pub fn unit_slots(&self) -> u64 {
        self.layout.slots_per_unit(self.cow.block_bytes())
    }

    /// Refuses what [`Strays::Refuse`] does, before anything is written.
    ///
    /// # Errors
    ///
    /// [`StoreError::FrontZeroed`]; an error of the device.
    pub async fn refuse_lost_front(&mut self) -> Result<(), StoreError> {
        match self.strays().await?.lost {
            Some(Lost { area, chunk, left }) => Err(StoreError::FrontZeroed { area, chunk, left }),
            None => Ok(()),
        }
    }

    /// What lies after the terminator; read once.
    pub(super) async fn strays(&mut self) -> Result<Found, StoreError> {
        if let Some(found) = self.strays {
            return Ok(found);
        }
        let mut found = Found::default();
        each_stretch(&self.cow, self.layout, self.published, |stretch| {
            let first = found.span.map_or(stretch.first(), |(first, _)| first);
            found.span = Some((first, stretch.last()));
            found.lost = stretch.lost_front(self.layout, self.published).or(found.lost);
        })
        .await?;
        self.strays = Some(found);
        Ok(found)
    }
}
