use std::ops::Range;

use bytes::{Bytes, BytesMut};
use dmsnap_format::{CowChunk, Exception, OriginChunk, Run};
use futures_util::stream::{FuturesOrdered, TryStreamExt};

use super::believed::believe;
use super::content::Content;
use super::sparse::Sparse;
use super::{Error, ExportOptions, Which};
use crate::device::Device;
use crate::table::{Duplicate, Table};

/// What a snapshot shows, judged: its store's chunks where there are exceptions, the origin elsewhere.
pub(super) struct Source<'a, C, O> {
    pub(super) cow: Sparse<'a, C>,
    pub(super) origin: Sparse<'a, O>,
    table: Table,
    pub(super) chunk_bytes: u64,
    pub(super) image_bytes: u64,
    pub(super) exceptions: u64,
}

/// A part of the image that comes from consecutive bytes of one device.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) from_origin: bool,
    /// First byte on that device.
    pub(super) from: u64,
    /// First byte in the image.
    pub(super) to: u64,
    pub(super) len: u64,
}

impl Segment {
    pub(super) fn part(self, offset: u64, len: u64) -> Self {
        Self { from: self.from + offset, to: self.to + offset, len, ..self }
    }

    pub(super) fn pieces(self, most: u64) -> impl Iterator<Item = Self> {
        let count = self.len.div_ceil(most);
        (0..count).map(move |n| self.part(n * most, most.min(self.len - n * most)))
    }
}

impl<'a, C: Device, O: Device> Source<'a, C, O> {
    /// `which` the store is, for errors that come later.
    pub(super) async fn new(
        (cow, which): (&'a C, Which),
        origin: &'a O,
        options: ExportOptions,
    ) -> Result<Self, Error> {
        let mut exceptions = Exceptions::default();
        let believed = believe(cow, Some(origin), options, |it| exceptions.push(it)).await?;
        Ok(Self {
            cow: Sparse::new(cow, which),
            origin: Sparse::origin(origin)?,
            table: exceptions.finish().map_err(Error::Duplicate)?,
            chunk_bytes: believed.chunk_bytes,
            // Its origin was given.
            image_bytes: believed.len_bytes.unwrap_or(0),
            exceptions: believed.ledger.tally().exceptions(),
        })
    }

    /// Exceptions from this byte of the image on.
    pub(super) fn saved(&self, from: u64) -> impl Iterator<Item = Range<u64>> {
        let chunk = self.chunk_bytes;
        let runs = self.table.runs_from(OriginChunk::new(from / chunk));
        runs.map(move |run| run.old.get() * chunk..(run.old.get() + run.len) * chunk)
    }

    /// The image from front to back.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> {
        segments(&self.table, self.chunk_bytes, 0..self.image_bytes)
    }

    /// The next stretch of a segment, at or after `offset`, that is not a hole; as offsets into it.
    pub(super) async fn next_data(
        &self,
        segment: Segment,
        offset: u64,
    ) -> Result<Option<Range<u64>>, Error> {
        let range = segment.from + offset..segment.from + segment.len;
        let data = match segment.from_origin {
            true => self.origin.data_in(range).await?,
            false => self.cow.data_in(range).await?,
        };
        Ok(data.map(|data| data.start - segment.from..data.end - segment.from))
    }

    pub(super) async fn read(&self, piece: Segment) -> Result<Bytes, Error> {
        match piece.from_origin {
            true => self.origin.read(piece.from, piece.len).await,
            false => self.cow.read(piece.from, piece.len).await,
        }
    }
}

impl<C: Device, O: Device> Content for Source<'_, C, O> {
    fn len_bytes(&self) -> u64 {
        self.image_bytes
    }

    async fn piece(&self, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        let read = async |segment: Segment| -> Result<_, Error> {
            match self.next_data(segment, 0).await? {
                Some(_) => Ok((segment, Some(self.read(segment).await?))),
                None => Ok((segment, None)),
            }
        };
        let segments = segments(&self.table, self.chunk_bytes, range.clone());
        let parts: FuturesOrdered<_> = segments.map(read).collect();
        let mut parts: Vec<(Segment, Option<Bytes>)> = Box::pin(parts.try_collect()).await?;
        if parts.len() == 1 {
            return Ok(parts.pop().and_then(|(_, data)| data));
        }
        if parts.iter().all(|(_, data)| data.is_none()) {
            return Ok(None);
        }
        let index = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let mut whole = BytesMut::with_capacity(index(range.end - range.start));
        for (segment, data) in parts {
            match data {
                Some(data) => whole.extend_from_slice(&data),
                None => whole.resize(whole.len() + index(segment.len), 0),
            }
        }
        Ok(Some(whole.freeze()))
    }
}

/// A table that is filled in batches, each of them sorted: all exceptions at once would take thrice its memory.
#[derive(Default)]
struct Exceptions {
    batch: Vec<Exception>,
    table: Table,
    repeated: Option<Duplicate>,
}

/// In one batch.
const BATCH: usize = 1 << 16;

impl Exceptions {
    fn push(&mut self, exception: Exception) {
        self.batch.push(exception);
        if self.batch.len() == BATCH {
            self.pack();
        }
    }

    fn pack(&mut self) {
        self.batch.sort_unstable_by_key(|exception| exception.old);
        for exception in self.batch.drain(..) {
            if let Err(repeated) = self.table.insert(exception) {
                self.repeated.get_or_insert(repeated);
            }
        }
    }

    fn finish(mut self) -> Result<Table, Duplicate> {
        self.pack();
        match self.repeated {
            Some(repeated) => Err(repeated),
            None => Ok(self.table),
        }
    }
}

/// A range of the image from front to back: what has an exception from the COW device, the rest from the
/// origin.
fn segments(table: &Table, chunk: u64, range: Range<u64>) -> impl Iterator<Item = Segment> {
    let end =
        Run { old: OriginChunk::new(range.end.div_ceil(chunk)), new: CowChunk::new(0), len: 0 };
    let runs = table.runs_from(OriginChunk::new(range.start / chunk));
    let runs = runs.take_while(move |run| run.old < end.old).chain([end]);
    let (mut position, end) = (range.start, range.end);
    runs.flat_map(move |run| {
        let begin = run.old.get() * chunk;
        let to = begin.clamp(position, end);
        let before =
            Segment { from_origin: true, from: position, to: position, len: to - position };
        let len = (begin + run.len * chunk).min(end).saturating_sub(to);
        // The range may begin inside a chunk.
        let skipped = to.saturating_sub(begin);
        let from = run.new.get() * chunk + skipped;
        let saved = Segment { from_origin: false, from, to, len };
        position = to + len;
        [before, saved].into_iter().filter(|segment| segment.len > 0)
    })
}
