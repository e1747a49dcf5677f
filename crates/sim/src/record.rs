use bytes::Bytes;

use crate::fault::RequestFault;
use crate::model::Change;

/// What happened while a machine ran, in order: what reached its disks, and what its clients asked
/// and were told.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write or zeroing took effect in a disk's cache.
    Write {
        /// The disk's number.
        disk: usize,
        /// The write's number.
        id: u64,
        /// First byte.
        at: usize,
        /// What was written.
        data: Bytes,
    },
    /// A flush made everything durable but these writes, which had not completed when it was
    /// asked for.
    Flush {
        /// The disk's number.
        disk: usize,
        /// Writes that stay volatile.
        open: Vec<u64>,
    },
    /// A flush failed, and the disk forgot every volatile write.
    Lost {
        /// The disk's number.
        disk: usize,
    },
    /// A disk has become longer.
    Grown {
        /// The disk's number.
        disk: usize,
        /// In bytes.
        len: usize,
        /// At once, not only with the next flush.
        durable: bool,
    },
    /// A request went wrong.
    Fault {
        /// The disk's number.
        disk: usize,
        /// How.
        fault: RequestFault,
    },
    /// Somebody asked for something, or was told something.
    Told(Change),
}
