use std::io;
use std::num::NonZeroU64;

use super::Device;

/// Lets `to` share the extents of `from` for a range, without moving a byte. Durable, like a
/// write, after a flush of `to`.
///
/// Returns false, with nothing changed, where that cannot be: not both are files, not of one file
/// system, the file system cannot, or the range is not aligned to its blocks.
///
/// # Errors
///
/// Only what a copy would meet as well: an error of a disk, no space.
pub async fn share<F: Device, T: Device>(
    (from, from_at): (&F, u64),
    (to, to_at): (&T, u64),
    len: u64,
) -> io::Result<bool> {
    let (Some(source), Some(target), Some(len)) =
        (from.kernel_file(), to.kernel_file(), NonZeroU64::new(len))
    else {
        return Ok(false);
    };
    let clone = move || {
        reflink_copy::ReflinkBlockBuilder::new(&source, &target, len)
            .from_offset(from_at)
            .to_offset(to_at)
            .reflink_block()
    };
    match super::threads::blocking(clone).await {
        Ok(()) => Ok(true),
        Err(error) if fatal(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Everything else says "not this way": EXDEV, EINVAL, EOPNOTSUPP, ENOTTY, EPERM, ...
fn fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
