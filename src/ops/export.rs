use std::cell::Cell;
use std::ops::Range;

use bytes::Bytes;
use dmsnap_format::{OriginChunk, Run};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::devices::{refuse_changed, right_way_round, snapshot_bytes, whole_sectors};
use super::{Error, Observer, Progress, Which};
use crate::copy::union;
use crate::device::{Device, share};
use crate::store::Reader;
use crate::table::Table;

/// The most that is read and written at a time, and shared at a time.
const COPY_BYTES: u64 = 1 << 20;
const SHARE_BYTES: u64 = 64 << 20;

/// Copies in flight.
const COPIES: usize = 32;

/// Zeroes are left out in whole blocks of this size and alignment, which is what file systems
/// allocate.
const BLOCK_BYTES: usize = 4096;

/// How to export.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Export an invalid store too: what it saved, on an origin that may have changed since.
    pub allow_invalid: bool,
    /// The size of the snapshot, and so of the image; by default that of the origin.
    pub len_bytes: Option<u64>,
    /// Export although the origin is not what the store remembers of it.
    pub ignore_fence: bool,
}

/// What an export did.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Exported {
    /// Size of the image, in bytes.
    pub image_bytes: u64,
    /// Bytes written: what differs from zero.
    pub written_bytes: u64,
    /// Bytes whose extents the output shares with origin or COW device instead of a copy.
    pub shared_bytes: u64,
    /// Exceptions seen.
    pub exceptions: u64,
    /// Flushes of the output.
    pub flushes: u64,
}

/// Writes the snapshot's content to `output`, which must read as zeroes and be at least as long as
/// the snapshot. Only what differs from zero is written, and where all three are files of one file
/// system that can share extents, not even that.
///
/// # Ordering
///
/// Data in any order, then one flush: a crash before it leaves an image of unknown content.
///
/// # Errors
///
/// Before anything is written: devices that look swapped, an invalid store (unless allowed), an
/// exception that cannot be believed, an output that is too small. Later: any error of a device,
/// or [`Error::Stopped`].
pub async fn export<C: Device, O: Device, T: Device>(
    cow: &C,
    origin: &O,
    output: &T,
    options: ExportOptions,
    observer: &impl Observer,
) -> Result<Exported, Error> {
    let source = Source::new(cow, origin, options).await?;
    let room = whole_sectors(output, Which::Output)?;
    if room < source.image_bytes {
        let image_bytes = source.image_bytes;
        return Err(Error::OutputTooSmall { output_bytes: room, image_bytes });
    }
    let export = Export {
        source: &source,
        output,
        observer,
        sharing: Cell::new(true),
        done: Cell::new(0),
        written: Cell::new(0),
        shared: Cell::new(0),
    };
    export.run().await?;
    output.flush().await.map_err(Error::io(Which::Output, "cannot make the image durable"))?;
    Ok(Exported {
        image_bytes: source.image_bytes,
        written_bytes: export.written.get(),
        shared_bytes: export.shared.get(),
        exceptions: source.exceptions,
        flushes: 1,
    })
}

/// What an image is made of, judged.
pub(super) struct Source<'a, C, O> {
    cow: Side<'a, C>,
    origin: Side<'a, O>,
    table: Table,
    chunk_bytes: u64,
    pub(super) image_bytes: u64,
    pub(super) exceptions: u64,
}

impl<'a, C: Device, O: Device> Source<'a, C, O> {
    pub(super) async fn new(
        cow: &'a C,
        origin: &'a O,
        options: ExportOptions,
    ) -> Result<Self, Error> {
        right_way_round(cow, origin, true).await?;
        let image_bytes = snapshot_bytes(origin, options.len_bytes)?;
        let reader = Reader::open(cow, Some(image_bytes)).await?;
        if !reader.header().valid && !options.allow_invalid {
            return Err(Error::Invalid);
        }
        let mut exceptions = Vec::new();
        let mut fence = reader.fence();
        reader
            .believe(|exception| {
                fence.see(exception.old);
                exceptions.push(exception);
            })
            .await?;
        if reader.header().valid && !options.ignore_fence {
            refuse_changed(&fence, origin).await?;
        }
        let count = exceptions.len() as u64;
        let table = Table::from_exceptions(exceptions).map_err(Error::Duplicate)?;
        Ok(Self {
            cow: Side::new(cow, Which::Cow),
            origin: Side::new(origin, Which::Origin),
            table,
            chunk_bytes: reader.layout().chunk_size().bytes(),
            image_bytes,
            exceptions: count,
        })
    }

    /// The image from front to back.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> {
        segments(&self.table, self.chunk_bytes, self.image_bytes)
    }

    /// The next stretch of a segment, at or after `offset`, that is not a hole; as offsets into it.
    pub(super) async fn next_data(
        &self,
        segment: Segment,
        offset: u64,
    ) -> Result<Option<Range<u64>>, Error> {
        let (from, end) = (segment.from + offset, segment.from + segment.len);
        let data = match segment.which {
            Which::Cow => self.cow.next_data(from).await?,
            _ => self.origin.next_data(from).await?,
        };
        Ok(data
            .map(|data| data.start.max(from)..data.end.min(end))
            .filter(|data| data.start < data.end)
            .map(|data| data.start - segment.from..data.end - segment.from))
    }

    pub(super) async fn read(&self, piece: Segment) -> Result<Bytes, Error> {
        match piece.which {
            Which::Cow => self.cow.read(piece).await,
            _ => self.origin.read(piece).await,
        }
    }
}

