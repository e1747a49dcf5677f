use std::collections::BTreeMap;
use std::ops::Range;

use dmsnap_format::{Exception, HeaderError, Layout, RawHeader};

use super::finding::{Finding, Place};
use super::{Error, Which};
use crate::device::Device;
use crate::store::{self, Damage, End, Fault, Judged, Ledger, Reader, Stretch};

/// Repeated chunks whose first slots are looked up; of more, only the later slot is named.
const LOOK_UP: usize = 4096;

/// Receives what a walk through a store meets.
pub(super) trait Visitor {
    /// An exception as it stands, its slot, and what is wrong with it.
    fn exception(&mut self, _index: u64, _exception: Exception, _judged: Judged) {}

    /// Something that is not as it should be.
    fn finding(&mut self, finding: Finding);
}

/// A walk through the exceptions of a store: everything that [`check`](super::check) finds in a list.
pub(super) struct Walk<'w, 'd, C, V> {
    reader: &'w Reader<'d, C>,
    visitor: &'w mut V,
    ledger: Ledger,
    repeated: Vec<(store::Place, Exception, Fault)>,
    stretches: Vec<Range<u64>>,
}

/// What there is to know after a walk.
pub(super) struct Walked {
    pub(super) ledger: Ledger,
    /// The slots that were read, in order.
    pub(super) stretches: Vec<Range<u64>>,
}

impl<'w, 'd, C: Device, V: Visitor> Walk<'w, 'd, C, V> {
    pub(super) fn new(reader: &'w Reader<'d, C>, visitor: &'w mut V) -> Self {
        let ledger = Ledger::new(reader.extents());
        Self { reader, visitor, ledger, repeated: Vec::new(), stretches: Vec::new() }
    }

    /// Looks at the header's fields that do not stop anybody from reading on.
    pub(super) async fn header(&mut self) -> Result<(), Error> {
        let (reader, layout) = (self.reader, self.reader.layout());
        let bytes = reader.device().read(0, 512).await;
        let bytes = bytes.map_err(Error::io(Which::Cow, "cannot read"))?;
        let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
        if !reader.header().valid {
            self.tell(Place::HEADER, Damage::Invalid);
        } else if raw.valid.get() != 1 && raw.validate().is_ok() {
            self.tell(Place::HEADER, Damage::OddValidFlag { valid: raw.valid.get() });
        }
        let extra_bytes = reader.cow_bytes() % layout.chunk_size().bytes();
        if extra_bytes > 0 {
            let place = Place { chunk: Some(reader.extents().cow_chunks), area: None, slot: None };
            self.tell(place, Damage::PartialChunk { extra_bytes });
        }
        Ok(())
    }

    /// Reads from slot `first` to the end of the list. Repeated chunks are told by [`repeated`](Self::repeated).
    pub(super) async fn scan(&mut self, first: u64) -> Result<(u64, End), Error> {
        let reader = self.reader;
        let scanned = reader.scan_from(first, |index, exception| {
            self.admit(index, exception);
            Ok::<_, Error>(())
        });
        let (count, end) = scanned.await?;
        self.stretches.push(first..count);
        if let End::Missing { area } = end {
            let chunk = reader.layout().area_location(area).get();
            let place = Place { chunk: Some(chunk), area: Some(area), slot: None };
            self.tell(place, Damage::MissingTerminator { cow_bytes: reader.cow_bytes() });
        }
        Ok((count, end))
    }

    /// Tells what lies after the terminator in slot `terminator`.
    pub(super) async fn strays(&mut self, terminator: u64) -> Result<(), Error> {
        self.each_stray(terminator, |_| {}).await
    }

