use dmsnap_format::{
    ChunkSize, CowChunk, Exception, ExceptionFault, Extents, Layout, OriginChunk, Tally, VERSION,
};

use super::devices::refuse_other_content;
use super::list_error::ListError;
use super::listing::{Entry, ListEnd, ListHead, ListSum};
use super::{Error, PlacedRun, Which};
use crate::device::Device;
use crate::store::{Builder, Fault, Ledger};

/// What a restored store is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Restored {
    /// False if the store was dropped before it was dumped.
    pub valid: bool,
    /// In sectors.
    pub chunk_size_sectors: u32,
    /// How many exceptions it has.
    pub exceptions: u64,
    /// The line of `dmsetup status` for it.
    pub status: String,
}

/// Makes the metadata of a store again from a list of its exceptions ([`list`](super::list)): the same slots,
/// and so the same chunks, whose data is left as it lies there. `read` begins the list anew; it is read twice,
/// so that nothing is written because of a list that is cut off or damaged.
///
/// # Ordering
///
/// That of [`Builder`]: a crash, or an error, leaves a device that every reader takes for one without a store,
/// or the whole store. The same call makes it again.
///
/// # Errors
///
/// Before anything is written: [`Error::List`], [`Error::CowTooSmall`], [`Error::RaidMember`]; without `force`
/// also [`Error::StoreExists`] and [`Error::Occupied`]. Later: any error of the device, and
/// [`ListError::Changed`].
pub async fn restore<C, L>(
    cow: &C,
    read: impl Fn() -> Result<L, ListError>,
    force: bool,
) -> Result<Restored, Error>
where
    C: Device,
    L: Iterator<Item = Result<Entry, ListError>>,
{
    let plan = Plan::new(cow, read()?, force).await?;
    let mut builder = Builder::new(cow, plan.chunk_size).await?;
    let mut sum = ListSum::new(plan.head).ok_or(ListError::Changed)?;
    for entry in read()? {
        if let Entry::Run(run) = entry? {
            sum.add(&run);
            for exception in exceptions(&run) {
                builder.place_at(exception).await?;
            }
        }
    }
    if sum.value() != plan.end.crc32c {
        return Err(ListError::Changed.into());
    }
    builder.finish_as(plan.head.valid).await?;
    Ok(plan.restored())
}

/// What [`restore`] would make, after everything was refused that it would refuse. Writes nothing.
///
/// # Errors
///
/// As [`restore`], before anything is written.
pub async fn plan_restore<C, L>(
    cow: &C,
    read: impl Fn() -> Result<L, ListError>,
    force: bool,
) -> Result<Restored, Error>
where
    C: Device,
    L: Iterator<Item = Result<Entry, ListError>>,
{
    Ok(Plan::new(cow, read()?, force).await?.restored())
}

/// The exceptions of a run, in the order of their slots.
fn exceptions(run: &PlacedRun) -> impl Iterator<Item = Exception> {
    let PlacedRun { old, new, .. } = *run;
    (0..run.len).map(move |n| Exception {
        old: OriginChunk::new(old).plus(n),
        new: CowChunk::new(new).plus(n),
    })
}

/// A list that was read to its end and fits the device.
struct Plan {
    head: ListHead,
    chunk_size: ChunkSize,
    end: ListEnd,
    tally: Tally,
    cow_bytes: u64,
}

impl Plan {
    async fn new<C: Device>(
        cow: &C,
        list: impl Iterator<Item = Result<Entry, ListError>>,
        force: bool,
    ) -> Result<Self, Error> {
        let cow_bytes = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
        let (judge, end) = Judge::read(list, cow_bytes)?;
        let needed_bytes = judge.needed_bytes();
        if cow_bytes < needed_bytes {
            return Err(Error::CowTooSmall { cow_bytes, needed_bytes });
        }
        refuse_other_content(cow, force).await?;
        let Judge { head, layout, ledger, .. } = judge;
        Ok(Self { head, chunk_size: layout.chunk_size(), end, tally: *ledger.tally(), cow_bytes })
    }

    fn restored(&self) -> Restored {
        let status = match self.head.valid {
            true => self.tally.usage(self.cow_bytes).to_string(),
            false => "Invalid".into(),
        };
        Restored {
            valid: self.head.valid,
            chunk_size_sectors: self.head.chunk_size_sectors,
            exceptions: self.end.exceptions,
            status,
        }
    }
}

