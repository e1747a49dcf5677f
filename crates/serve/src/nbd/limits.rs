use std::time::Duration;

use dmsnap::device::ALIGNMENT;
use dmsnap_nbd::MAX_PAYLOAD_BYTES;

use super::reader::PIECE_BYTES;

/// What clients may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. A further one takes the place of the one that has been without an
    /// export the longest; if all have one, it is closed at once.
    pub connections: usize,
    /// Requests of one connection in flight.
    pub requests: usize,
    /// Bytes of one connection in flight: what it writes and has not been told of, what it reads
    /// and has not received. Never less than the 32 MiB of one request count.
    pub bytes: usize,
    /// Bytes of all connections in flight. A connection has at most half of what its export may have, and an
    /// export at most as much as it leaves free; one request of 32 MiB at a time may go beyond all that.
    pub memory: usize,
    /// How long a client that holds memory may neither send what it announced nor receive what it asked
    /// for, while others wait for memory: then its connection ends.
    pub stall: Duration,
    /// How long a client may take to choose an export.
    pub handshake: Duration,
    /// How long a client may take to receive its last replies when its connection ends.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            requests: 128,
            bytes: 64 << 20,
            memory: 512 << 20,
            stall: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            grace: Duration::from_secs(5),
        }
    }
}

/// Setters: one for each field.
impl Limits {
    /// Sets [`connections`](Self::connections).
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// Sets [`requests`](Self::requests).
    #[must_use]
    pub fn requests(self, requests: usize) -> Self {
        Self { requests, ..self }
    }

    /// Sets [`bytes`](Self::bytes).
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Sets [`memory`](Self::memory).
    #[must_use]
    pub fn memory(self, memory: usize) -> Self {
        Self { memory, ..self }
    }

    /// Sets [`stall`](Self::stall).
    #[must_use]
    pub fn stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// Sets [`handshake`](Self::handshake).
    #[must_use]
    pub fn handshake(self, handshake: Duration) -> Self {
        Self { handshake, ..self }
    }

    /// Sets [`grace`](Self::grace).
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// At least one request always fits.
    pub(super) fn in_flight_bytes(self) -> usize {
        self.bytes.max(memory_of(MAX_PAYLOAD_BYTES))
    }
}

/// The memory that a payload takes, in bytes: it lies in pieces that are aligned for direct I/O.
pub(super) fn memory_of(len: u32) -> usize {
    let len = len_usize(len);
    len + len.div_ceil(PIECE_BYTES) * ALIGNMENT
}

pub(super) fn len_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
