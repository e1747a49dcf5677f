use serde::Serialize;

use super::Error;
use crate::device::Device;

/// What a store holds, and how full it is.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// False once the snapshot was dropped.
    pub valid: bool,
    /// Always 1.
    pub version: u32,
    /// In sectors.
    pub chunk_size_sectors: u32,
    /// The line `dmsetup status` prints behind the target's name: `used/total metadata`, or `Invalid`.
    pub status: String,
    /// Size of the COW device, in sectors.
    pub total_sectors: u64,
    /// In sectors, metadata included.
    pub allocated_sectors: u64,
    /// In sectors.
    pub metadata_sectors: u64,
    /// 0 to 100, as LVM counts it.
    pub percent: f64,
    /// How many exceptions there are.
    pub exceptions: u64,
    /// How many runs of consecutive chunks, in the order of the slots.
    pub runs: u64,
    /// The most exceptions that fit on the device.
    pub capacity_exceptions: u64,
    /// Data chunks that no exception uses, below the next free one.
    pub holes: u64,
    /// The next chunk a kernel would give out.
    pub next_free_chunk: u64,
    /// Exceptions whose chunk is not the one an in-order writer gives their slot.
    pub out_of_order: u64,
    /// The least size of an origin that has all the chunks, in sectors (the last chunk may be partial).
    pub origin_at_least_sectors: u64,
    /// True if a kernel that fills the device to its last chunk drops the snapshot.
    pub kernel_loses_last_chunk: bool,
}

/// Reads header and areas.
pub async fn info<C: Device>(cow: &C) -> Result<Info, Error> {
    todo!()
}
