use std::io;
use std::ops::Range;

use dmsnap::device::Device;

use super::extent::{Extent, HOLE, ZERO};

/// Extents begin and end at a multiple of this many bytes, or at the end of the device.
const SECTOR_BYTES: u64 = 512;

/// The extents of [`StatusKind::Allocation`](super::StatusKind::Allocation) for a device: what
/// [`Device::next_data`] passes over is hole and zero.
///
/// # Errors
///
/// Any error of the device.
pub async fn allocation<D: Device>(
    device: &D,
    range: Range<u64>,
    most: usize,
) -> io::Result<Vec<Extent>> {
    let sector = SECTOR_BYTES;
    let mut extents = Vec::new();
    let mut at = range.start;
    let mut put = |at: &mut u64, end: u64, flags| {
        let end = end.min(range.end);
        if end > *at {
            extents.push(Extent { len_bytes: end - *at, flags });
            *at = end;
        }
        extents.len()
    };
    while at < range.end {
        let Some(data) = device.next_data(at).await? else {
            put(&mut at, range.end, HOLE | ZERO);
            break;
        };
        if data.end <= at {
            return Err(io::Error::other(
                "the device names data before the place that was asked for",
            ));
        }
        // A sector with any data in it is data.
        let data = data.start / sector * sector..data.end.next_multiple_of(sector);
        if put(&mut at, data.start, HOLE | ZERO) >= most || put(&mut at, data.end, 0) >= most {
            break;
        }
    }
    Ok(extents)
}
