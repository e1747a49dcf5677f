use bytes::{BufMut, Bytes, BytesMut};

use crate::codes::{Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk_type};
use crate::context::Extent;
use crate::error::DecodeError;
use crate::fields::{Fields, len_u32, lossy};

/// Length of a [`SimpleReply`] on the wire, in bytes, without what was read.
pub const SIMPLE_REPLY_LEN: usize = 16;

/// A simple reply. What was read follows, if all went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// Of the request.
    pub cookie: u64,
    /// What went wrong.
    pub errno: Option<Errno>,
}

impl SimpleReply {
    /// The bytes of it.
    pub fn encode(self) -> [u8; SIMPLE_REPLY_LEN] {
        let mut bytes = [0; SIMPLE_REPLY_LEN];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.errno.map_or(0, |errno| errno as u32).to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }

    /// Understands the bytes. A number of an error that the protocol does not have is taken for
    /// [`Errno::Inval`].
    ///
    /// # Errors
    ///
    /// [`DecodeError::Magic`]: nothing that follows can be trusted to be a reply.
    pub fn decode(bytes: [u8; SIMPLE_REPLY_LEN]) -> Result<Self, DecodeError> {
        let mut fields = Fields(&bytes);
        fields.magic32(SIMPLE_REPLY_MAGIC)?;
        let malformed = DecodeError::Malformed("simple reply");
        let errno = Errno::from_number(fields.u32().ok_or(malformed)?);
        Ok(Self { cookie: fields.u64().ok_or(malformed)?, errno })
    }
}

/// Length of a [`ChunkHeader`] on the wire, in bytes.
pub const CHUNK_HEADER_LEN: usize = 20;

/// What stands before every chunk of a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// No more chunks come for this request.
    pub last: bool,
    /// Which chunk, see [`chunk_type`].
    pub kind: u16,
    /// Of the request.
    pub cookie: u64,
    /// How many bytes follow.
    pub len_bytes: u32,
}

impl ChunkHeader {
    /// The bytes of it.
    pub fn encode(self) -> [u8; CHUNK_HEADER_LEN] {
        let mut bytes = [0; CHUNK_HEADER_LEN];
        bytes[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::from(self.last).to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }

    /// Understands the bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Magic`]: nothing that follows can be trusted to be a chunk.
    pub fn decode(bytes: [u8; CHUNK_HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut fields = Fields(&bytes);
        fields.magic32(STRUCTURED_REPLY_MAGIC)?;
        let malformed = DecodeError::Malformed("chunk");
        Ok(Self {
            last: fields.u16().ok_or(malformed)? & 1 != 0,
            kind: fields.u16().ok_or(malformed)?,
            cookie: fields.u64().ok_or(malformed)?,
            len_bytes: fields.u32().ok_or(malformed)?,
        })
    }
}

/// Part of a structured reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Nothing to tell but success.
    None,
    /// What was read.
    Data {
        /// Where in the export, in bytes.
        at: u64,
        /// Must not be empty.
        data: Bytes,
    },
    /// What was read: nothing but zeroes.
    Hole {
        /// Where in the export, in bytes.
        at: u64,
        /// Must not be 0.
        len_bytes: u32,
    },
    /// The extents of one context.
    Status {
        /// As agreed in the handshake.
        context: u32,
        /// One after the other from the beginning of the range that was asked for.
        extents: Vec<Extent>,
    },
    /// It went wrong; and a line for people.
    Error(Errno, String),
    /// It went wrong there.
    ErrorAt {
        /// What went wrong.
        errno: Errno,
        /// A line for people.
        message: String,
        /// Where in the export, in bytes.
        at: u64,
    },
}

/// The reply to one request: pieces to be sent one after the other.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Vec<Bytes>);

impl Reply {
    /// A simple reply; `data` is what was read.
    pub fn simple(cookie: u64, errno: Option<Errno>, data: Option<Bytes>) -> Self {
        let head = Bytes::copy_from_slice(&SimpleReply { cookie, errno }.encode());
        Self(std::iter::once(head).chain(data).collect())
    }

    /// A structured reply of all its chunks.
    pub fn structured(cookie: u64, chunks: Vec<Chunk>) -> Self {
        let last = chunks.len().saturating_sub(1);
        let mut pieces = Vec::with_capacity(2 * chunks.len());
        for (number, chunk) in chunks.into_iter().enumerate() {
            pieces.extend(chunk.encode(cookie, number == last));
        }
        Self(pieces)
    }
}

impl Chunk {
    /// The bytes of it, in one piece or two: data is not copied.
    pub fn encode(self, cookie: u64, last: bool) -> impl Iterator<Item = Bytes> {
        let mut body = BytesMut::new();
        let (kind, data) = self.put(&mut body);
        let len_bytes = len_u32(&body) + data.as_ref().map_or(0, |data| len_u32(data));
        let header = ChunkHeader { last, kind, cookie, len_bytes };
        let mut head = BytesMut::with_capacity(CHUNK_HEADER_LEN + body.len());
        head.put_slice(&header.encode());
        head.put_slice(&body);
        std::iter::once(head.freeze()).chain(data)
    }

