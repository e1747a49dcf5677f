use std::io;
use std::iter;
use std::ops::Range;

use dmsnap_format::SECTOR_BYTES;

use super::diff_page::{DiffPage, Differences, Teller};
use super::diff_side::DiffSide;
use super::pairs::{PIECE_BYTES, Pair, cut, each_pair};
use super::{Error, Observer};
use crate::copy::touching;
use crate::device::Device;

/// Where two snapshots of one origin differ, or a snapshot and its origin.
///
/// Two snapshots show the same wherever neither has an exception. Elsewhere they may differ, and do unless the
/// data of both is known and compared.
///
/// ```
/// use dmsnap::device::Memory;
/// use dmsnap::ops::{self, Diff, DiffOptions, DiffPage, DiffSide, Silent};
/// # use dmsnap::device::Device;
/// # use dmsnap::format::{ChunkSize, OriginChunk};
/// # use dmsnap::store::{Persistent, Store, Strays};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures_executor::block_on(async {
/// let origin = Memory::zeroed(1 << 20);
/// let cow = Memory::zeroed(1 << 20);
/// ops::create(&cow, ChunkSize::from_sectors(8)?, false).await?;
/// # let store = Persistent::open(&cow, None, Strays::Refuse, |_| {}).await?;
/// # for old in [5, 6, 9] {
/// #     let prepared = store.prepare()?;
/// #     cow.write(prepared.chunk().get() * 4096, vec![7; 4096].into()).await?;
/// #     store.commit(prepared, OriginChunk::new(old));
/// # }
/// # store.publish().await?;
/// // ... and exceptions for chunks 5, 6 and 9.
/// let monday = DiffSide::listed(&cow, Some(&origin), DiffOptions::default()).await?;
/// let diff = Diff::new(monday, DiffSide::origin(&origin).await?)?;
/// let mut found = Vec::new();
/// let each = |range: std::ops::Range<u64>| Ok(found.push(range.start..range.end));
/// let told = diff.each(DiffPage::default(), &Silent, each).await?;
/// assert_eq!(found, [5 * 4096..7 * 4096, 9 * 4096..10 * 4096]);
/// assert_eq!((told.ranges, told.bytes, told.next), (2, 3 * 4096, None));
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Diff<'a, C, O> {
    sides: [DiffSide<'a, C, O>; 2],
}

impl<'a, C: Device, O: Device> Diff<'a, C, O> {
    /// Of these two. Both belong to one origin: that is the caller's to know.
    ///
    /// # Errors
    ///
    /// [`Error::TwoOrigins`], where both stores remember theirs.
    pub fn new(a: DiffSide<'a, C, O>, b: DiffSide<'a, C, O>) -> Result<Self, Error> {
        let fences = a.fence().zip(b.fence());
        match fences.and_then(|(a, b)| a.contradiction(b)) {
            Some(at) => Err(Error::TwoOrigins { at }),
            None => Ok(Self { sides: [a, b] }),
        }
    }

    /// The size of the larger one, in bytes; `None` if nobody says the size of either. What only the larger
    /// one has is a difference.
    pub fn len_bytes(&self) -> Option<u64> {
        self.lens().max()
    }

    /// Every range begins at a multiple of this many bytes, and ends at one or at an end of a snapshot.
    pub fn granularity_bytes(&self) -> u64 {
        let smallest = self.sides.iter().filter_map(DiffSide::chunk_bytes).min();
        let smallest = smallest.unwrap_or(SECTOR_BYTES);
        if self.is_exact() { smallest.min(PIECE_BYTES) } else { smallest }
    }

    /// Is the content of both compared? Else a range may hold the same on both sides.
    pub fn is_exact(&self) -> bool {
        self.sides.iter().all(|side| side.content().is_some())
    }

    /// Tells `each` where they differ, in order, as ranges of bytes that neither touch nor overlap.
    ///
    /// # Errors
    ///
    /// [`Error::PastEnd`]; an error of `each`, as [`Error::Consumer`]; where content is compared an error of a
    /// device, or [`Error::Stopped`].
    pub async fn each(
        &self,
        page: DiffPage,
        observer: &impl Observer,
        each: impl FnMut(Range<u64>) -> io::Result<()>,
    ) -> Result<Differences, Error> {
        if let Some(len_bytes) = self.len_bytes().filter(|len| page.from > *len) {
            return Err(Error::PastEnd { from: page.from, len_bytes });
        }
        let mut teller = Teller::new(page.most, each);
        let in_common = page.from..self.common_bytes();
        match (self.sides[0].content(), self.sides[1].content()) {
            (Some(a), Some(b)) => {
                // A unit that differs is one that is cut.
                let unit = self.granularity_bytes();
                let in_common = match in_common.is_empty() {
                    true => in_common,
                    false => page.from / unit * unit..in_common.end,
                };
                let total = self.candidates(in_common.clone()).map(|it| it.end - it.start).sum();
                let pieces = self.candidates(in_common).flat_map(|it| cut(it, PIECE_BYTES));
                let compared = each_pair((&a, &b), pieces, (observer, total), |pair| {
                    self.tell(&pair, page.from, &mut teller)
                });
                compared.await?;
            }
            _ => {
                for range in self.candidates(in_common) {
                    if !teller.take(range)? {
                        break;
                    }
                }
            }
        }
        if let Some(rest) = self.rest(page.from).filter(|_| !teller.is_full()) {
            teller.take(rest)?;
        }
        teller.end()
    }

    fn lens(&self) -> impl Iterator<Item = u64> {
        self.sides.iter().filter_map(DiffSide::len_bytes)
    }

    /// As far as both reach; without end if that is not known.
    fn common_bytes(&self) -> u64 {
        self.lens().min().unwrap_or(u64::MAX)
    }

    /// What only the larger one has.
    fn rest(&self, from: u64) -> Option<Range<u64>> {
        let rest = self.common_bytes().max(from)..self.len_bytes()?;
        (rest.start < rest.end).then_some(rest)
    }

    /// Where at least one of them is not the origin.
    fn candidates(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let [a, b] = &self.sides;
        let (mut a, mut b) = (a.saved(range.start).peekable(), b.saved(range.start).peekable());
        let ascending = iter::from_fn(move || match (a.peek(), b.peek()) {
            (Some(left), Some(right)) if right.start < left.start => b.next(),
            (Some(_), _) => a.next(),
            _ => b.next(),
        });
        let cut = move |it: Range<u64>| it.start.max(range.start)..it.end.min(range.end);
        touching(ascending.map(cut).take_while(|it| it.start < it.end))
    }

    /// Tells those units of a piece that differ.
    fn tell(
        &self,
        pair: &Pair,
        from: u64,
        teller: &mut Teller<impl FnMut(Range<u64>) -> io::Result<()>>,
    ) -> Result<bool, Error> {
        let piece = pair.at..pair.at + pair.halves[0].len;
        let index = |at: u64| usize::try_from(at - pair.at).unwrap_or(usize::MAX);
        for unit in cut(piece, self.granularity_bytes()) {
            let differs = pair.difference(index(unit.start)..index(unit.end)).is_some();
            if differs && !teller.take(unit.start.max(from)..unit.end)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
