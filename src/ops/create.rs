use dmsnap_format::ChunkSize;
use serde::Serialize;

use super::Error;
use crate::device::Device;

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

/// Formats an empty store.
pub async fn create<C: Device>(
    cow: &C,
    chunk_size: ChunkSize,
    force: bool,
) -> Result<Created, Error> {
    todo!()
}
