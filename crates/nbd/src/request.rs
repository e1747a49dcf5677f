use crate::codes::{Errno, MAX_PAYLOAD_BYTES, REQUEST_MAGIC, command, flag};
use crate::fields::Fields;

/// Length of a [`Request`] on the wire, in bytes, without the payload of a write.
pub const REQUEST_LEN: usize = 28;

/// How many extents one reply names at most, for each metadata context. The client asks again.
pub const STATUS_EXTENTS: usize = 4096;

/// A request as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Command flags, see [`flag`].
    pub flags: u16,
    /// Which command, see [`command`].
    pub command: u16,
    /// Chosen by the client; comes back in the reply.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u32,
}

/// What a connection has agreed on, as far as it decides about requests.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Size of the export as the client was given it, in bytes.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Structured replies were agreed on.
    pub structured: bool,
    /// At least one metadata context was chosen.
    pub has_contexts: bool,
}

/// A request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes from the export.
    Read {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
    },
    /// Bytes to the export. The payload follows the request.
    Write {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Everything written is to be durable.
    Flush,
    /// The range is given back.
    Trim {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// The range is to read as zeroes.
    WriteZeroes {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
        /// The range stays allocated.
        keep: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// The range will be read soon.
    Cache {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
    },
    /// What the range is made of.
    BlockStatus {
        /// In bytes.
        at: u64,
        /// In bytes.
        len: u32,
        /// One extent a context.
        one: bool,
    },
    /// The client goes away.
    Disconnect,
}

impl Command {
    /// The request that asks for it.
    pub fn request(self, cookie: u64) -> Request {
        let when = |set: bool, flag: u16| if set { flag } else { 0 };
        let (command, flags, offset, len) = match self {
            Self::Read { at, len } => (command::READ, 0, at, len),
            Self::Write { at, len, fua } => (command::WRITE, when(fua, flag::FUA), at, len),
            Self::Flush => (command::FLUSH, 0, 0, 0),
            Self::Trim { at, len, fua } => (command::TRIM, when(fua, flag::FUA), at, len),
            Self::WriteZeroes { at, len, fua, keep, fast } => {
                let flags = when(fua, flag::FUA) | when(keep, flag::NO_HOLE);
                (command::WRITE_ZEROES, flags | when(fast, flag::FAST_ZERO), at, len)
            }
            Self::Cache { at, len } => (command::CACHE, 0, at, len),
            Self::BlockStatus { at, len, one } => {
                (command::BLOCK_STATUS, when(one, flag::REQ_ONE), at, len)
            }
            Self::Disconnect => (command::DISC, 0, 0, 0),
        };
        Request { flags, command, cookie, offset, len }
    }
}

impl Request {
    /// `None` if the magic is wrong: then nothing that follows can be trusted to be a request.
    pub fn decode(bytes: [u8; REQUEST_LEN]) -> Option<Self> {
        let mut fields = Fields(&bytes);
        let magic = fields.u32()?;
        let request = Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        };
        (magic == REQUEST_MAGIC).then_some(request)
    }

    /// The bytes of it.
    pub fn encode(self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// How many bytes follow the request.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == command::WRITE { self.len } else { 0 }
    }

    /// What is to be done; everything that can be refused without asking the device is.
    ///
    /// # Errors
    ///
    /// What to answer, as number and in words.
    pub fn understand(&self, facts: Facts) -> Result<Command, (Errno, &'static str)> {
        // Clients set FUA on commands that do not write, too.
        let (flags, fua) = (self.flags & !flag::FUA, self.flags & flag::FUA != 0);
        let (at, len) = (self.offset, self.len);
        let known = match self.command {
            command::READ if facts.structured => flag::DF,
            command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE,
            command::DISC => return Ok(Command::Disconnect),
            _ => return Err((Errno::Inval, "unknown command")),
        };
        if flags & !known != 0 {
            return Err((Errno::Inval, "unknown command flags"));
        }
        let writes = matches!(self.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && facts.read_only {
            return Err((Errno::Perm, "the export is read-only"));
        }
        if self.command == command::FLUSH {
            return match (at, len) {
                (0, 0) => Ok(Command::Flush),
                _ => Err((Errno::Inval, "a flush has no range")),
            };
        }
        self.check_range(facts.size_bytes)?;
        Ok(match self.command {
            command::READ => Command::Read { at, len },
            command::WRITE => Command::Write { at, len, fua },
            command::TRIM => Command::Trim { at, len, fua },
            command::WRITE_ZEROES => {
                let (keep, fast) = (flags & flag::NO_HOLE != 0, flags & flag::FAST_ZERO != 0);
                Command::WriteZeroes { at, len, fua, keep, fast }
            }
            command::CACHE => Command::Cache { at, len },
            _ if !facts.structured || !facts.has_contexts => {
                return Err((Errno::Inval, "no metadata context was chosen"));
            }
            _ if len == 0 => return Err((Errno::Inval, "an empty range has no status")),
            _ => Command::BlockStatus { at, len, one: flags & flag::REQ_ONE != 0 },
        })
    }

    fn check_range(&self, size_bytes: u64) -> Result<(), (Errno, &'static str)> {
        let carries_payload = matches!(self.command, command::READ | command::WRITE);
        if carries_payload && self.len > MAX_PAYLOAD_BYTES {
            return Err((Errno::Inval, "longer than the maximum payload"));
        }
        if self.offset.checked_add(self.len.into()).is_none_or(|end| end > size_bytes) {
            let errno = match self.command {
                command::WRITE | command::WRITE_ZEROES => Errno::NoSpc,
                _ => Errno::Inval,
            };
            return Err((errno, "beyond the end of the export"));
        }
        Ok(())
    }
}
