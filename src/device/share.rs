use std::io;
use std::num::NonZeroU64;

#[cfg(feature = "file")]
use super::file::reflink;
use super::interface::Device;

/// Lets `to` share the extents of `from` for a range, without moving a byte. Durable, like a
/// write, after a flush of `to`.
///
/// Returns false, with nothing changed, where that cannot be: not both are files, not of one file
/// system, the file system cannot, or the range is not aligned to its blocks. Without the feature `file`
/// it never can.
///
/// # Errors
///
/// Only what a copy would meet as well: an error of a disk, no space.
pub async fn share<F: Device, T: Device>(
    (from, from_at): (&F, u64),
    (to, to_at): (&T, u64),
    len: u64,
) -> io::Result<bool> {
    match (from.kernel_file(), to.kernel_file(), NonZeroU64::new(len)) {
        (Some(from), Some(to), Some(len)) => reflink((from, from_at), (to, to_at), len).await,
        _ => Ok(false),
    }
}

#[cfg(not(feature = "file"))]
async fn reflink<F>(_: (F, u64), _: (F, u64), _: NonZeroU64) -> io::Result<bool> {
    Ok(false)
}
