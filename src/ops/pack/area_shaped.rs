use std::ops::Range;

use dmsnap_format::{ChunkSize, Extents, Layout, RawException, SLOT_BYTES};

use crate::copy::union;
use crate::device::Device;
use crate::ops::{Error, Which};

/// The most bytes that are taken for areas, of all chunk sizes together.
const MOST_BYTES: u64 = 64 << 20;

/// The most that is read, and taken, at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// The ranges of a device that look like areas of any chunk size: a list of exceptions, each of which fits
/// the device, from the first slot of area 0 on. In order, without overlaps.
pub(super) async fn area_shaped<C: Device>(
    cow: &C,
    cow_bytes: u64,
) -> Result<Vec<Range<u64>>, Error> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut left = MOST_BYTES;
    for chunk_size in ChunkSize::all() {
        let extents = Extents::new(Layout::new(chunk_size), cow_bytes, None);
        for area in (0..).take_while(|area| extents.has_area(*area)) {
            let taken = one_area(cow, extents, area, left).await?;
            let Some((range, is_full)) = taken else { break };
            left = left.saturating_sub(range.end - range.start);
            found.push(range);
            if !is_full || left == 0 {
                break;
            }
        }
    }
    Ok(union(found))
}

/// The front of an area as far as its slots are believable, in whole pieces, and whether it is full of such;
/// `None` if not even its first slot is.
async fn one_area<C: Device>(
    cow: &C,
    extents: Extents,
    area: u64,
    most_bytes: u64,
) -> Result<Option<(Range<u64>, bool)>, Error> {
    let per_area = extents.layout.exceptions_per_area();
    let Some(start) = extents.layout.slot_byte(area.saturating_mul(per_area)) else {
        return Ok(None);
    };
    let end = start + per_area * SLOT_BYTES;
    let mut at = start;
    let mut is_full = true;
    while at < end && at - start < most_bytes && is_full {
        let len = (end - at).min(PIECE_BYTES);
        let bytes = cow.read_medium(at, usize::try_from(len).unwrap_or(0)).await;
        let bytes = bytes.map_err(Error::io(Which::Cow, format!("cannot read at byte {at}")))?;
        let slots = RawException::slots(&bytes).iter();
        let believable = slots.take_while(|slot| {
            slot.decode().is_some_and(|exception| extents.check(exception).is_ok())
        });
        let believable = believable.count() as u64;
        if believable == 0 {
            return Ok((at > start).then_some((start..at, false)));
        }
        is_full = believable * SLOT_BYTES == len;
        at += len;
    }
    Ok(Some((start..at, is_full && at == end)))
}
