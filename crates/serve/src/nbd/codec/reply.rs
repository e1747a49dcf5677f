use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Errno, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAX_PAYLOAD_BYTES, MIN_BLOCK_BYTES, NBD_MAGIC,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, Refusal, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use crate::nbd::Extent;

/// The first 18 bytes the server sends.
pub fn greeting() -> Vec<u8> {
    let flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;
    [&NBD_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// The answer to an export name; with padding for clients that have not agreed to go without.
pub fn export_name_reply(size_bytes: u64, flags: u16, padded: bool) -> Vec<u8> {
    let padding = if padded { &[0; 124][..] } else { &[] };
    [&size_bytes.to_be_bytes()[..], &flags.to_be_bytes(), padding].concat()
}

/// A fact about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size and transmission flags. Must always be told.
    Export {
        /// In bytes.
        size_bytes: u64,
        /// See [`transmission`](super::transmission).
        flags: u16,
    },
    /// Its proper name.
    Name(String),
    /// A line for people.
    Description(String),
    /// Which requests are best; smallest and largest are this server's own.
    BlockSize {
        /// In bytes.
        preferred: u32,
    },
}

impl Info {
    /// Number of [`Info::Export`].
    pub const EXPORT: u16 = 0;
    /// Number of [`Info::Name`].
    pub const NAME: u16 = 1;
    /// Number of [`Info::Description`].
    pub const DESCRIPTION: u16 = 2;
    /// Number of [`Info::BlockSize`].
    pub const BLOCK_SIZE: u16 = 3;
}

/// One of the replies to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// Done; the last reply.
    Ack,
    /// There is this export.
    Server {
        /// Its name.
        name: String,
        /// A line for people, or nothing.
        description: String,
    },
    /// A fact.
    Info(Info),
    /// There is this metadata context.
    MetaContext {
        /// What stands for it in block status replies.
        id: u32,
        /// Its name.
        name: String,
    },
    /// No; the last reply.
    Refused(Refusal, &'static str),
}

impl OptionReply {
    /// The bytes of this reply to option `code`.
    pub fn encode(&self, code: u32) -> Vec<u8> {
        let mut data = Vec::new();
        let kind = match self {
            Self::Ack => 1,
            Self::Server { name, description } => {
                data.put_u32(len_u32(name.as_bytes()));
                data.put_slice(name.as_bytes());
                data.put_slice(description.as_bytes());
                2
            }
            Self::Info(info) => {
                info.encode(&mut data);
                3
            }
            Self::MetaContext { id, name } => {
                data.put_u32(*id);
                data.put_slice(name.as_bytes());
                4
            }
            Self::Refused(refusal, why) => {
                data.put_slice(why.as_bytes());
                *refusal as u32
            }
        };
        let mut bytes = Vec::with_capacity(20 + data.len());
        bytes.put_u64(OPTION_REPLY_MAGIC);
        bytes.put_u32(code);
        bytes.put_u32(kind);
        bytes.put_u32(len_u32(&data));
        bytes.put_slice(&data);
        bytes
    }
}

impl Info {
    fn encode(&self, data: &mut Vec<u8>) {
        match self {
            Self::Export { size_bytes, flags } => {
                data.put_u16(Self::EXPORT);
                data.put_u64(*size_bytes);
                data.put_u16(*flags);
            }
            Self::Name(name) => {
                data.put_u16(Self::NAME);
                data.put_slice(name.as_bytes());
            }
            Self::Description(description) => {
                data.put_u16(Self::DESCRIPTION);
                data.put_slice(description.as_bytes());
            }
            Self::BlockSize { preferred } => {
                data.put_u16(Self::BLOCK_SIZE);
                data.put_u32(MIN_BLOCK_BYTES);
                data.put_u32(*preferred);
                data.put_u32(MAX_PAYLOAD_BYTES);
            }
        }
    }
}

/// Part of a structured reply.
#[derive(Clone, Debug)]
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
    /// The extents of one context.
    Status {
        /// As agreed in the handshake.
        context: u32,
        /// One behind the other from the beginning of the range that was asked for.
        extents: Vec<Extent>,
    },
    /// It went wrong.
    Error(Errno, String),
}

/// The reply to one request: pieces to be sent one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Vec<Bytes>);

impl Reply {
    /// A simple reply; `data` is what was read.
    pub fn simple(cookie: u64, errno: Option<Errno>, data: Option<Bytes>) -> Self {
        let mut head = BytesMut::with_capacity(16);
        head.put_u32(SIMPLE_REPLY_MAGIC);
        head.put_u32(errno.map_or(0, |errno| errno as u32));
        head.put_u64(cookie);
        Self(std::iter::once(head.freeze()).chain(data).collect())
    }

    /// A structured reply of all its chunks.
    pub fn structured(cookie: u64, chunks: Vec<Chunk>) -> Self {
        let last = chunks.len().saturating_sub(1);
        let mut pieces = Vec::with_capacity(2 * chunks.len());
        for (number, chunk) in chunks.into_iter().enumerate() {
            let mut body = BytesMut::new();
            let (kind, data) = chunk.encode(&mut body);
            let mut head = BytesMut::with_capacity(20 + body.len());
            head.put_u32(STRUCTURED_REPLY_MAGIC);
            head.put_u16(u16::from(number == last));
            head.put_u16(kind);
            head.put_u64(cookie);
            head.put_u32(len_u32(&body) + data.as_ref().map_or(0, |data| len_u32(data)));
            head.put_slice(&body);
            pieces.push(head.freeze());
            pieces.extend(data);
        }
        Self(pieces)
    }
}

impl Chunk {
    /// Number of the chunk; its fields go to `body`, its data is handed back.
    fn encode(self, body: &mut BytesMut) -> (u16, Option<Bytes>) {
        match self {
            Self::None => (0, None),
            Self::Data { at, data } => {
                body.put_u64(at);
                (1, Some(data))
            }
            Self::Status { context, extents } => {
                body.reserve(4 + 8 * extents.len());
                body.put_u32(context);
                for extent in extents {
                    body.put_u32(u32::try_from(extent.len_bytes).unwrap_or(u32::MAX));
                    body.put_u32(extent.flags);
                }
                (5, None)
            }
            Self::Error(errno, message) => {
                let len = message.floor_char_boundary(1024);
                body.put_u32(errno as u32);
                body.put_u16(u16::try_from(len).unwrap_or(0));
                body.put_slice(&message.as_bytes()[..len]);
                ((1 << 15) + 1, None)
            }
        }
    }
}

/// Nothing here is ever as long as 4 GiB.
fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
