//! A socket to look at what is served and to change it: HTTP/1.1 with JSON, and metrics.
//!
//! [`Private`] is the socket, which only its owner can open. HTTP is spoken by a thread of its own;
//! what it is asked for is done by a [`Desk`] on the volume's thread, one call at a time
//! for each snapshot. `docs/openapi.json` describes every path.
//!
//! No client can hold up the volume: sizes, times and connections are bounded, and a call goes on to
//! its end whatever becomes of whoever asked. What takes long (adding a large store, a flush) holds
//! up writes no more than it does when the server does it by itself.

mod api; // what is said, as JSON
mod refusal; // why not
mod route; // methods and paths
mod http; // the thread that speaks HTTP
mod desk; // the volume's side
mod server; // both together
mod metrics; // numbers for Prometheus
mod client; // the other end

pub use api::{
    ExportStatus, Grow, MakeStore, NewSnapshot, OnFullText, OriginStatus, SnapshotState,
    SnapshotStatus, StartMerge, Status, TuneMerge,
};
pub use client::{Client, ClientError};
pub use desk::{Desk, Facts, Opener};
pub use refusal::{Code, Refusal};
pub use server::Control;

pub use crate::socket::Private;
