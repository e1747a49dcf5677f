use std::ops::Range;

use dmsnap_format::{CowChunk, RawHeader, Role, SECTOR_BYTES, Tally};
use zerocopy::IntoBytes;

use super::devices::whole_sectors;
use super::{Error, Observer, Progress, Which};
use crate::device::{Allocation, Buffer, Device};
use crate::store::{End, Reader, read_strays};

/// Zeroed at a time, in bytes: as often can it be stopped.
const PIECE_BYTES: u64 = 64 << 20;

/// Where the header of a store that is being wiped says how far it was in use.
const MARK_AT: usize = size_of::<RawHeader>();

/// What that begins with; the end of the range in bytes follows, little-endian.
const MARK: &[u8; 8] = b"dmsnapwi";

/// How to wipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct WipeOptions {
    /// The whole device, not only as far as the store has used it.
    pub all: bool,
    /// Give the space back as well, once it is zeroed.
    pub discard: bool,
}

/// What a wipe would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct WipePlan {
    /// False if the snapshot was dropped, or a wipe begun, before.
    pub valid: bool,
    /// How many exceptions are lost.
    pub exceptions: u64,
    /// From the first byte on, this many.
    pub bytes: u64,
}

/// What a wipe did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Wiped {
    /// How many exceptions there were.
    pub exceptions: u64,
    /// Bytes that are zero now, from the first one on.
    pub bytes: u64,
    /// Bytes whose space was given back.
    pub discarded_bytes: u64,
}

/// What [`wipe`] would do. Writes nothing.
///
/// # Errors
///
/// As [`info`](super::info), but for a list that has no end.
pub async fn plan_wipe<C: Device>(cow: &C, options: WipeOptions) -> Result<WipePlan, Error> {
    let used = Used::of(cow, options).await?;
    Ok(WipePlan { valid: used.valid, exceptions: used.exceptions, bytes: used.bytes })
}

/// Zeroes a store, so that the device can be given away: the header, every area and every chunk up to the last
/// one that an exception names, with the holes between them; also what slots after the end of the list name. A
/// store that was merged is empty, and what was merged lies there still: [`WipeOptions::all`] zeroes the whole
/// device.
///
/// # Ordering
///
/// 1. mark the store as invalid, and how far it was in use; flush     - nobody reads it any more
/// 2. zero everything but the first sector; flush                     - the data is gone
/// 3. zero the first sector; flush                                    - no store is here
/// 4. give the space back, if that is wanted
///
/// A crash, an error or a stop before 3 leaves an invalid store, which no kernel reads data from, with a part of
/// its data: the same call goes on, however little is left of the list. After 3, nothing is left. Before 1 is
/// durable the store is as it was.
///
/// # Errors
///
/// Before anything is written: as [`plan_wipe`]. Later: any error of the device, also if it cannot give space
/// back, and [`Error::Stopped`].
pub async fn wipe<C: Device>(
    cow: &C,
    options: WipeOptions,
    observer: &impl Observer,
) -> Result<Wiped, Error> {
    let used = Used::of(cow, options).await?;
    let wipe = Wipe { cow, observer, bytes: used.bytes };
    wipe.mark(used.header).await?;
    let first = SECTOR_BYTES.min(used.bytes);
    wipe.zero(first..used.bytes).await?;
    wipe.flush().await?;
    wipe.zero(0..first).await?;
    wipe.flush().await?;
    let mut discarded_bytes = 0;
    if options.discard {
        let discarded = cow.discard(0, used.bytes).await;
        let doing = "it is wiped, but its space cannot be given back";
        discarded.map_err(Error::io(Which::Cow, doing))?;
        discarded_bytes = used.bytes;
    }
    Ok(Wiped { exceptions: used.exceptions, bytes: used.bytes, discarded_bytes })
}

/// How far a device was in use.
struct Used {
    valid: bool,
    header: RawHeader,
    exceptions: u64,
    bytes: u64,
}

impl Used {
    async fn of<C: Device>(cow: &C, options: WipeOptions) -> Result<Self, Error> {
        let reader = Reader::open(cow, None).await?;
        let (layout, extents) = (reader.layout(), reader.extents());
        let chunk_bytes = layout.chunk_size().bytes();
        let mut tally = Tally::new(layout);
        let scanned = reader.scan(|_, exception| {
            tally.add(exception);
            Ok::<_, Error>(())
        });
        let (count, end) = scanned.await?;
        let mut end_chunk = tally.next_free().get();
        if end == End::Terminator {
            let (area, _) = layout.position(count);
            end_chunk = end_chunk.max(layout.area_location(area).get() + 1);
            let visited = read_strays(cow, layout, count, |_, slot| {
                let new = CowChunk::new(slot.new.get());
                if matches!(layout.role(new), Role::Data) && new.get() < extents.cow_chunks {
                    end_chunk = end_chunk.max(new.get() + 1);
                }
            });
            visited.await?;
        }
        let cow_bytes = whole_sectors(cow, Which::Cow)?;
        let listed = end_chunk.saturating_mul(chunk_bytes);
        let marked = marked(cow).await?.filter(|_| !reader.header().valid);
        let bytes = if options.all { cow_bytes } else { listed.max(marked.unwrap_or(0)) };
        let header = RawHeader::new(layout.chunk_size(), false);
        let bytes = bytes.min(cow_bytes);
        Ok(Self { valid: reader.header().valid, header, exceptions: count, bytes })
    }
}

/// What a wipe that was not finished has noted.
async fn marked<C: Device>(cow: &C) -> Result<Option<u64>, Error> {
    let sector = first_sector(cow).await?;
    let noted = sector[MARK_AT..].strip_prefix(MARK).and_then(|rest| rest.first_chunk());
    Ok(noted.map(|end| u64::from_le_bytes(*end)))
}

async fn first_sector<C: Device>(cow: &C) -> Result<Buffer, Error> {
    let sector = cow.read_medium(0, 512).await;
    sector.map_err(Error::io(Which::Cow, "cannot read the header"))
}

struct Wipe<'a, C, P> {
    cow: &'a C,
    observer: &'a P,
    bytes: u64,
}

impl<C: Device, P: Observer> Wipe<'_, C, P> {
    /// Marks the store, durably.
    async fn mark(&self, header: RawHeader) -> Result<(), Error> {
        let mut sector = first_sector(self.cow).await?;
        let mark = [header.as_bytes(), MARK, &self.bytes.to_le_bytes()].concat();
        sector[..mark.len()].copy_from_slice(&mark);
        let written = self.cow.write(0, sector.freeze()).await;
        written.map_err(Error::io(Which::Cow, "cannot mark the store as invalid"))?;
        self.flush().await
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            if self.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let len = (range.end - at).min(PIECE_BYTES);
            self.observer.pace(len).await;
            let zeroed = self.cow.write_zeroes(at, len, Allocation::MayPunch).await;
            zeroed.map_err(Error::io(Which::Cow, format!("cannot zero at byte {at}")))?;
            at += len;
            self.observer.progress(Progress { done: at, total: self.bytes });
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Error> {
        self.cow.flush().await.map_err(Error::io(Which::Cow, "cannot make it durable"))
    }
}
