use dmsnap_format::{ChunkSize, MAGIC, SECTOR_BYTES};

use super::{Error, Which};
use crate::device::Device;
use crate::store::refuse_part_blocks;

/// The size of a device in whole sectors, as bytes. What a COW device has after its last whole sector is not
/// used, as with kernels. An origin or an output is whole: the rest of a last sector that is cut short
/// reads as zeroes ([`Device::read`]).
pub(super) fn whole_sectors<D: Device>(device: &D, which: Which) -> Result<u64, Error> {
    let len = device.len_bytes().map_err(Error::unknown_size(which))?;
    Ok(match which {
        Which::Cow => len - len % SECTOR_BYTES,
        _ => len.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(len - len % SECTOR_BYTES),
    })
}

/// The size of the snapshot: that of the origin, unless it is given.
///
/// # Errors
///
/// [`Error::Refused`] if it is larger than the origin, or not to be whole sectors.
pub(super) fn snapshot_bytes<O: Device>(origin: &O, told: Option<u64>) -> Result<u64, Error> {
    let origin_bytes = whole_sectors(origin, Which::Origin)?;
    match told {
        Some(told) if told > origin_bytes => {
            let found = format!("{origin_bytes} bytes, and the snapshot of it has {told}");
            Err(Error::Refused(Which::Origin, format!("{found}: make it as large again")))
        }
        Some(told) if !told.is_multiple_of(SECTOR_BYTES) => {
            let found = format!("a snapshot of {told} bytes, which is not a multiple of 512");
            Err(Error::Refused(Which::Cow, found))
        }
        told => Ok(told.unwrap_or(origin_bytes)),
    }
}

/// Refuses devices that look swapped, or (without `force`) an origin that looks like a store.
pub(super) async fn right_way_round<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    force: bool,
) -> Result<(), Error> {
    let cow_is_store = has_magic(cow, Which::Cow).await?;
    match (cow_is_store, has_magic(origin, Which::Origin).await?) {
        (false, true) => Err(Error::Swapped),
        (true, true) if !force => Err(Error::OriginIsStore),
        _ => Ok(()),
    }
}

/// True if the device begins like a store, in whatever state.
pub(super) async fn has_magic<D: Device>(device: &D, which: Which) -> Result<bool, Error> {
    if whole_sectors(device, which)? == 0 {
        return Ok(false);
    }
    let first = device.read(0, 512).await;
    Ok(first.map_err(Error::io(which, "cannot read the first sector"))?.starts_with(&MAGIC))
}

/// Refuses chunks that are not made of whole blocks of a device: a kernel would not map the snapshot.
///
/// # Errors
///
/// [`Error::Refused`], with both sizes.
pub fn refuse_chunk_size(
    chunk_size: ChunkSize,
    device: &impl Device,
    which: Which,
) -> Result<(), Error> {
    let refused = refuse_part_blocks(chunk_size, device);
    refused.map_err(|error| Error::Refused(which, error.to_string()))
}