    /// Number of the chunk; its fields go to `body`, its data is handed back.
    fn put(self, body: &mut BytesMut) -> (u16, Option<Bytes>) {
        match self {
            Self::None => (chunk_type::NONE, None),
            Self::Data { at, data } => {
                body.put_u64(at);
                (chunk_type::OFFSET_DATA, Some(data))
            }
            Self::Hole { at, len_bytes } => {
                body.put_u64(at);
                body.put_u32(len_bytes);
                (chunk_type::OFFSET_HOLE, None)
            }
            Self::Status { context, extents } => {
                body.reserve(4 + EXTENT_LEN * extents.len());
                body.put_u32(context);
                for extent in extents {
                    body.put_u32(u32::try_from(extent.len_bytes).unwrap_or(u32::MAX));
                    body.put_u32(extent.flags);
                }
                (chunk_type::BLOCK_STATUS, None)
            }
            Self::Error(errno, message) => {
                put_error(body, errno, &message);
                (chunk_type::ERROR, None)
            }
            Self::ErrorAt { errno, message, at } => {
                put_error(body, errno, &message);
                body.put_u64(at);
                (chunk_type::ERROR_OFFSET, None)
            }
        }
    }

    /// Understands a chunk of this kind.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Kind`] for a kind the protocol does not have, but for one that is known to say
    /// that something went wrong; [`DecodeError::Malformed`] for what a chunk of this kind cannot hold.
    pub fn decode(kind: u16, payload: &Bytes) -> Result<Self, DecodeError> {
        let mut fields = Fields(payload);
        let malformed = DecodeError::Malformed("chunk");
        let chunk = match kind {
            chunk_type::NONE => Self::None,
            chunk_type::OFFSET_DATA => {
                let at = fields.u64().ok_or(malformed)?;
                Self::Data { at, data: payload.slice_ref(fields.rest()) }
            }
            chunk_type::OFFSET_HOLE => Self::Hole {
                at: fields.u64().ok_or(malformed)?,
                len_bytes: fields.u32().ok_or(malformed)?,
            },
            chunk_type::BLOCK_STATUS => {
                let context = fields.u32().ok_or(malformed)?;
                Self::Status { context, extents: extents(fields.rest()).ok_or(malformed)? }
            }
            _ if kind & chunk_type::FAILED != 0 => {
                let number = fields.u32().ok_or(malformed)?;
                let errno = Errno::from_number(number).ok_or(malformed)?;
                let len = fields.u16().ok_or(malformed)?;
                let message = lossy(fields.bytes(len.into()).ok_or(malformed)?);
                match kind {
                    chunk_type::ERROR_OFFSET => {
                        let at = fields.u64().ok_or(malformed)?;
                        Self::ErrorAt { errno, message, at }
                    }
                    chunk_type::ERROR => Self::Error(errno, message),
                    // What more it may say is not known here.
                    _ => return Ok(Self::Error(errno, message)),
                }
            }
            _ => return Err(DecodeError::Kind { kind: kind.into() }),
        };
        fields.end().map_err(|_| malformed)?;
        Ok(chunk)
    }
}

/// Length of an [`Extent`] on the wire, in bytes.
pub(crate) const EXTENT_LEN: usize = 8;

/// The extents that these bytes are, all of them; `None` if that is not a whole number.
pub(crate) fn extents(bytes: &[u8]) -> Option<Vec<Extent>> {
    let (whole, rest) = bytes.as_chunks::<EXTENT_LEN>();
    let extents = whole.iter().map(|bytes| {
        let [a, b, c, d, flags @ ..] = *bytes;
        let len_bytes = u32::from_be_bytes([a, b, c, d]).into();
        Extent { len_bytes, flags: u32::from_be_bytes(flags) }
    });
    rest.is_empty().then(|| extents.collect())
}

fn put_error(body: &mut BytesMut, errno: Errno, message: &str) {
    let len = message.floor_char_boundary(1024);
    body.put_u32(errno as u32);
    body.put_u16(u16::try_from(len).unwrap_or(0));
    body.put_slice(&message.as_bytes()[..len]);
}
