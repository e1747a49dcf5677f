use bytes::Bytes;

/// Something about the model that changes, in the order it happens. Device 0 is the origin, device
/// `n` the snapshot in slot `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client asks to write.
    Write {
        /// The request.
        id: u64,
        /// Where to.
        device: usize,
        /// First byte.
        at: usize,
        /// What.
        data: Bytes,
    },
    /// It was told.
    Written {
        /// The request.
        id: u64,
        /// That it is done.
        ok: bool,
    },
    /// A client discards: a snapshot's whole chunks are zeroed or as before, anything else is as
    /// before (`chunk` is its chunk size); what an origin holds there is open.
    Discard {
        /// The request.
        id: u64,
        /// Where.
        device: usize,
        /// First byte.
        at: usize,
        /// In bytes.
        len: usize,
        /// In bytes; `None` if what the range holds is open.
        chunk: Option<usize>,
    },
    /// A client asks for a flush.
    Flush {
        /// The request.
        id: u64,
        /// Of what.
        device: usize,
    },
    /// It was told.
    Flushed {
        /// The request.
        id: u64,
        /// That what was acknowledged before it asked is durable.
        ok: bool,
    },
    /// A read found this where several values were possible.
    Found {
        /// Where.
        device: usize,
        /// Sector.
        sector: usize,
        /// What it holds.
        data: Bytes,
    },
    /// Some of what was written to a device was lost, and its writer knows.
    Shaken {
        /// The device.
        device: usize,
    },
    /// Somebody makes a snapshot of this moment.
    Add {
        /// Its slot.
        slot: usize,
    },
    /// It was told.
    Added {
        /// Its slot.
        slot: usize,
        /// That it is there.
        ok: bool,
    },
    /// A merge is to begin.
    Merge {
        /// Of which snapshot.
        slot: usize,
    },
    /// Origin and snapshot are one device from now on.
    Merging {
        /// Of which snapshot.
        slot: usize,
        /// That they are.
        ok: bool,
    },
    /// The merge was given up.
    Cancelled,
    /// A snapshot is taken out; a merged one leaves its content to the origin.
    Remove {
        /// Its slot.
        slot: usize,
    },
    /// A snapshot is to be dropped, or may be.
    Drop {
        /// Its slot.
        slot: usize,
    },
    /// A snapshot was dropped, for good.
    Dropped {
        /// Its slot.
        slot: usize,
    },
    /// Nothing can be said about a snapshot any more: its COW device failed.
    Lose {
        /// Its slot.
        slot: usize,
    },
}
