use crate::codes::Errno;
use crate::context::Extent;

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(super) slot: u32,
    /// How often the slot was used before: a reply to a request that has ended is noticed.
    pub(super) generation: u32,
}

impl RequestId {
    /// A small number that no other request in flight has, for a caller's own table.
    pub fn slot(self) -> usize {
        usize::try_from(self.slot).unwrap_or(usize::MAX)
    }

    pub(super) fn cookie(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(super) fn from_cookie(cookie: u64) -> Self {
        let [a, b, c, d, slot @ ..] = cookie.to_be_bytes();
        let generation = u32::from_be_bytes([a, b, c, d]);
        Self { slot: u32::from_be_bytes(slot), generation }
    }
}

/// What a server has answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Some of the bytes that were read. Pieces come in any order, and a server that is wrong may send
    /// some of them twice and others never: memory for them must hold nothing secret before.
    Data {
        /// Which read.
        id: RequestId,
        /// Where in the export, in bytes.
        at: u64,
        /// Not empty.
        bytes: &'a [u8],
    },
    /// Some of the bytes that were read are zeroes.
    Hole {
        /// Which read.
        id: RequestId,
        /// Where in the export, in bytes.
        at: u64,
        /// In bytes.
        len_bytes: u32,
    },
    /// Some of the extents of one context; the next ones follow after these.
    Extents {
        /// Which request for block status.
        id: RequestId,
        /// What stands for the context, see [`ExportInfo::contexts`](super::ExportInfo::contexts).
        context: u32,
        /// Where the first one begins in the export, in bytes.
        at: u64,
        /// Only the very last one may reach past the range that was asked about.
        extents: Vec<Extent>,
    },
    /// The request has ended.
    Done {
        /// Which request; its number will be another one's.
        id: RequestId,
        /// How it ended. What came before counts only if it went well.
        result: Result<(), Failure>,
    },
}

/// Why a server has not done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server answers {errno:?} {message}")]
pub struct Failure {
    /// What went wrong.
    pub errno: Errno,
    /// The server's words; empty in a simple reply.
    pub message: String,
}
