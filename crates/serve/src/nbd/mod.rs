//! An NBD server: fixed newstyle handshake, simple and structured replies, block status.
//!
//! [`Exports`] says what is served, [`Server`] serves it. Requests of one connection run
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
//! Ranges must be multiples of 512 bytes, as every client is told that asks; others are refused. If
//! the device's size is none, what is left over at its end is not served.

mod tls; // what is sent over a socket, encrypted
mod relay; // the thread that encrypts
mod transport; // sockets
mod reader; // messages from a socket
mod export; // what can be served
mod meter; // what clients ask for, counted
mod exports; // what is being served
mod handshake; // options
mod budget; // how much of a client's wishes is in flight
mod outbox; // replies on their way to the socket
mod together; // writes that are made together
mod transmission; // requests
mod server; // accepting, shutting down

pub use dmsnap_nbd::{Context, Extent, HOLE, ZERO};
pub use export::{Export, allocation};
pub use exports::{DuplicateName, Exports, Use};
pub use meter::{Counts, Kind, LATENCY_MICROS};
pub use server::{Limits, OnRefusal, Server};
pub use tls::Tls;
pub use transport::Listener;
