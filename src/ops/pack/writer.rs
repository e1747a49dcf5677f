use std::io::{self, Write};
use std::ops::Range;

use dmsnap_format::{ChunkSize, Exception, Extents, Layout, RawException};
use zerocopy::IntoBytes;

use super::area_shaped::area_shaped;
use super::planes;
use super::record::{BANNER, Tag, compress, write_record};
use crate::device::Device;
use crate::ops::{Error, Which};
use crate::store::{End, Reader, read_exceptions, read_header, read_strays};

/// The most that is kept of the beginning of the device, in bytes.
pub(super) const MOST_BEGIN: u64 = 4096;

/// The most bytes of areas in one record.
const MOST_RAW: u64 = 1 << 20;

/// How to pack.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackOptions {
    /// Take a device whose header no kernel opens, too: without a chunk size, whatever looks like areas of any
    /// chunk size is kept as it is.
    pub raw: bool,
    /// Read the device as a store with this chunk size, whatever its header says.
    pub chunk_size: Option<ChunkSize>,
}

/// What a pack holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Packed {
    /// Exceptions of the list.
    pub exceptions: u64,
    /// Bytes of areas that are kept as they are: what lies after the list, or looks like areas.
    pub raw_bytes: u64,
    /// False if the list does not end on the device.
    pub has_end: bool,
    /// Size of the pack.
    pub pack_bytes: u64,
}

/// Writes the metadata of a store to `to`: the beginning of chunk 0, every exception, and what lies after the
/// terminator in its area. No data of any chunk is in it. The store may be invalid or damaged; nothing is
/// believed or changed. Memory stays below a few MiB.
///
/// # Errors
///
/// As [`info`](super::super::info) where there is no store, unless [`PackOptions`] says how to read it; any
/// error of the device; [`Error::Consumer`] if `to` fails.
pub async fn pack<C: Device, W: Write>(
    cow: &C,
    to: &mut W,
    options: PackOptions,
) -> Result<Packed, Error> {
    let cow_bytes = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
    let chunk_size = match (options.chunk_size, read_header(cow).await) {
        (Some(chunk_size), _) => Some(chunk_size),
        (None, Ok(header)) => Some(header.chunk_size),
        (None, Err(error)) => match Error::from(error) {
            Error::Header(_) | Error::Store(_) if options.raw => None,
            error => return Err(error),
        },
    };
    let mut pack = Pack { to, packed: Packed::default() };
    pack.begin(cow, cow_bytes, chunk_size).await?;
    match chunk_size {
        Some(chunk_size) => {
            let layout = Layout::new(chunk_size);
            pack.list(cow, Extents::new(layout, cow_bytes, None)).await?;
        }
        None => pack.areas(cow, cow_bytes).await?,
    }
    pack.end().map_err(Error::Consumer)?;
    Ok(pack.packed)
}

/// The same for a store that is about to be repaired where it is: areas after the one with the end of the list, up to
/// that of slot `end`, are kept as they are.
pub(in crate::ops) async fn pack_to_repair<C: Device, W: Write>(
    reader: &Reader<'_, C>,
    to: &mut W,
    end: u64,
) -> Result<Packed, Error> {
    let (cow, layout) = (reader.device(), reader.layout());
    let mut pack = Pack { to, packed: Packed::default() };
    pack.begin(cow, reader.cow_bytes(), Some(layout.chunk_size())).await?;
    pack.list(cow, reader.extents()).await?;
    // Without an end, the list has all areas there are.
    let past_list = layout.position(pack.packed.exceptions).0 + 1..=layout.position(end).0;
    for area in past_list.filter(|area| reader.extents().has_area(*area)) {
        let chunk_bytes = layout.chunk_size().bytes();
        let at = layout.area_location(area).get() * chunk_bytes;
        pack.raw_range(cow, at..at + chunk_bytes).await?;
    }
    pack.end().map_err(Error::Consumer)?;
    Ok(pack.packed)
}

/// A pack that is being written.
struct Pack<'a, W> {
    to: &'a mut W,
    packed: Packed,
}

