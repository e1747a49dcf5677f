use std::io::Read;

use bytes::Bytes;
use dmsnap_format::{ChunkSize, Exception, Layout, RawException, SLOT_BYTES};
use zerocopy::IntoBytes;

use super::reader::{PackReader, Piece};
use crate::copy::index;
use crate::device::{Allocation, Device};
use crate::ops::devices::{begins_with_store, refuse_other_content};
use crate::ops::{Error, Which};

/// What says whether a store is here, in bytes.
const FIRST_SECTOR: usize = 512;

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Unpacked {
    /// Size of the device the pack was made of.
    pub cow_bytes: u64,
    /// In sectors; `None` if that device did not read as a store.
    pub chunk_size_sectors: Option<u32>,
    /// Exceptions written.
    pub exceptions: u64,
    /// Bytes of areas that were written as they were.
    pub raw_bytes: u64,
}

/// Writes the metadata in a pack to `cow`, where it lay on the device that it was made of. No data chunk is
/// touched: on that same device, the old store is there again. A device that is larger keeps its rest.
///
/// The pack is written as it is read. A caller that wants nothing to be written because of a damaged one reads
/// it to its end first ([`read_pack`](super::read_pack)).
///
/// # Ordering
///
/// 1. if a store begins here: zero the first sector, flush                - no store is here
/// 2. write slots, zeroes from the end of the list to the end of its area, and bytes that were kept as they
///    were; flush                                                        - the areas are whole
/// 3. write the first sector, flush                                      - the store is there
///
/// A crash, or an error, before 3 leaves a device that every reader takes for one without a store: the same
/// call brings it back.
///
/// # Errors
///
/// Before anything is written: [`Error::Pack`] of a head that cannot be read; [`Error::CowTooSmall`];
/// [`Error::RaidMember`]; without `force` also [`Error::StoreExists`] and [`Error::Occupied`]. Later:
/// [`Error::Pack`], and any error of the device.
pub async fn unpack<R: Read, C: Device>(
    from: &mut R,
    cow: &C,
    force: bool,
) -> Result<Unpacked, Error> {
    let mut pack = PackReader::new(from)?;
    let cow_bytes = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
    let needed_bytes = pack.head.cow_bytes;
    if cow_bytes < needed_bytes {
        return Err(Error::CowTooSmall { cow_bytes, needed_bytes });
    }
    refuse_other_content(cow, force).await?;
    let target = Target { cow, cow_bytes: needed_bytes };
    let sector = FIRST_SECTOR.min(index(needed_bytes));
    if begins_with_store(cow, Which::Cow).await? {
        target.write(0, vec![0; sector]).await?;
        target.flush().await?;
    }
    let mut begin = target.areas(&mut pack).await?;
    let after_sector = begin.split_off(sector.min(begin.len()));
    target.write(sector as u64, after_sector).await?;
    target.flush().await?;
    target.write(0, begin).await?;
    target.flush().await?;
    Ok(Unpacked {
        cow_bytes: needed_bytes,
        chunk_size_sectors: pack.head.chunk_size.map(ChunkSize::sectors),
        exceptions: pack.read.exceptions,
        raw_bytes: pack.read.raw_bytes,
    })
}

/// A device with room for everything that the pack has.
struct Target<'a, C> {
    cow: &'a C,
    /// Of the device that the pack was made of.
    cow_bytes: u64,
}

impl<C: Device> Target<'_, C> {
    /// Writes all but the beginning of the device, and gives that.
    async fn areas<R: Read>(&self, pack: &mut PackReader<R>) -> Result<Vec<u8>, Error> {
        let layout = pack.head.chunk_size.map(Layout::new);
        let mut begin = Vec::new();
        let mut list_is_ended = false;
        loop {
            let piece = pack.next()?;
            // What lies after the list comes after it in the pack as well.
            let ends_list = matches!(piece, None | Some(Piece::Raw(..))) && !list_is_ended;
            if let (true, Some(layout)) = (ends_list, layout) {
                self.end_list(layout, pack.read.exceptions).await?;
                list_is_ended = true;
            }
            match (piece, layout) {
                (None, _) => return Ok(begin),
                (Some(Piece::Begin(bytes)), _) => begin = bytes,
                (Some(Piece::Raw(at, bytes)), _) => self.write(at, bytes).await?,
                (Some(Piece::Slots(first, exceptions)), Some(layout)) => {
                    self.slots(layout, first, &exceptions).await?;
                }
                // The reader gives none out where it does not know the chunk size.
                (Some(Piece::Slots(..)), None) => {}
            }
        }
    }

    async fn slots(
        &self,
        layout: Layout,
        first: u64,
        exceptions: &[Exception],
    ) -> Result<(), Error> {
        let mut writes = Vec::new();
        let (mut next, mut rest) = (first, exceptions);
        while !rest.is_empty() {
            let (_, slot) = layout.position(next);
            let len = rest.len().min(index(layout.exceptions_per_area() - slot));
            let (area, after) = rest.split_at(len);
            let slots: Vec<RawException> = area.iter().copied().map(Into::into).collect();
            let at = layout.slot_byte(next).unwrap_or(u64::MAX);
            writes.push((at, Bytes::copy_from_slice(slots.as_bytes())));
            (next, rest) = (next + len as u64, after);
        }
        let written = self.cow.write_many(writes).await;
        written.map_err(Error::io(Which::Cow, format!("cannot write slots from {first} on")))
    }

    /// Zeroes the rest of the area in which the list ends. What is a hole stays one.
    async fn end_list(&self, layout: Layout, exceptions: u64) -> Result<(), Error> {
        let (_, slot) = layout.position(exceptions);
        let len = (layout.exceptions_per_area() - slot) * SLOT_BYTES;
        let at = layout.slot_byte(exceptions).unwrap_or(u64::MAX);
        if at.checked_add(len).is_none_or(|end| end > self.cow_bytes) {
            return Ok(());
        }
        let failed = || Error::io(Which::Cow, format!("cannot zero the area at byte {at}"));
        let data = self.cow.next_data(at).await.map_err(failed())?;
        match data.is_some_and(|data| data.start < at + len) {
            true => self.cow.write_zeroes(at, len, Allocation::Keep).await.map_err(failed()),
            false => Ok(()),
        }
    }

    async fn write(&self, at: u64, bytes: Vec<u8>) -> Result<(), Error> {
        let doing = format!("cannot write at byte {at}");
        self.cow.write(at, bytes.into()).await.map_err(Error::io(Which::Cow, doing))
    }

    async fn flush(&self) -> Result<(), Error> {
        self.cow.flush().await.map_err(Error::io(Which::Cow, "cannot make it durable"))
    }
}
