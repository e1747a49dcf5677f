use serde::Serialize;

use super::Error;
use crate::device::Device;

/// A run of exceptions and the slot of its first one. Runs are cut where the slots' order, or
/// either device's, is not consecutive; they may cross areas only in stores whose data chunks do,
/// which is never: an area lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedRun {
    /// First chunk on the origin.
    pub old: u64,
    /// First chunk on the COW device.
    pub new: u64,
    /// In chunks.
    pub len: u64,
    /// Area of the first exception.
    pub area: u64,
    /// Slot of the first exception in it.
    pub slot: u64,
}

/// Tells `each` every run in the order of the slots, in constant memory. An error of `each` ends it.
pub async fn dump<C: Device>(
    cow: &C,
    each: impl FnMut(PlacedRun) -> std::io::Result<()>,
) -> Result<(), Error> {
    todo!()
}
