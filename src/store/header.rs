use bytes::Bytes;
use dmsnap_format::{ChunkSize, Header, HeaderError, RawHeader};
use zerocopy::IntoBytes;

use super::StoreError;
use crate::device::Device;

/// Reads and judges the header of a COW device.
///
/// # Errors
///
/// [`StoreError::Header`] if there is no store that could be opened; an error of the device.
pub async fn read_header<D: Device>(cow: &D) -> Result<Header, StoreError> {
    let cow_bytes = cow.len_bytes().map_err(StoreError::io("cannot find out the size"))?;
    let needed_bytes = 2 * ChunkSize::MIN.bytes();
    if cow_bytes < needed_bytes {
        return Err(StoreError::TooSmall { cow_bytes, needed_bytes });
    }
    let bytes = cow.read(0, 512).await.map_err(StoreError::io("cannot read the header"))?;
    let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
    Ok(raw.validate()?)
}

/// Writes a header that says that the snapshot was dropped, over the one that is there. It is not
/// durable yet.
pub(super) async fn write_invalid<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot mark the store as invalid");
    let unit = u64::from(cow.block_bytes()).min(chunk_size.bytes());
    let unit = usize::try_from(unit).unwrap_or(usize::MAX);
    let mut bytes = cow.read(0, unit).await.map_err(failed())?;
    let raw = RawHeader::new(chunk_size, false);
    bytes[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
    cow.write(0, Bytes::from_owner(bytes)).await.map_err(failed())
}
