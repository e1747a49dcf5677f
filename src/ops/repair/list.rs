use std::ops::Range;

use dmsnap_format::{CowChunk, Exception, Extents};

use super::options::{RepairOptions, RepairTarget};
use super::repeats::{Found, Repeats, Turn, Turns};
use crate::device::Device;
use crate::ops::Error;
use crate::ops::finding::Finding;
use crate::ops::walk::{Visitor, Walk, Walked};
use crate::store::{BaseFence, End, Judged, Ledger, Reader, Severity, batch};

/// What is left of a list of exceptions.
#[derive(Debug)]
pub(super) struct List<'a, C> {
    pub(super) reader: Reader<'a, C>,
    /// The slots that hold them, in order.
    stretches: Vec<Range<u64>>,
    pub(super) repeats: Repeats,
    /// How many there are, whatever they say.
    pub(super) found: u64,
    /// How many of them have data, each for another chunk of the origin.
    with_data: u64,
    /// The most of those that can be kept.
    limit: u64,
    /// The chunk with the first of the origin.
    pub(super) chunk_0: Option<CowChunk>,
    /// What the store remembers of its origin.
    pub(super) fence: BaseFence,
    pub(super) is_damaged: bool,
}

/// What a repair does with an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// An earlier one has the same chunk of the COW device.
    KeepCopy,
    Drop,
    /// It would be kept if it had room.
    DropNewest,
}

impl<'a, C: Device> List<'a, C> {
    /// Reads it: twice if something is repeated.
    pub(super) async fn read(
        reader: Reader<'a, C>,
        options: &RepairOptions,
    ) -> Result<Self, Error> {
        let mut survey = Survey::new(&reader);
        let Walked { stretches, .. } = survey.walk(&reader).await?;
        let repeats = Repeats::compare(survey.repeats, &reader, &stretches).await?;
        let Survey { found, with_data, chunk_0, fence, is_damaged, .. } = survey;
        let layout = reader.layout();
        let cow_chunks = reader.extents().cow_chunks;
        let limit = match options.target {
            RepairTarget::InPlace { can_grow: false }
                if layout.chunks_needed(with_data) > cow_chunks =>
            {
                layout.capacity(cow_chunks)
            }
            _ => u64::MAX,
        };
        Ok(Self { reader, stretches, repeats, found, with_data, limit, chunk_0, fence, is_damaged })
    }

    /// How many exceptions the repaired store has.
    pub(super) fn kept(&self) -> u64 {
        self.with_data.min(self.limit)
    }

    /// The slot after the last one that was read.
    pub(super) fn end(&self) -> u64 {
        self.stretches.last().map_or(0, |slots| slots.end)
    }

    /// The bytes of the origin that an exception is for, as far as there is an origin.
    pub(super) fn origin_bytes(&self, exception: Exception) -> Range<u64> {
        let chunk_bytes = self.reader.layout().chunk_size().bytes();
        let end = self.reader.origin_bytes().unwrap_or(u64::MAX);
        let at = exception.old.get().saturating_mul(chunk_bytes).min(end);
        at..at.saturating_add(chunk_bytes).min(end)
    }
}

/// Walks through everything that is left of a store. Repeated exceptions are told only if it is to `tell` them.
pub(super) async fn walk<C: Device>(
    reader: &Reader<'_, C>,
    visitor: &mut impl Visitor,
    tell: bool,
) -> Result<Walked, Error> {
    let mut walk = Walk::new(reader, visitor);
    walk.header().await?;
    if let (terminator, End::Terminator) = walk.scan(0).await? {
        walk.past_gaps(terminator).await?;
    }
    if tell {
        walk.repeated().await?;
    }
    Ok(walk.end())
}

/// The first reading.
struct Survey {
    turns: Turns,
    repeats: Found,
    found: u64,
    with_data: u64,
    chunk_0: Option<CowChunk>,
    fence: BaseFence,
    is_damaged: bool,
}

impl Survey {
    fn new<C: Device>(reader: &Reader<'_, C>) -> Self {
        Self {
            turns: Turns::new(reader.extents()),
            fence: reader.fence(),
            repeats: Found::default(),
            found: 0,
            with_data: 0,
            chunk_0: None,
            is_damaged: false,
        }
    }

    async fn walk<C: Device>(&mut self, reader: &Reader<'_, C>) -> Result<Walked, Error> {
        walk(reader, self, false).await
    }
}

impl Visitor for Survey {
    fn exception(&mut self, index: u64, exception: Exception, judged: Judged) {
        self.found += 1;
        self.fence.see(exception.old);
        self.is_damaged |= judged.verdict().is_err();
        match self.turns.next(exception, judged) {
            Turn::Lost => {}
            Turn::First => {
                self.with_data += 1;
                if exception.old.get() == 0 {
                    self.chunk_0 = Some(exception.new);
                }
            }
            Turn::Again => self.repeats.add(index, exception),
        }
    }

    fn finding(&mut self, finding: Finding) {
        self.is_damaged |= finding.damage.severity() == Severity::Damage;
    }
}

/// Says what becomes of each exception, in the order of the list.
pub(super) struct Judge {
    turns: Turns,
    kept: u64,
}

impl Judge {
    pub(super) fn new(extents: Extents) -> Self {
        Self { turns: Turns::new(extents), kept: 0 }
    }

    pub(super) fn next<C: Device>(
        &mut self,
        list: &List<'_, C>,
        options: &RepairOptions,
        (index, exception, judged): (u64, Exception, Judged),
    ) -> Fate {
        let turn = self.turns.next(exception, judged);
        let keeps = |turn| list.repeats.keeps(turn, index, exception, options.duplicates);
        if turn == Turn::Lost || !keeps(turn) {
            return Fate::Drop;
        }
        if self.kept == list.limit {
            return Fate::DropNewest;
        }
        self.kept += 1;
        if judged.repeats_new { Fate::KeepCopy } else { Fate::Keep }
    }
}

/// The exceptions that a repaired store has, in the order of the list: they are read anew.
pub(super) struct Kept<'l, 'a, C> {
    list: &'l List<'a, C>,
    options: &'l RepairOptions,
    ledger: Ledger,
    judge: Judge,
    stretches: std::slice::Iter<'l, Range<u64>>,
    /// What is not read yet of the current stretch.
    rest: Range<u64>,
}

impl<'l, 'a, C: Device> Kept<'l, 'a, C> {
    pub(super) fn new(list: &'l List<'a, C>, options: &'l RepairOptions) -> Self {
        let extents = list.reader.extents();
        let (ledger, judge) = (Ledger::new(extents), Judge::new(extents));
        Self { list, options, ledger, judge, stretches: list.stretches.iter(), rest: 0..0 }
    }

    /// The next of them, perhaps none, each with what becomes of it; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Exception, Fate)>>, Error> {
        let slots = loop {
            match (batch(&mut self.rest), self.stretches.as_slice()) {
                (Some(slots), _) => break slots,
                (None, []) => return Ok(None),
                (None, _) => self.rest = self.stretches.next().cloned().unwrap_or_default(),
            }
        };
        let mut kept = Vec::new();
        let each = |index, exception| {
            let judged = self.ledger.judge(exception);
            let fate = self.judge.next(self.list, self.options, (index, exception, judged));
            if matches!(fate, Fate::Keep | Fate::KeepCopy) {
                kept.push((exception, fate));
            }
        };
        self.list.reader.each(slots, each).await?;
        Ok(Some(kept))
    }
}