impl<W: Write> Pack<'_, W> {
    fn record(&mut self, tag: Tag, body: &[u8]) -> io::Result<()> {
        self.packed.pack_bytes += body.len() as u64 + 13;
        write_record(self.to, tag, body)
    }

    /// Banner, sizes, and the beginning of the device.
    async fn begin<C: Device>(
        &mut self,
        cow: &C,
        cow_bytes: u64,
        chunk_size: Option<ChunkSize>,
    ) -> Result<(), Error> {
        let chunk_bytes = chunk_size.map_or(MOST_BEGIN, ChunkSize::bytes);
        let len = MOST_BEGIN.min(chunk_bytes).min(cow_bytes);
        let begin = cow.read_medium(0, usize::try_from(len).unwrap_or(0)).await;
        let begin = begin.map_err(Error::io(Which::Cow, "cannot read the header"))?;
        let sectors = chunk_size.map_or(0, ChunkSize::sectors);
        let head = [&cow_bytes.to_le_bytes()[..], &sectors.to_le_bytes()].concat();
        self.to.write_all(BANNER).map_err(Error::Consumer)?;
        self.packed.pack_bytes += BANNER.len() as u64;
        self.record(Tag::Head, &head).map_err(Error::Consumer)?;
        self.record(Tag::Begin, &begin).map_err(Error::Consumer)
    }

    /// Every exception, and what lies after the terminator.
    async fn list<C: Device>(&mut self, cow: &C, extents: Extents) -> Result<(), Error> {
        let layout = extents.layout;
        let mut waiting: Vec<Exception> = Vec::new();
        let scanned = read_exceptions(cow, extents, |_, exception| {
            waiting.push(exception);
            match waiting.len() < planes::MOST {
                true => Ok(()),
                false => self.slots(layout, &mut waiting).map_err(Error::Consumer),
            }
        });
        let (count, end) = scanned.await?;
        self.slots(layout, &mut waiting).map_err(Error::Consumer)?;
        self.packed.has_end = end == End::Terminator;
        match self.packed.has_end {
            true => self.strays(cow, layout, count).await,
            false => Ok(()),
        }
    }

    fn slots(&mut self, layout: Layout, waiting: &mut Vec<Exception>) -> io::Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let first = self.packed.exceptions;
        let count = u32::try_from(waiting.len()).map_err(io::Error::other)?;
        let frames = planes::encode(layout, first, waiting);
        self.packed.exceptions += u64::from(count);
        waiting.clear();
        let body = [&first.to_le_bytes()[..], &count.to_le_bytes(), &frames].concat();
        self.record(Tag::Slots, &body)
    }

    /// What is not zero in the rest of the terminator's area.
    async fn strays<C: Device>(
        &mut self,
        cow: &C,
        layout: Layout,
        terminator: u64,
    ) -> Result<(), Error> {
        let mut open: Option<(u64, Vec<RawException>)> = None;
        let mut failed = None;
        let mut write = |(first, slots): (u64, Vec<RawException>)| {
            let at = layout.slot_byte(first).unwrap_or(u64::MAX);
            if let Err(error) = self.raw(at, slots.as_bytes()) {
                failed.get_or_insert(error);
            }
        };
        let visited = read_strays(cow, layout, terminator, |index, slot| match &mut open {
            Some((first, slots))
                if *first + slots.len() as u64 == index && slots.len() < planes::MOST =>
            {
                slots.push(slot);
            }
            _ => open.replace((index, vec![slot])).into_iter().for_each(&mut write),
        });
        visited.await?;
        open.into_iter().for_each(write);
        failed.map_or(Ok(()), |error| Err(Error::Consumer(error)))
    }

    /// What looks like areas.
    async fn areas<C: Device>(&mut self, cow: &C, cow_bytes: u64) -> Result<(), Error> {
        for range in area_shaped(cow, cow_bytes).await? {
            self.raw_range(cow, range).await?;
        }
        Ok(())
    }

    /// Bytes as they are, in pieces.
    async fn raw_range<C: Device>(&mut self, cow: &C, range: Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(MOST_RAW);
            let bytes = cow.read_medium(at, usize::try_from(len).unwrap_or(0)).await;
            let doing = format!("cannot read at byte {at}");
            let bytes = bytes.map_err(Error::io(Which::Cow, doing))?;
            self.raw(at, &bytes).map_err(Error::Consumer)?;
            at += len;
        }
        Ok(())
    }

    fn raw(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.packed.raw_bytes += u64::from(len);
        let body = [&at.to_le_bytes()[..], &len.to_le_bytes(), &compress(bytes)].concat();
        self.record(Tag::Raw, &body)
    }

    fn end(&mut self) -> io::Result<()> {
        let Packed { exceptions, raw_bytes, has_end, .. } = self.packed;
        let counts = [exceptions, raw_bytes, u64::from(has_end)].map(u64::to_le_bytes);
        self.record(Tag::End, counts.as_flattened())?;
        self.to.flush()
    }
}
