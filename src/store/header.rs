use bytes::Bytes;
use dmsnap_format::{ChunkSize, Header, HeaderError, RawHeader, Tag, TagState};
use zerocopy::IntoBytes;

use super::StoreError;
use super::tag::insert;
use crate::device::{Buffer, Device};

/// Reads and judges the header of a COW device.
///
/// # Errors
///
/// [`StoreError::Header`] if there is no store that could be opened; [`StoreError::RepairBegun`]; an error of
/// the device.
pub async fn read_header<D: Device>(cow: &D) -> Result<Header, StoreError> {
    Ok(read_first_sector(cow).await?.0)
}

/// The same, and the tag if there is one.
///
/// # Errors
///
/// As [`read_header`]; [`StoreError::RepairBegun`] if the tag says why there is no header.
pub(super) async fn read_first_sector<D: Device>(
    cow: &D,
) -> Result<(Header, Option<Tag>), StoreError> {
    let cow_bytes = cow.len_bytes().map_err(StoreError::unknown_size)?;
    let needed_bytes = 2 * ChunkSize::MIN.bytes();
    if cow_bytes < needed_bytes {
        return Err(StoreError::TooSmall { cow_bytes, needed_bytes });
    }
    let bytes = cow.read_medium(0, 512).await;
    let bytes = bytes.map_err(StoreError::io("cannot read the header"))?;
    let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
    let tag = Tag::from_sector(&bytes);
    match raw.validate() {
        Ok(header) => Ok((header, tag)),
        Err(_) if tag.is_some_and(|tag| tag.state == TagState::Repairing) => {
            Err(StoreError::RepairBegun)
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses chunks that are not made of whole blocks of a device.
///
/// Kernel: `dm_exception_store_set_chunk_size`.
///
/// # Errors
///
/// [`StoreError::PartBlocks`], with both sizes.
pub fn refuse_part_blocks(chunk_size: ChunkSize, device: &impl Device) -> Result<(), StoreError> {
    let chunk_bytes = chunk_size.bytes();
    let block_bytes = u64::from(device.logical_block_bytes());
    match chunk_bytes.is_multiple_of(block_bytes) {
        true => Ok(()),
        false => Err(StoreError::PartBlocks { block_bytes, chunk_bytes }),
    }
}

/// Writes a header that says that the snapshot was dropped, over the one that is there. It is not
/// durable yet.
pub(super) async fn write_invalid<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot mark the store as invalid");
    let mut bytes = cow.read_medium(0, unit_bytes(cow, chunk_size)).await.map_err(failed())?;
    let raw = RawHeader::new(chunk_size, false);
    bytes[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
    cow.write(0, Bytes::from_owner(bytes)).await.map_err(failed())
}

/// Makes sure that no store is here, durably.
pub(super) async fn clear_header<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot write the header");
    let unit = unit_bytes(cow, chunk_size);
    let before = cow.read(0, unit).await.map_err(StoreError::io("cannot read the header"))?;
    if before.iter().any(|byte| *byte != 0) {
        cow.write(0, Buffer::zeroed(unit).freeze()).await.map_err(failed())?;
        cow.flush().await.map_err(failed())?;
    }
    Ok(())
}

/// Makes sure that no store is here, durably, and says what is being made.
pub(super) async fn announce<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
    tag: &Tag,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot write the header");
    let mut unit = Buffer::zeroed(unit_bytes(cow, chunk_size));
    insert(&mut unit, tag);
    cow.write(0, unit.freeze()).await.map_err(failed())?;
    cow.flush().await.map_err(failed())
}

/// Writes the header of a store and its tag, durably.
pub(super) async fn write_header<D: Device>(
    cow: &D,
    chunk_size: ChunkSize,
    valid: bool,
    tag: Option<&Tag>,
) -> Result<(), StoreError> {
    let failed = || StoreError::io("cannot write the header");
    let mut header = Buffer::zeroed(unit_bytes(cow, chunk_size));
    let raw = RawHeader::new(chunk_size, valid);
    header[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
    if let Some(tag) = tag {
        insert(&mut header, tag);
    }
    cow.write(0, header.freeze()).await.map_err(failed())?;
    cow.flush().await.map_err(failed())
}

/// What is written of the header's chunk: as much as the device writes untorn.
fn unit_bytes<D: Device>(cow: &D, chunk_size: ChunkSize) -> usize {
    let unit = u64::from(cow.block_bytes()).min(chunk_size.bytes());
    usize::try_from(unit).unwrap_or(usize::MAX)
}
