use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::Buffer;
use super::dynamic::DynDevice;
use super::file::File;
use super::forward::forward;
use super::interface::{Allocation, Device};

/// A file or disk as it is, or a device of any other type.
///
/// Nearly all devices are files, and requests of a [`DynDevice`] cost some instructions more: for a read that
/// the page cache answers that can be told, for the others it cannot. So files have a way of their own.
#[derive(Debug)]
pub enum AnyDevice {
    /// All of a file or disk.
    File(File),
    /// Anything else.
    Dyn(DynDevice),
}

impl From<File> for AnyDevice {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl<D: Into<DynDevice>> From<D> for AnyDevice {
    fn from(device: D) -> Self {
        Self::Dyn(device.into())
    }
}

#[deny(clippy::missing_trait_methods)]
impl Device for AnyDevice {
    forward!(self: Self::File(file) => file, Self::Dyn(device) => device);
}