    /// The same, and goes on where a discard has zeroed the front of an area: with what is left of it, and
    /// the areas after it.
    pub(super) async fn past_gaps(&mut self, mut terminator: u64) -> Result<(), Error> {
        let layout = self.reader.layout();
        loop {
            let mut left: Vec<Range<u64>> = Vec::new();
            let keep = |stretch: Stretch| {
                if stretch.front_was_zeroed(layout, terminator) {
                    left.push(stretch.first()..stretch.first() + stretch.len);
                }
            };
            self.each_stray(terminator, keep).await?;
            let Some(last) = left.last().map(|slots| slots.end) else { return Ok(()) };
            for slots in left {
                let reader = self.reader;
                let read = reader.each(slots.clone(), |index, it| self.admit(index, it));
                read.await?;
                self.stretches.push(slots);
            }
            if !last.is_multiple_of(layout.exceptions_per_area()) {
                return Ok(());
            }
            match self.scan(last).await? {
                (next, End::Terminator) => terminator = next,
                (_, End::Missing { .. }) => return Ok(()),
            }
        }
    }

    async fn each_stray(
        &mut self,
        terminator: u64,
        mut each: impl FnMut(Stretch),
    ) -> Result<(), Error> {
        let (reader, layout) = (self.reader, self.reader.layout());
        let told = reader.strays(terminator, |stretch| {
            self.tell(stretch.place(layout), strays(stretch, layout, terminator));
            each(stretch);
        });
        Ok(told.await?)
    }

    /// Tells everything that occurs twice, with both slots: the earlier ones take a second reading.
    pub(super) async fn repeated(&mut self) -> Result<(), Error> {
        let repeated = std::mem::take(&mut self.repeated);
        if repeated.is_empty() {
            return Ok(());
        }
        let nowhere = store::Place { chunk: 0, area: 0, slot: 0 };
        let (mut first_old, mut first_new) = (BTreeMap::new(), BTreeMap::new());
        for (_, exception, fault) in &repeated {
            match fault {
                Fault::DuplicateOld => first_old.insert(exception.old.get(), nowhere),
                _ => first_new.insert(exception.new.get(), nowhere),
            };
        }
        let mut look_up = |index, exception: Exception| {
            let here = store::Place::of(self.reader.layout(), index);
            let (old, new) = (exception.old.get(), exception.new.get());
            for first in [first_old.get_mut(&old), first_new.get_mut(&new)] {
                if let Some(first) = first.filter(|first| **first == nowhere) {
                    *first = here;
                }
            }
        };
        let scanned = self.reader.scan(|index, exception| {
            look_up(index, exception);
            Ok::<_, Error>(())
        });
        scanned.await?;
        for slots in self.stretches.iter().skip(1) {
            self.reader.each(slots.clone(), &mut look_up).await?;
        }
        for (place, exception, fault) in repeated {
            let earlier = match fault {
                Fault::DuplicateOld => first_old.get(&exception.old.get()),
                _ => first_new.get(&exception.new.get()),
            };
            self.tell(place, repeats(exception, fault, earlier.copied()));
        }
        Ok(())
    }

    /// Ends the walk.
    pub(super) fn end(self) -> Walked {
        Walked { ledger: self.ledger, stretches: self.stretches }
    }

    fn admit(&mut self, index: u64, exception: Exception) {
        let layout = self.reader.layout();
        let place = store::Place::of(layout, index);
        let in_step = exception.new == layout.lock_step_chunk(index);
        let judged = self.ledger.judge(exception);
        self.visitor.exception(index, exception, judged);
        match judged.verdict() {
            Ok(()) => {}
            Err(fault @ Fault::Device(_)) => {
                let earlier = None;
                self.tell(place, Damage::Exception { exception, fault, in_step, earlier });
                // In step, it is what a writer of this store put there.
                if index == 0 && !in_step {
                    self.tell(place, Damage::StaleFirstArea);
                }
            }
            Err(fault) if self.repeated.len() < LOOK_UP => {
                self.repeated.push((place, exception, fault));
            }
            Err(fault) => self.tell(place, repeats(exception, fault, None)),
        }
    }

    fn tell(&mut self, place: impl Into<Place>, damage: Damage) {
        self.visitor.finding(Finding::new(place, damage));
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
