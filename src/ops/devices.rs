use dmsnap_format::{ChunkSize, MAGIC, SECTOR_BYTES};

use super::{Error, Which};
use crate::device::Device;
use crate::signature::{self, Class, Sample};
use crate::store::{
    BaseFence, FenceBreak, StoreError, read_header, refuse_part_blocks, told_bytes,
};

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

/// The size of what a snapshot shows, in bytes: what is given, or what its store says of itself, or else that of the
/// origin. Zeroes follow an origin that is shorter. `None` if nobody says it.
///
/// # Errors
///
/// [`Error::PartSectors`]; an error of a device.
pub async fn shown_bytes<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    told: Option<u64>,
) -> Result<Option<u64>, Error> {
    match told_bytes(cow, told).await? {
        Some(told) if !told.is_multiple_of(SECTOR_BYTES) => {
            Err(Error::PartSectors { snapshot_bytes: told })
        }
        Some(told) => Ok(Some(told)),
        None => origin.map(|origin| whole_sectors(origin, Which::Origin)).transpose(),
    }
}

/// The size of a snapshot that is to be merged, which its origin must have room for.
///
/// # Errors
///
/// [`Error::OriginTooSmall`], and as [`shown_bytes`].
pub(super) async fn merged_bytes<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    told: Option<u64>,
) -> Result<u64, Error> {
    let origin_bytes = whole_sectors(origin, Which::Origin)?;
    match shown_bytes(cow, Some(origin), told).await?.unwrap_or(origin_bytes) {
        snapshot_bytes if snapshot_bytes > origin_bytes => {
            Err(Error::OriginTooSmall { origin_bytes, snapshot_bytes })
        }
        snapshot_bytes => Ok(snapshot_bytes),
    }
}

/// What speaks against an origin, if anything does.
///
/// # Errors
///
/// An error of the origin.
pub(super) async fn changed_origin<O: Device>(
    fence: &BaseFence,
    origin: &O,
) -> Result<Option<FenceBreak>, Error> {
    let now = whole_sectors(origin, Which::Origin)?;
    fence
        .compare(origin, now)
        .await
        .map_err(Error::io(Which::Origin, "cannot read what is compared"))
}

/// Refuses an origin that is not what the store remembers.
pub(super) async fn refuse_changed<O: Device>(fence: &BaseFence, origin: &O) -> Result<(), Error> {
    match changed_origin(fence, origin).await? {
        Some(found) => Err(Error::OriginChanged(found)),
        None => Ok(()),
    }
}

/// Refuses devices that look swapped, or (without `force`) an origin that looks like a store.
pub(super) async fn right_way_round<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    force: bool,
) -> Result<(), Error> {
    let cow_is_store = begins_with_store(cow, Which::Cow).await?;
    match (cow_is_store, begins_with_store(origin, Which::Origin).await?) {
        (false, true) => Err(Error::Swapped),
        (true, true) if !force => Err(Error::OriginIsStore),
        _ => Ok(()),
    }
}

/// Whether a device begins like a store, in whatever state. `which` it is is for errors.
///
/// # Errors
///
/// [`Error::Io`]
pub async fn begins_with_store<D: Device>(device: &D, which: Which) -> Result<bool, Error> {
    let len = device.len_bytes().map_err(Error::unknown_size(which))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(512);
    let first = device.read(0, len).await;
    Ok(first.map_err(Error::io(which, "cannot read the first sector"))?.starts_with(&MAGIC))
}

/// Refuses chunks that are not made of whole blocks of a device: a kernel would not map the snapshot.
///
/// # Errors
///
/// [`Error::PartBlocks`]
pub fn refuse_chunk_size(
    chunk_size: ChunkSize,
    device: &impl Device,
    which: Which,
) -> Result<(), Error> {
    let refused = refuse_part_blocks(chunk_size, device);
    refused.map_err(|source| Error::PartBlocks { device: which, source })
}

/// Refuses a device that is not to become another store: a disk of a RAID in any case; without `force` also one
/// with a valid store, or with anything else that is known.
///
/// # Errors
///
/// [`Error::RaidMember`], [`Error::StoreExists`], [`Error::Occupied`]; an error of the device.
pub(super) async fn refuse_other_content<C: Device>(cow: &C, force: bool) -> Result<(), Error> {
    let cow_bytes = whole_sectors(cow, Which::Cow)?;
    if let Some(found) = signature::raid_member(cow, 0..cow_bytes).await {
        return Err(Error::RaidMember { found });
    }
    if force {
        return Ok(());
    }
    match read_header(cow).await {
        Ok(header) if header.valid => return Err(Error::StoreExists),
        Err(error @ StoreError::Io { .. }) => return Err(error.into()),
        // Dropped, damaged, or none: nothing is lost.
        _ => {}
    }
    let sample = Sample::read(cow, 0..cow_bytes).await;
    let sample = sample.map_err(Error::io(Which::Cow, "cannot look at what is there"))?;
    let found = signature::find(&sample).into_iter().find(|it| it.kind.class != Class::Store);
    found.map_or(Ok(()), |found| Err(Error::Occupied { found }))
}
