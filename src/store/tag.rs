use bytes::Bytes;
use dmsnap_format::{ChunkSize, TAG_AT, TAG_BYTES, Tag};

use super::StoreError;
use crate::device::Device;

/// Reads the tag of a COW device, whether or not there is a store on it.
///
/// # Errors
///
/// An error of the device.
pub async fn read_tag<D: Device>(cow: &D) -> Result<Option<Tag>, StoreError> {
    let cow_bytes = cow.len_bytes().map_err(StoreError::unknown_size)?;
    if cow_bytes < ChunkSize::MIN.bytes() {
        return Ok(None);
    }
    let sector = cow.read_medium(0, 512).await;
    Ok(Tag::from_sector(&sector.map_err(StoreError::io("cannot read the tag"))?))
}

/// The size of a snapshot, in bytes: what was told, or what its store says of itself. `None` if neither says it: then
/// it is that of the origin.
///
/// # Errors
///
/// An error of the device.
pub(crate) async fn told_bytes<D: Device>(
    cow: &D,
    told: Option<u64>,
) -> Result<Option<u64>, StoreError> {
    match told {
        Some(told) => Ok(Some(told)),
        None => {
            let says = read_tag(cow).await?.map(|tag| tag.snapshot_bytes);
            Ok(says.filter(|bytes| *bytes > 0))
        }
    }
}

/// Writes a tag over the one that is there, if any, and leaves the header as it is.
///
/// # Ordering
///
/// 1. write the tag's sector, with what else the device writes untorn    - the header in it is the old one
/// 2. flush
///
/// A crash before 2 leaves the old tag or the new one. A device that tears even that unit leaves a tag whose
/// checksum is wrong: it counts for none.
///
/// # Errors
///
/// An error of the device.
pub async fn write_tag<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
    tag: &Tag,
) -> Result<(), StoreError> {
    put_tag(cow, chunk_size, tag).await?;
    cow.flush().await.map_err(StoreError::io("cannot make the tag durable"))
}

/// The same, not durable yet.
pub(super) async fn put_tag<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
    tag: &Tag,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot write the tag");
    let unit = u64::from(cow.block_bytes()).min(chunk_size.bytes());
    let mut unit =
        cow.read_medium(0, usize::try_from(unit).unwrap_or(usize::MAX)).await.map_err(failed())?;
    insert(&mut unit, tag);
    cow.write(0, Bytes::from_owner(unit)).await.map_err(failed())
}

/// Puts a tag into the first bytes of chunk 0.
pub(super) fn insert(chunk: &mut [u8], tag: &Tag) {
    chunk[TAG_AT..TAG_AT + TAG_BYTES].copy_from_slice(&tag.to_bytes());
}
