use serde::Serialize;

use super::{Error, Observer};
use crate::device::Device;

/// How to export.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Export an invalid store too: what it saved, on an origin that may have changed since.
    pub allow_invalid: bool,
}

/// What an export did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Exported {
    /// Size of the image, in bytes.
    pub image_bytes: u64,
    /// Bytes written: what differs from zero.
    pub written_bytes: u64,
    /// Bytes whose extents the output shares with origin or COW device instead of a copy.
    pub shared_bytes: u64,
    /// Exceptions seen.
    pub exceptions: u64,
    /// Flushes of the output.
    pub flushes: u64,
}

/// Writes the snapshot's content to `output`, which must read as zeroes and be as long as the origin.
pub async fn export<C: Device, O: Device, T: Device>(
    cow: &C,
    origin: &O,
    output: &T,
    options: ExportOptions,
    observer: &impl Observer,
) -> Result<Exported, Error> {
    todo!()
}
