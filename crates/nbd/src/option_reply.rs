use std::borrow::Cow;

use bytes::BufMut;

use crate::codes::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    option_reply_type,
};
use crate::error::DecodeError;
use crate::fields::{Fields, len_u32, lossy, text};
use crate::refusal::Refusal;

/// Length of a [`Greeting`] on the wire, in bytes.
pub const GREETING_LEN: usize = 18;

/// The first that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Handshake flags, see [`FLAG_FIXED_NEWSTYLE`].
    pub flags: u16,
}

impl Greeting {
    /// A server that knows all that there is.
    pub const NEWSTYLE: Self = Self { flags: FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES };

    /// The bytes of it.
    pub fn encode(self) -> [u8; GREETING_LEN] {
        let mut bytes = [0; GREETING_LEN];
        bytes[..8].copy_from_slice(&NBD_MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// Understands the bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Magic`]: this is not an NBD server, or one that has only the handshake of old.
    pub fn decode(bytes: [u8; GREETING_LEN]) -> Result<Self, DecodeError> {
        let mut fields = Fields(&bytes);
        fields.magic(NBD_MAGIC)?;
        fields.magic(OPTION_MAGIC)?;
        Ok(Self { flags: fields.u16().ok_or(DecodeError::Malformed("greeting"))? })
    }
}

/// Length of an [`ExportNameReply`] on the wire, in bytes, without its padding.
pub const EXPORT_NAME_REPLY_LEN: usize = 10;

/// Length of the padding of an [`ExportNameReply`], in bytes.
pub const EXPORT_NAME_PADDING: usize = 124;

/// The answer to an export name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportNameReply {
    /// In bytes.
    pub size_bytes: u64,
    /// See [`transmission`](crate::transmission).
    pub flags: u16,
}

impl ExportNameReply {
    /// The bytes of it; with padding for clients that have not agreed to go without.
    pub fn encode(self, padded: bool) -> Vec<u8> {
        let padding = if padded { &[0; EXPORT_NAME_PADDING][..] } else { &[] };
        [&self.size_bytes.to_be_bytes()[..], &self.flags.to_be_bytes(), padding].concat()
    }

    /// Understands what stands before the padding.
    pub fn decode(bytes: [u8; EXPORT_NAME_REPLY_LEN]) -> Self {
        let [size @ .., high, low] = bytes;
        Self { size_bytes: u64::from_be_bytes(size), flags: u16::from_be_bytes([high, low]) }
    }
}

/// Length of an [`OptionReplyHeader`] on the wire, in bytes.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;

/// What stands before the data of every option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered, see [`option_code`](crate::option_code).
    pub code: u32,
    /// Which reply, see [`option_reply_type`].
    pub kind: u32,
    /// How many bytes of data follow.
    pub len_bytes: u32,
}

