//! The client's side of the protocol, without I/O: bytes in, bytes out.
//!
//! [`Handshake`] agrees with a server on what [`ClientOptions`] ask for, and becomes a
//! [`Transmission`], which has as many requests in flight as the caller begins. Neither waits for
//! anything: a caller with any kind of socket moves the bytes.
//!
//! 1. It takes events with `next` until there are none.
//! 2. It sends what [`Handshake::take_output`] gives then, or the headers of requests that
//!    [`Transmission::begin`] gives, each with the payload of a write after it.
//! 3. It receives into `space` and says how much with `received`, or hands over what it has with
//!    `receive`.
//!
//! [`Blocking`] does that over a stream that the caller has connected, with one request at a time.
//!
//! Nothing is allocated by what a server claims: data and extents come in the pieces in which they
//! were received. An error means that nothing more can be done with the connection.
//!
//! When a connection is lost, so may be every write that was answered and not flushed. To connect again
//! and go on as if nothing had happened is wrong: a caller that does has a flush that failed.

mod input; // bytes that were received
mod export_info; // what a handshake comes to
mod event; // what a server has answered
mod slots; // requests in flight
mod reading; // what comes next
mod transmission; // requests
mod replies; // what becomes of them
mod handshake; // options
mod blocking; // both, over a stream that blocks

#[cfg(test)]
mod tests;

pub use blocking::{Blocking, BlockingError};
pub use event::{Event, Failure, RequestId};
pub use export_info::ExportInfo;
pub use handshake::{ClientOptions, Encryption, Goal, Handshake, HandshakeEvent};
pub use transmission::Transmission;

use crate::codes::Errno;
use crate::error::DecodeError;
use crate::refusal::Refusal;

/// Why a client cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// What the server said cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The server answers no options.
    #[error("the server knows only the old handshake")]
    OldHandshake,
    /// The server answers an option that was not asked.
    #[error("the server answers option {found} instead of {asked}")]
    OtherOption {
        /// The option that was asked.
        asked: u32,
        /// The option that was answered.
        found: u32,
    },
    /// A reply that has no place where it came.
    #[error("the answer to option {code} is none")]
    NoAnswer {
        /// The option.
        code: u32,
    },
    /// What should be short is long.
    #[error("a reply of {len_bytes} bytes")]
    TooLong {
        /// As the server claims.
        len_bytes: u32,
    },
    /// The server does not follow an option without which the goal is out of reach.
    #[error("the server refuses option {code}: {refusal:?} {message}")]
    Refused {
        /// The option.
        code: u32,
        /// Why.
        refusal: Refusal,
        /// The server's words.
        message: String,
    },
    /// The server did not tell the size of the export.
    #[error("the server does not tell the size of the export")]
    NoSize,
    /// Somebody in between could have put these words into the server's mouth.
    #[error("the server said something before the encryption")]
    BeforeEncryption,
    /// A reply to no request.
    #[error("a reply to no request, with cookie {cookie:#x}")]
    NoRequest {
        /// What the reply calls the request.
        cookie: u64,
    },
    /// A reply of a form that was not agreed on, or not for this request.
    #[error("a reply that does not fit request {command}")]
    WrongReply {
        /// What was asked, see [`command`](crate::command).
        command: u16,
    },
    /// A reply about bytes that the request was not about.
    #[error("{len_bytes} bytes at {at} were not asked for")]
    OutOfRange {
        /// In bytes.
        at: u64,
        /// In bytes.
        len_bytes: u64,
    },
    /// A reply says that all went well, and does not have what was asked for.
    #[error("{missing_bytes} bytes of the answer are missing")]
    Missing {
        /// How much of the range the reply says nothing about, in bytes.
        missing_bytes: u64,
    },
    /// Extents of a context that was not chosen.
    #[error("metadata context {id} was not chosen")]
    NoContext {
        /// What the reply calls it.
        id: u32,
    },
    /// The caller asked for what the server would refuse. The connection is as good as before.
    #[error("no such request can be made: {why} ({errno:?})")]
    Impossible {
        /// What the server would answer.
        errno: Errno,
        /// In words.
        why: &'static str,
    },
}