/// Looks at a list entry by entry.
struct Judge {
    head: ListHead,
    layout: Layout,
    /// As far as the device reaches: a list that claims more is not gone through one by one.
    ledger: Ledger,
    most: u64,
    sum: ListSum,
    exceptions: u64,
    /// The chunk after the last one that is used.
    end_chunk: u64,
    line: u64,
}

impl Judge {
    fn read(
        mut list: impl Iterator<Item = Result<Entry, ListError>>,
        cow_bytes: u64,
    ) -> Result<(Self, ListEnd), ListError> {
        let head = match list.next().transpose()? {
            Some(Entry::Store { store }) => store,
            _ => return Err(ListError::NoStore),
        };
        let mut judge = Self::new(head, cow_bytes)?;
        for entry in list.by_ref() {
            judge.line += 1;
            match entry? {
                Entry::Run(run) => judge.run(run)?,
                Entry::Store { .. } => return Err(judge.wrong("describes a second store")),
                Entry::End { end } => {
                    judge.line += 1;
                    match list.next().transpose()? {
                        Some(_) => return Err(judge.wrong("comes after the end line")),
                        None => return judge.end(end),
                    }
                }
            }
        }
        Err(ListError::CutOff { lines: judge.line })
    }

    fn new(head: ListHead, cow_bytes: u64) -> Result<Self, ListError> {
        let wrong = |found| ListError::Line { line: 1, found };
        if head.version != VERSION {
            return Err(wrong("has a version that does not exist"));
        }
        let chunk_size = ChunkSize::from_sectors(head.chunk_size_sectors);
        let chunk_size = chunk_size.map_err(|_| wrong("has an impossible chunk size"))?;
        let layout = Layout::new(chunk_size);
        let extents = Extents::new(layout, cow_bytes, None);
        Ok(Self {
            head,
            layout,
            ledger: Ledger::new(extents),
            most: layout.capacity(extents.cow_chunks),
            sum: ListSum::new(head).ok_or_else(|| wrong("has an impossible chunk size"))?,
            exceptions: 0,
            end_chunk: 0,
            line: 1,
        })
    }

    fn run(&mut self, run: PlacedRun) -> Result<(), ListError> {
        if (run.area, run.slot) != self.layout.position(self.exceptions) {
            return Err(self.wrong("does not go on where the line before it ends"));
        }
        let (Some(exceptions), Some(end_chunk), Some(_)) = (
            self.exceptions.checked_add(run.len).filter(|_| run.len > 0),
            run.new.checked_add(run.len),
            run.old.checked_add(run.len),
        ) else {
            return Err(self.wrong("has an impossible length"));
        };
        self.sum.add(&run);
        self.exceptions = exceptions;
        self.end_chunk = self.end_chunk.max(end_chunk);
        if exceptions <= self.most {
            for exception in self::exceptions(&run) {
                self.exception(exception)?;
            }
        }
        Ok(())
    }

    fn exception(&mut self, exception: Exception) -> Result<(), ListError> {
        match self.ledger.admit(exception) {
            // The size that is needed is told at the end.
            Ok(()) | Err(Fault::Device(ExceptionFault::NewBeyondDevice)) => Ok(()),
            Err(fault) => Err(ListError::Fault { line: self.line, exception, fault }),
        }
    }

    fn end(self, end: ListEnd) -> Result<(Self, ListEnd), ListError> {
        if end.exceptions != self.exceptions {
            return Err(ListError::Sum { told: "the number of exceptions" });
        }
        match self.sum.value() == end.crc32c {
            true => Ok((self, end)),
            false => Err(ListError::Sum { told: "the checksum" }),
        }
    }

    /// The smallest device for this list.
    fn needed_bytes(&self) -> u64 {
        let chunks = self.layout.chunks_needed(self.exceptions).max(self.end_chunk);
        chunks.saturating_mul(self.layout.chunk_size().bytes())
    }

    fn wrong(&self, found: &'static str) -> ListError {
        ListError::Line { line: self.line, found }
    }
}

#[cfg(test)]
mod tests {
    use dmsnap_format::Run;

    use super::*;

    #[test]
    fn a_run_is_its_exceptions_one_by_one() {
        let run = PlacedRun { old: 7, new: 70, len: 3, area: 0, slot: 0 };
        let mut joined: Option<Run> = None;
        for exception in exceptions(&run) {
            match &mut joined {
                None => joined = Some(exception.into()),
                Some(run) => assert!(run.extend(exception)),
            }
        }
        assert_eq!(joined.map(|run| (run.old.get(), run.new.get(), run.len)), Some((7, 70, 3)));
    }
}
