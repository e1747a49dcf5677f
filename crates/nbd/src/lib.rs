//! The NBD protocol, both sides of it: fixed newstyle handshake, simple and structured replies, block
//! status.
//!
//! Every message is a type with `encode` and `decode`, and [`client`] is what a client does with them.
//! Nothing here does I/O or waits, but for [`client::Blocking`] over a stream of the caller's, and nothing panics, whatever the bytes are. Every number on the
//! wire is big-endian.
#![forbid(unsafe_code)]

mod codes; // magics, flags and numbers
mod error; // why bytes cannot be understood
mod refusal; // why an option is not followed
mod fields; // numbers and strings at the front of a message
mod context; // kinds of metadata, and extents
mod option; // what a client asks during the handshake
mod option_reply; // what the server answers then
mod request; // what a client asks afterwards
mod reply; // what the server answers then
pub mod client; // both phases, as a client

#[cfg(test)]
mod tests;

pub use codes::{
    Errno, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAX_PAYLOAD_BYTES, MAX_STRING_BYTES,
    MIN_BLOCK_BYTES, NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SECTOR_BYTES,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk_type, command, flag, option_code,
    option_reply_type, transmission,
};
pub use context::{Context, Extent, HOLE, ZERO};
pub use error::DecodeError;
pub use option::{MetaQuery, OPTION_HEADER_LEN, OptionHeader, OptionRequest, Selection};
pub use option_reply::{
    BlockSize, EXPORT_NAME_PADDING, EXPORT_NAME_REPLY_LEN, ExportNameReply, GREETING_LEN, Greeting,
    Info, OPTION_REPLY_HEADER_LEN, OptionReply, OptionReplyHeader,
};
pub use refusal::Refusal;
pub use reply::{CHUNK_HEADER_LEN, Chunk, ChunkHeader, Reply, SIMPLE_REPLY_LEN, SimpleReply};
pub use request::{Command, Facts, REQUEST_LEN, Request, STATUS_EXTENTS};
