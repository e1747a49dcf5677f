//! What lies on a device, told by its magics: file systems, RAID members, physical volumes, encrypted
//! containers, partition tables, formats of images, compressed files.
//!
//! A [`Sample`] is what was read at the places where they lie; [`find`] tells what it knows in a sample,
//! and does no I/O. Where `blkid` knows a kind, [`Kind::name`] is its name there.

mod sample; // the bytes at known places
mod table; // what a kind is, and how it is known
mod filesystems;
mod layers; // RAID, volume managers, encryption, caches
mod images; // formats of images, compressed files
mod partitions; // partition tables, and what lies in a partition
mod raid; // members of md arrays
mod kinds; // all of them

use std::io;
use std::ops::Range;

use crate::device::Device;

pub use kinds::kinds;
pub use raid::raid_member;
pub use sample::Sample;
pub use table::{Class, Found, Kind};

/// Everything that is known in a sample. What lies outermost comes first: an image before what it
/// seems to hold, a RAID member before the file system of the array.
pub fn find(sample: &Sample) -> Vec<Found> {
    let mut found: Vec<Found> = kinds::entries()
        .filter_map(|entry| Some(Found { kind: &entry.kind, at: entry.find(sample)? }))
        .collect();
    found.sort_by_key(|it| it.kind.class);
    found
}

/// Reads the known places of a device and tells what lies there.
///
/// # Errors
///
/// Any error of the device.
pub async fn look<D: Device>(device: &D) -> io::Result<Vec<Found>> {
    let len = device.len_bytes()?;
    Ok(find(&Sample::read(device, 0..len).await?))
}

/// As [`look`], for those who only want to name what they cannot use: the first of all; `None` also if
/// the device cannot be read.
pub async fn name<D: Device>(device: &D) -> Option<Found> {
    look(device).await.ok()?.into_iter().next()
}

/// An image that is not raw, or a packed file: what is taken as a disk would be its container. `None` also
/// if the device cannot be read.
pub async fn packed<D: Device>(device: &D) -> Option<Found> {
    const BYTES: u64 = 4096;
    let len = device.len_bytes().ok()?;
    let ends = [0..BYTES, len.saturating_sub(BYTES)..len];
    let found = find(&Sample::of_ranges(device, 0..len, ends).await);
    found.into_iter().find(|it| matches!(it.kind.class, Class::Compressed | Class::Image))
}

/// The first byte of a range that is not zero. Holes are skipped.
///
/// # Errors
///
/// Any error of the device.
pub async fn first_not_zero<D: Device>(device: &D, range: Range<u64>) -> io::Result<Option<u64>> {
    const PIECE: u64 = 1 << 20;
    let mut at = range.start;
    while at < range.end {
        let Some(data) = device.next_data(at).await? else { return Ok(None) };
        at = at.max(data.start);
        let end = data.end.min(range.end).min(at.saturating_add(PIECE));
        if at >= end {
            return Ok(None);
        }
        let len = usize::try_from(end - at).map_err(io::Error::other)?;
        let bytes = device.read(at, len).await?;
        if let Some(n) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + n as u64));
        }
        at = end;
    }
    Ok(None)
}
