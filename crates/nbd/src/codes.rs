use std::io;

/// What a client asks for may begin and end anywhere.
pub const MIN_BLOCK_BYTES: u32 = 1;

/// Holes and trims are whole sectors.
pub const SECTOR_BYTES: u64 = 512;

/// The longest payload of a read or a write, in bytes.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;

/// The longest string of the protocol, in bytes.
pub const MAX_STRING_BYTES: usize = 4096;

/// First word of the server's greeting.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first word of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake and client flag: options are answered.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake and client flag: no padding after the answer to an export name.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Transmission flags: what an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// Flush is there.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// Single requests can be made durable.
    pub const SEND_FUA: u16 = 1 << 3;
    /// Trim is there.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// Write-zeroes is there.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// A read can be asked for in one piece.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// Cache is there.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// Write-zeroes can be told to fail rather than to be slow.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Command flags.
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One content chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent a context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than be slow.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Command numbers.
pub mod command {
    /// Read bytes.
    pub const READ: u16 = 0;
    /// Write bytes.
    pub const WRITE: u16 = 1;
    /// Go away; no reply.
    pub const DISC: u16 = 2;
    /// Make what was written durable.
    pub const FLUSH: u16 = 3;
    /// Give a range back.
    pub const TRIM: u16 = 4;
    /// A hint that a range will be read.
    pub const CACHE: u16 = 5;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// What a range is made of.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Option numbers.
pub mod option_code {
    /// Choose an export; cannot be refused but by hanging up.
    pub const EXPORT_NAME: u32 = 1;
    /// Hang up.
    pub const ABORT: u32 = 2;
    /// Which exports are there.
    pub const LIST: u32 = 3;
    /// Go on encrypted.
    pub const STARTTLS: u32 = 5;
    /// Facts about an export.
    pub const INFO: u32 = 6;
    /// Choose an export.
    pub const GO: u32 = 7;
    /// Replies in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata contexts are there.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of option replies. Those that refuse are the numbers of [`Refusal`](crate::Refusal).
pub mod option_reply_type {
    /// Done.
    pub const ACK: u32 = 1;
    /// There is this export.
    pub const SERVER: u32 = 2;
    /// A fact about an export.
    pub const INFO: u32 = 3;
    /// There is this metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all types that refuse.
    pub const REFUSED: u32 = 1 << 31;
}

/// Types of the chunks of a structured reply.
pub mod chunk_type {
    /// Nothing to tell.
    pub const NONE: u16 = 0;
    /// Bytes that were read.
    pub const OFFSET_DATA: u16 = 1;
    /// A range that reads as zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one context.
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in all types that say that something went wrong.
    pub const FAILED: u16 = 1 << 15;
    /// It went wrong.
    pub const ERROR: u16 = FAILED + 1;
    /// It went wrong there.
    pub const ERROR_OFFSET: u16 = FAILED + 2;
}

/// What went wrong with a request: the numbers the protocol has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: the export is read-only.
    Perm = 1,
    /// The device failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// The request is invalid.
    Inval = 22,
    /// No room.
    NoSpc = 28,
    /// The reply would be longer than the protocol allows.
    Overflow = 75,
    /// Cannot be done, or not fast.
    NotSup = 95,
    /// The server is about to end.
    Shutdown = 108,
}

impl Errno {
    /// What a number in a reply means: nothing for 0, and [`Errno::Inval`] for a number the protocol
    /// does not have.
    pub fn from_number(number: u32) -> Option<Self> {
        const ALL: [Errno; 8] = [
            Errno::Perm,
            Errno::Io,
            Errno::NoMem,
            Errno::Inval,
            Errno::NoSpc,
            Errno::Overflow,
            Errno::NotSup,
            Errno::Shutdown,
        ];
        let known = ALL.into_iter().find(|errno| *errno as u32 == number);
        known.or((number != 0).then_some(Self::Inval))
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Perm,
            Kind::OutOfMemory => Self::NoMem,
            Kind::InvalidInput => Self::Inval,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::NoSpc,
            Kind::Unsupported => Self::NotSup,
            _ => Self::Io,
        }
    }
}