struct Export<'a, C, O, T, P> {
    source: &'a Source<'a, C, O>,
    output: &'a T,
    observer: &'a P,
    /// As long as it has always worked.
    sharing: Cell<bool>,
    done: Cell<u64>,
    written: Cell<u64>,
    shared: Cell<u64>,
}

/// One of the two devices the snapshot is made of.
struct Side<'a, D> {
    device: &'a D,
    which: Which,
    /// What was last found out about holes: from the first byte on there is none or data up to the
    /// begin of the range, and data in it.
    known: Cell<Option<(u64, Range<u64>)>>,
}

/// A part of the image that comes from consecutive bytes of one device.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    which: Which,
    /// First byte on that device.
    from: u64,
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

/// The image from front to back: what has an exception from the COW device, the rest from the
/// origin.
fn segments(table: &Table, chunk: u64, image_bytes: u64) -> impl Iterator<Item = Segment> {
    let end = Run {
        old: OriginChunk::new(image_bytes.div_ceil(chunk)),
        new: dmsnap_format::CowChunk::new(0),
        len: 0,
    };
    let mut position = 0;
    table.iter().chain([end]).flat_map(move |run| {
        let to = (run.old.get() * chunk).min(image_bytes);
        let before =
            Segment { which: Which::Origin, from: position, to: position, len: to - position };
        let len = (run.len * chunk).min(image_bytes - to);
        let saved = Segment { which: Which::Cow, from: run.new.get() * chunk, to, len };
        position = to + len;
        [before, saved].into_iter().filter(|segment| segment.len > 0)
    })
}

impl<C: Device, O: Device, T: Device, P: Observer> Export<'_, C, O, T, P> {
    async fn run(&self) -> Result<(), Error> {
        let mut copies = FuturesUnordered::new();
        for segment in self.source.segments() {
            let mut position = 0;
            while let Some(data) = self.source.next_data(segment, position).await? {
                position = data.end;
                let data = segment.part(data.start, data.end - data.start);
                for part in data.pieces(SHARE_BYTES) {
                    if self.observer.stop_requested() {
                        return Err(Error::Stopped);
                    }
                    if self.share(part).await? {
                        continue;
                    }
                    for piece in part.pieces(COPY_BYTES) {
                        if copies.len() >= COPIES {
                            copies.next().await.transpose()?;
                        }
                        copies.push(self.copy(piece));
                    }
                }
            }
            self.done.set(segment.to + segment.len);
            let progress = Progress { done: self.done.get(), total: self.source.image_bytes };
            self.observer.progress(progress);
        }
        while copies.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn share(&self, part: Segment) -> Result<bool, Error> {
        let block = BLOCK_BYTES as u64;
        let aligned = [part.from, part.to, part.len].iter().all(|n| n.is_multiple_of(block));
        if !self.sharing.get() || !aligned {
            return Ok(false);
        }
        let to = (self.output, part.to);
        let shared = match part.which {
            Which::Cow => share((self.source.cow.device, part.from), to, part.len).await,
            _ => share((self.source.origin.device, part.from), to, part.len).await,
        };
        let shared = shared.map_err(Error::io(Which::Output, "cannot share extents"))?;
        self.sharing.set(shared);
        self.shared.set(self.shared.get() + if shared { part.len } else { 0 });
        Ok(shared)
    }

    async fn copy(&self, piece: Segment) -> Result<(), Error> {
        self.observer.pace(piece.len).await;
        let data = self.source.read(piece).await?;
        for range in not_zero(&data) {
            let (at, part) = (piece.to + range.start as u64, data.slice(range));
            self.written.set(self.written.get() + part.len() as u64);
            let written = self.output.write(at, part).await;
            written.map_err(Error::io(Which::Output, format!("cannot write at byte {at}")))?;
        }
        Ok(())
    }
}

impl<'a, D: Device> Side<'a, D> {
    fn new(device: &'a D, which: Which) -> Self {
        Self { device, which, known: Cell::new(None) }
    }

    /// As [`Device::next_data`], but asks only where it does not know yet.
    async fn next_data(&self, at: u64) -> Result<Option<Range<u64>>, Error> {
        if let Some((asked, data)) = self.known.take() {
            let known = (asked..data.end).contains(&at);
            self.known.set(Some((asked, data.clone())));
            if known {
                return Ok(Some(data));
            }
        }
        let found = self.device.next_data(at).await;
        let found = found.map_err(Error::io(self.which, "cannot look for holes"))?;
        self.known.set(found.clone().map(|data| (at, data)));
        Ok(found)
    }

    async fn read(&self, piece: Segment) -> Result<Bytes, Error> {
        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let read = self.device.read(piece.from, len).await;
        let doing = format!("cannot read at byte {}", piece.from);
        Ok(read.map_err(Error::io(self.which, doing))?.freeze())
    }
}

/// The stretches of `data`, in whole blocks, that hold something else than zeroes.
fn not_zero(data: &[u8]) -> Vec<Range<usize>> {
    let blocks = data.chunks(BLOCK_BYTES).enumerate();
    let blocks = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    let ranges = blocks.map(|(n, block)| n * BLOCK_BYTES..n * BLOCK_BYTES + block.len());
    union(ranges.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_are_left_out_and_nothing_else() {
        let mut data = vec![0; 5 * BLOCK_BYTES + 512];
        assert!(not_zero(&data).is_empty());
        data[BLOCK_BYTES] = 1;
        data[3 * BLOCK_BYTES - 1] = 1;
        data[5 * BLOCK_BYTES + 511] = 1;
        assert_eq!(
            not_zero(&data),
            [BLOCK_BYTES..3 * BLOCK_BYTES, 5 * BLOCK_BYTES..5 * BLOCK_BYTES + 512]
        );
    }
}
