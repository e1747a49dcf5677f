use std::io;

use bytes::Bytes;

use crate::copy::index;
use crate::device::{Allocation, Device};

/// What a request puts into a stretch of a device.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// These bytes.
    Data(Bytes),
    /// Zeroes, this many, and whether they keep their place.
    Zeroes(u64, Allocation),
}

impl Payload {
    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeroes(len, _) => *len,
        }
    }

    /// A part of it.
    pub(super) fn part(&self, offset: u64, len: u64) -> Self {
        match self {
            Self::Data(data) => Self::Data(data.slice(index(offset)..index(offset + len))),
            Self::Zeroes(_, allocation) => Self::Zeroes(len, *allocation),
        }
    }

    /// Lays it over `target`.
    pub(super) fn lay_over(&self, target: &mut [u8]) {
        match self {
            Self::Data(data) => target.copy_from_slice(data),
            Self::Zeroes(..) => target.fill(0),
        }
    }

    pub(super) async fn write_to<D: Device>(self, device: &D, at: u64) -> io::Result<()> {
        match self {
            Self::Data(data) => device.write(at, data).await,
            Self::Zeroes(len, allocation) => device.write_zeroes(at, len, allocation).await,
        }
    }
}
