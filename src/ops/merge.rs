use serde::Serialize;

use super::{Error, Observer};
use crate::device::Device;

/// How to merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Most bytes of data in one window; two windows are in memory at a time. At least one chunk
    /// is taken, whatever this says.
    pub window_bytes: u64,
    /// Share extents where both devices are files of a file system that can.
    pub share: bool,
    /// Go on although the origin begins with a store's header.
    pub force: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { window_bytes: 64 << 20, share: true, force: false }
    }
}

/// What a merge would do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct MergePlan {
    /// Exceptions to copy back.
    pub exceptions: u64,
    /// Bytes to copy back.
    pub bytes: u64,
    /// Windows that takes.
    pub windows: u64,
    /// Flushes of origin and COW device together.
    pub flushes: u64,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Merged {
    /// True if the store is empty now; false if the observer asked to stop before.
    pub finished: bool,
    /// Exceptions copied back and cleared.
    pub exceptions: u64,
    /// Exceptions still in the store.
    pub left: u64,
    /// Bytes of data brought to the origin, shared ones included.
    pub bytes: u64,
    /// Of those, bytes whose extents are shared instead of copied.
    pub shared_bytes: u64,
    /// Windows.
    pub windows: u64,
    /// Flushes of the origin.
    pub origin_flushes: u64,
    /// Flushes of the COW device.
    pub cow_flushes: u64,
    /// Writes to areas of the COW device.
    pub metadata_writes: u64,
}

/// Checks everything a merge would and says what it would do. Writes nothing.
pub async fn plan_merge<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    options: MergeOptions,
) -> Result<MergePlan, Error> {
    todo!()
}

/// Copies the snapshot's chunks back to the origin and forgets them.
pub async fn merge<C: Device, O: Device>(
    cow: C,
    origin: O,
    options: MergeOptions,
    observer: &impl Observer,
) -> Result<Merged, Error> {
    todo!()
}
