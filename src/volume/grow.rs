use std::io;

use crate::device::{Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::StoreError;

/// A full COW device grows by this many bytes at least.
const LEAST_BYTES: u64 = 16 << 20;

/// Makes a COW device longer, up to `max_bytes`. Without room below it that is what it is without leave to
/// grow: full.
///
/// # Errors
///
/// [`StoreError::Full`] if it is as long as it may be, or cannot grow; an error of the device.
pub(super) async fn grow<C: Device>(cow: &C, max_bytes: Option<u64>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { doing: "cannot grow the COW device".into(), source };
    let len = cow.len_bytes().map_err(failed)?;
    let most = max_bytes.unwrap_or(0);
    if len >= most {
        return Err(StoreError::Full);
    }
    let grown = cow.grow((len + LEAST_BYTES.max(len / 8)).min(most)).await;
    match grown {
        Err(error) if planted(Planted::GrowthFails) => Err(failed(error)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported || is_no_room(&error) => {
            Err(StoreError::Full)
        }
        Err(error) => Err(failed(error)),
        Ok(()) if cow.len_bytes().map_err(failed)? > len => Ok(()),
        Ok(()) => Err(StoreError::Full),
    }
}
