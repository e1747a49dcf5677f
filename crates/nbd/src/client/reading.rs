use std::ops::Range;

use super::event::{Event, RequestId};

/// What comes next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    Header,
    /// Where bytes that were read lie, and `left` of them.
    Offset {
        id: RequestId,
        left: u32,
        last: bool,
    },
    /// Data that was read, this many bytes.
    Data {
        id: RequestId,
        at: u64,
        left: u32,
        last: bool,
    },
    /// The number of a context, and `left` bytes of extents.
    Context {
        id: RequestId,
        left: u32,
        last: bool,
    },
    /// Extents, in this many bytes.
    Extents {
        id: RequestId,
        context: u32,
        at: u64,
        left: u32,
        last: bool,
    },
    /// A chunk that is short.
    Whole {
        id: RequestId,
        kind: u16,
        len: usize,
        last: bool,
    },
    /// Nothing more about this request.
    End {
        id: RequestId,
    },
}

/// An event, with the place of its data.
pub(super) enum Step {
    /// Look what comes next.
    On,
    /// More must be received.
    Starved,
    Data {
        id: RequestId,
        at: u64,
        bytes: Range<usize>,
    },
    Told(Event<'static>),
}
