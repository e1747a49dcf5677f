use std::ops::Range;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer};

use super::extent::{Extent, StatusKind};

/// What an export can be asked to do. Positions and lengths are in bytes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Read.
    Read {
        /// From here on.
        at: u64,
        /// This many bytes.
        len: usize,
    },
    /// Write.
    Write {
        /// From here on.
        at: u64,
        /// One after the other.
        pieces: Vec<Bytes>,
        /// Flush before the reply.
        durable: bool,
    },
    /// Make several writes that are independent of each other; see
    /// [`Device::write_many`](dmsnap::device::Device::write_many).
    WriteMany(Vec<(u64, Bytes)>),
    /// Give a range back: its content is no longer needed.
    Discard {
        /// From here on.
        at: u64,
        /// This many bytes.
        len: u64,
        /// Flush before the reply.
        durable: bool,
    },
    /// Make a range read as zeroes.
    WriteZeroes {
        /// From here on.
        at: u64,
        /// This many bytes.
        len: u64,
        /// What may become of the space.
        allocation: Allocation,
        /// Flush before the reply.
        durable: bool,
    },
    /// Make everything durable that was written before.
    Flush,
    /// Tell what a range is made of.
    Status {
        /// What is asked.
        kind: StatusKind,
        /// About which range; not empty.
        range: Range<u64>,
        /// At most this many extents, at least one.
        most: usize,
    },
}

/// What came of a [`Request`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// It was done, and there is nothing more to say.
    Done,
    /// What was read.
    Data(Buffer),
    /// What the range is made of, from its beginning on: at least one extent, none empty, no two
    /// neighbours alike. They may end before the range does.
    Extents(Vec<Extent>),
}
