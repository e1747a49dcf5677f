use dmsnap_format::{ChunkSize, Layout, RawHeader};
use zerocopy::IntoBytes;

use super::StoreError;
use crate::device::{Allocation, Buffer, Device};
use crate::planted::{Planted, planted};

/// Makes an empty store.
///
/// # Ordering
///
/// 1. if the device does not begin with zeroes: zero the header, flush    - no store is here
/// 2. zero area 0, flush                                                  - the list is empty
/// 3. write the header, flush                                             - the store exists
///
/// A crash before 3 leaves a device that every reader takes for one without a store. The kernel
/// writes the header first and flushes nothing, so that a crash can leave a store whose exceptions
/// are whatever lay in area 0.
///
/// # Errors
///
/// [`StoreError::TooSmall`] before anything is written; any error of the device.
pub async fn format<D: Device>(cow: &D, chunk_size: ChunkSize) -> Result<(), StoreError> {
    let cow_bytes = cow.len_bytes().map_err(StoreError::io("cannot find out the size"))?;
    let needed_bytes = 2 * chunk_size.bytes();
    if cow_bytes < needed_bytes {
        return Err(StoreError::TooSmall { cow_bytes, needed_bytes });
    }
    let unit = u64::from(cow.block_bytes()).min(chunk_size.bytes());
    let unit = usize::try_from(unit).unwrap_or(usize::MAX);
    let write_failed = || StoreError::io("cannot write the header");
    let area_failed = || StoreError::io("cannot zero the first area");

    let before = cow.read(0, unit).await.map_err(StoreError::io("cannot read the header"))?;
    if before.iter().any(|byte| *byte != 0) {
        cow.write(0, Buffer::zeroed(unit).freeze()).await.map_err(write_failed())?;
        cow.flush().await.map_err(write_failed())?;
    }
    let area = Layout::new(chunk_size).area_location(0).get() * chunk_size.bytes();
    let zeroed = cow.write_zeroes(area, chunk_size.bytes(), Allocation::Keep).await;
    zeroed.map_err(area_failed())?;
    if !planted(Planted::HeaderBeforeArea) {
        cow.flush().await.map_err(area_failed())?;
    }

    let mut header = Buffer::zeroed(unit);
    let raw = RawHeader::new(chunk_size, true);
    header[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
    cow.write(0, header.freeze()).await.map_err(write_failed())?;
    cow.flush().await.map_err(write_failed())
}
