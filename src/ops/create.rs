use dmsnap_format::{ChunkSize, Layout, MAGIC, SECTOR_BYTES};
use serde::Serialize;

use super::survey::whole_sectors;
use super::{Error, Which};
use crate::device::Device;
use crate::store;

/// What a new store offers.
#[derive(Clone, Copy, Debug, Serialize)]
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
/// # Errors
///
/// [`Error::Refused`] if the device begins with anything but zeroes and `force` is not set;
/// nothing was written then.
pub async fn create<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
    force: bool,
) -> Result<Created, Error> {
    /// What `mkfs` tools look at as well: labels and superblocks lie here.
    const LOOK_BYTES: u64 = 4096;
    let cow_bytes = whole_sectors(cow, Which::Cow)?;
    if !force {
        let len = usize::try_from(cow_bytes.min(LOOK_BYTES)).unwrap_or(0);
        let first = cow.read(0, len).await.map_err(Error::io(Which::Cow, "cannot read"))?;
        if first.iter().any(|byte| *byte != 0) {
            let found = if first.starts_with(&MAGIC) { "a snapshot store" } else { "data" };
            return Err(Error::Refused(
                Which::Cow,
                format!("there is {found} at the beginning; --force overwrites it"),
            ));
        }
    }
    store::format(cow, chunk_size).await?;
    let layout = Layout::new(chunk_size);
    let chunks = chunk_size.whole_chunks(cow_bytes);
    Ok(Created {
        chunk_size_sectors: chunk_size.sectors(),
        total_sectors: cow_bytes / SECTOR_BYTES,
        capacity_exceptions: layout.capacity(chunks),
        kernel_loses_last_chunk: layout.kernel_loses_last_chunk(chunks),
    })
}
