use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::threads::blocking;

/// Lets one file share the extents of another. False, with nothing changed, where that cannot be.
pub(in crate::device) async fn reflink(
    (source, from_at): (Arc<File>, u64),
    (target, to_at): (Arc<File>, u64),
    len: NonZeroU64,
) -> io::Result<bool> {
    let clone = move || {
        reflink_copy::ReflinkBlockBuilder::new(&source, &target, len)
            .from_offset(from_at)
            .to_offset(to_at)
            .reflink_block()
    };
    match blocking(clone).await {
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
