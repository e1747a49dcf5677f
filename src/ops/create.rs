use std::ops::Range;

use dmsnap_format::{ChunkSize, Layout, MAGIC, SECTOR_BYTES, StoreId, Tag};

use super::devices::{refuse_chunk_size, whole_sectors};
use super::{Error, Which};
use crate::device::Device;
use crate::signature::{self, Sample};
use crate::store;

/// What a new store offers.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Created {
    /// In sectors.
    pub chunk_size_sectors: u32,
    /// Size of the COW device, in sectors.
    pub total_sectors: u64,
    /// The most exceptions it can hold.
    pub capacity_exceptions: u64,
    /// True if a kernel that fills the device to its last chunk drops the snapshot by a defect of
    /// its own; one chunk more or less avoids it.
    pub kernel_loses_last_chunk: bool,
}

/// Formats an empty store. See [`store::format`] for the order of writes.
///
/// A store takes the whole device. So without `force` everything that is overwritten now must be zero,
/// and nothing that [`signature::find`] knows may lie anywhere.
///
/// # Errors
///
/// Before anything was written: [`Error::RaidMember`]; without `force` also [`Error::Occupied`], and
/// [`Error::NotEmpty`] if there is data of any other kind.
pub async fn create<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
    force: bool,
) -> Result<Created, Error> {
    make(cow, chunk_size, force, None).await
}

/// The same for a snapshot of this `origin`: the store gets a tag with `id`, and remembers the origin's size and
/// samples of what it holds ([`store::take_fence`]). An attempt to open it later, with another origin or with
/// one that was written past the store, is refused.
///
/// # Errors
///
/// As [`create`]; an error of the origin, before anything was written.
pub async fn create_for<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    id: StoreId,
    chunk_size: ChunkSize,
    force: bool,
) -> Result<Created, Error> {
    let tag = tag_for(origin, id, chunk_size).await?;
    make(cow, chunk_size, force, Some(tag)).await
}

/// The same with what a `tag` says: of whose origin ([`tag_for`]), and how large what it shows is
/// ([`Tag::snapshot_bytes`]).
///
/// # Errors
///
/// As [`create`].
pub async fn create_tagged<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
    tag: Tag,
    force: bool,
) -> Result<Created, Error> {
    make(cow, chunk_size, force, Some(tag)).await
}

/// What a new store with this `id` remembers of its origin.
///
/// # Errors
///
/// [`Error::PartBlocks`]; an error of the origin.
pub async fn tag_for<O: Device>(
    origin: &O,
    id: StoreId,
    chunk_size: ChunkSize,
) -> Result<Tag, Error> {
    refuse_chunk_size(chunk_size, origin, Which::Origin)?;
    let origin_bytes = whole_sectors(origin, Which::Origin)?;
    let fence = store::take_fence(origin, (chunk_size, origin_bytes), id.bytes(), |_| false).await;
    let fence = fence.map_err(Error::io(Which::Origin, "cannot read what is to be remembered"))?;
    Ok(Tag { origin_bytes, fence, ..Tag::new(id) })
}

/// How large a COW device has to be, in bytes, so that `percent` of the chunks of an origin fit into its store,
/// metadata included. With 100 it can never overflow.
pub fn size_for(origin_bytes: u64, chunk_size: ChunkSize, percent: u64) -> u64 {
    let chunks = u128::from(chunk_size.touched_chunks(origin_bytes));
    let exceptions = (chunks * u128::from(percent)).div_ceil(100);
    let exceptions = u64::try_from(exceptions).unwrap_or(u64::MAX);
    Layout::new(chunk_size).chunks_needed(exceptions).saturating_mul(chunk_size.bytes())
}

async fn make<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
    force: bool,
    tag: Option<Tag>,
) -> Result<Created, Error> {
    let cow_bytes = whole_sectors(cow, Which::Cow)?;
    refuse_content(cow, cow_bytes, chunk_size, force).await?;
    match tag {
        Some(tag) => store::format_tagged(cow, chunk_size, tag).await?,
        None => store::format(cow, chunk_size).await?,
    }
    let layout = Layout::new(chunk_size);
    let chunks = chunk_size.whole_chunks(cow_bytes);
    Ok(Created {
        chunk_size_sectors: chunk_size.sectors(),
        total_sectors: cow_bytes / SECTOR_BYTES,
        capacity_exceptions: layout.capacity(chunks),
        kernel_loses_last_chunk: layout.kernel_loses_last_chunk(chunks),
    })
}

/// Formats an empty store where a kernel would make one: where the magic is zero. `None` if it is not: what
/// lies there is left to those who open it.
///
/// # Errors
///
/// As [`create`], and [`Error::PartBlocks`], before anything was written.
pub async fn create_if_blank<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
) -> Result<Option<Created>, Error> {
    if !is_blank(cow).await? {
        return Ok(None);
    }
    refuse_chunk_size(chunk_size, cow, Which::Cow)?;
    create(cow, chunk_size, false).await.map(Some)
}

/// Whether a kernel would make a store on this device: its magic is zero.
///
/// # Errors
///
/// An error of the device.
pub async fn is_blank<C: Device>(cow: &C) -> Result<bool, Error> {
    let magic = cow.read(0, MAGIC.len()).await;
    let magic = magic.map_err(Error::io(Which::Cow, "cannot read the magic"))?;
    Ok(magic.iter().all(|byte| *byte == 0))
}

/// Refuses a device that is not to become a store: a disk of a RAID; without `force` also one with anything else
/// that would be lost.
pub(super) async fn refuse_content<C: Device>(
    cow: &C,
    cow_bytes: u64,
    chunk_size: ChunkSize,
    force: bool,
) -> Result<(), Error> {
    match signature::raid_member(cow, 0..cow_bytes).await {
        Some(found) => Err(Error::RaidMember { found }),
        None if force => Ok(()),
        None => refuse_occupied(cow, cow_bytes, chunk_size).await,
    }
}

async fn refuse_occupied<C: Device>(
    cow: &C,
    cow_bytes: u64,
    chunk_size: ChunkSize,
) -> Result<(), Error> {
    let failed = || Error::io(Which::Cow, "cannot look at what is there");
    let sample = Sample::read(cow, 0..cow_bytes).await.map_err(failed())?;
    if let Some(found) = signature::find(&sample).into_iter().next() {
        return Err(Error::Occupied { found });
    }
    let written = written_by_create(chunk_size, cow_bytes);
    match signature::first_not_zero(cow, written).await.map_err(failed())? {
        None => Ok(()),
        Some(at) => Err(Error::NotEmpty { at }),
    }
}

/// The header's chunk and the first area; with small chunks a little more, where others have theirs.
fn written_by_create(chunk_size: ChunkSize, cow_bytes: u64) -> Range<u64> {
    const LEAST_BYTES: u64 = 4096;
    0..(2 * chunk_size.bytes()).max(LEAST_BYTES).min(cow_bytes)
}
