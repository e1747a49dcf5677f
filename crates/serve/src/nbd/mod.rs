//! An NBD server: fixed newstyle handshake, simple and structured replies, block status.
//!
//! [`Exports`](crate::export::Exports) says what is served, [`Server`] serves it. Requests of one connection run
//! concurrently and are answered in the order they are done. A request that changes a device is
//! driven to its end, also when its client has gone.
//!
//! What a client may cost is bounded by [`Limits`]: when a connection has as many requests or bytes
//! in flight as it may, the server stops reading from its socket until some of them are answered.
//! A byte counts until its reply has left for the socket, so a client that does not read its
//! replies only stops itself.
//!
//! [`Tls`] encrypts, if the client asks for it or only if it does. A thread of its own does that
//! arithmetic, for all clients.
//!
//! Requests need no alignment; a client that asks learns which block size the export likes best.

mod socket; // connected sockets
mod listener; // where clients come from
mod tls; // what is sent over a socket, encrypted
mod relay; // the thread that encrypts
mod transport; // a socket, or the plain end of a relay
mod reader; // messages from it
mod limits; // what clients may cost
mod contexts; // kinds of status, as clients call them
mod outbox; // replies on their way to the socket
mod session; // one connection that has an export
mod in_flight; // one request
mod batch; // writes that are made together
mod transmission; // requests, one after the other
mod handshake; // options
mod server; // accepting, shutting down

pub use limits::Limits;
pub use listener::Listener;
pub use server::{OnLastClient, OnRefusal, Server};
pub use tls::Tls;

pub use crate::socket::SocketAccess;