impl OptionReplyHeader {
    /// The bytes of it.
    pub fn encode(self) -> [u8; OPTION_REPLY_HEADER_LEN] {
        let mut bytes = [0; OPTION_REPLY_HEADER_LEN];
        bytes[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.kind.to_be_bytes());
        bytes[16..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }

    /// Understands the bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Magic`]: nothing that follows can be trusted to be a reply.
    pub fn decode(bytes: [u8; OPTION_REPLY_HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut fields = Fields(&bytes);
        fields.magic(OPTION_REPLY_MAGIC)?;
        let mut next = || fields.u32().ok_or(DecodeError::Malformed("option reply"));
        Ok(Self { code: next()?, kind: next()?, len_bytes: next()? })
    }

    /// Is it the last reply to its option?
    pub fn is_last(self) -> bool {
        self.kind == option_reply_type::ACK || self.kind & option_reply_type::REFUSED != 0
    }
}

/// A fact about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size and transmission flags. Must always be told.
    Export {
        /// In bytes.
        size_bytes: u64,
        /// See [`transmission`](crate::transmission).
        flags: u16,
    },
    /// Its proper name.
    Name(String),
    /// A line for people.
    Description(String),
    /// Which requests are possible, and which are best.
    BlockSize(BlockSize),
    /// Something else.
    Other {
        /// What kind of fact; never one of the above.
        number: u16,
        /// The details.
        data: Vec<u8>,
    },
}

/// The lengths of requests, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Where requests begin and end is a multiple of this.
    pub minimum: u32,
    /// What is best a multiple of this.
    pub preferred: u32,
    /// The longest payload of a request.
    pub maximum: u32,
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
            Self::BlockSize(it) => {
                data.put_u16(Self::BLOCK_SIZE);
                data.put_u32(it.minimum);
                data.put_u32(it.preferred);
                data.put_u32(it.maximum);
            }
            Self::Other { number, data: told } => {
                data.put_u16(*number);
                data.put_slice(told);
            }
        }
    }

    fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(data);
        let malformed = DecodeError::Malformed("fact about an export");
        let number = fields.u16().ok_or(malformed)?;
        let info = match number {
            Self::EXPORT => Self::Export {
                size_bytes: fields.u64().ok_or(malformed)?,
                flags: fields.u16().ok_or(malformed)?,
            },
            Self::BLOCK_SIZE => Self::BlockSize(BlockSize {
                minimum: fields.u32().ok_or(malformed)?,
                preferred: fields.u32().ok_or(malformed)?,
                maximum: fields.u32().ok_or(malformed)?,
            }),
            Self::NAME => Self::Name(text(fields.rest()).map_err(|_| malformed)?),
            Self::DESCRIPTION => Self::Description(lossy(fields.rest())),
            _ => Self::Other { number, data: fields.rest().to_vec() },
        };
        fields.end().map_err(|_| malformed)?;
        Ok(info)
    }
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
    /// No, and a line for people; the last reply.
    Refused(Refusal, Cow<'static, str>),
}

impl OptionReply {
    /// The bytes of this reply to option `code`.
    pub fn encode(&self, code: u32) -> Vec<u8> {
        let mut data = Vec::new();
        let kind = match self {
            Self::Ack => option_reply_type::ACK,
            Self::Server { name, description } => {
                data.put_u32(len_u32(name.as_bytes()));
                data.put_slice(name.as_bytes());
                data.put_slice(description.as_bytes());
                option_reply_type::SERVER
            }
            Self::Info(info) => {
                info.encode(&mut data);
                option_reply_type::INFO
            }
            Self::MetaContext { id, name } => {
                data.put_u32(*id);
                data.put_slice(name.as_bytes());
                option_reply_type::META_CONTEXT
            }
            Self::Refused(refusal, why) => {
                data.put_slice(why.as_bytes());
                refusal.number()
            }
        };
        let header = OptionReplyHeader { code, kind, len_bytes: len_u32(&data) };
        [&header.encode()[..], &data].concat()
    }

    /// Understands the data of a reply of this kind.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Kind`] for a kind the protocol does not have, [`DecodeError::Malformed`] for data
    /// that a reply of this kind cannot have. Texts for people may hold anything.
    pub fn decode(kind: u32, data: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(data);
        Ok(match kind {
            option_reply_type::ACK if data.is_empty() => Self::Ack,
            option_reply_type::ACK => return Err(DecodeError::Malformed("acknowledgement")),
            option_reply_type::SERVER => {
                let name = fields.string().map_err(|_| DecodeError::Malformed("list entry"))?;
                Self::Server { name, description: lossy(fields.rest()) }
            }
            option_reply_type::INFO => Self::Info(Info::decode(data)?),
            option_reply_type::META_CONTEXT => {
                let malformed = DecodeError::Malformed("metadata context");
                let id = fields.u32().ok_or(malformed)?;
                Self::MetaContext { id, name: text(fields.rest()).map_err(|_| malformed)? }
            }
            _ => match Refusal::from_number(kind) {
                Some(refusal) => Self::Refused(refusal, lossy(data).into()),
                None => return Err(DecodeError::Kind { kind }),
            },
        })
    }
}
