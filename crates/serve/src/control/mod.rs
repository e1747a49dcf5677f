//! A socket to look at what is served and to change it: HTTP/1.1 with JSON, and metrics.
//!
//! [`OwnerSocket`] is the socket, which only its owner can open. HTTP is spoken by a thread of its own;
//! what clients ask for is done by a [`Controller`] on the volume's thread, one call at a time
//! for each snapshot. `docs/openapi.json` describes every path.
//!
//! No client can hold up the volume: sizes, times and connections are bounded, and a call goes on to
//! its end even if the client has gone. What takes long (adding a large store, a flush) holds
//! up writes no more than it does when the server does it by itself.

mod api; // what is said, as JSON
mod refusal; // why not
mod query; // parameters of a request
mod metrics; // numbers for Prometheus
mod events; // the status whenever it changes
mod call; // the one list of what can be asked for
mod route; // methods and paths
mod response; // answers as HTTP
mod connection; // the requests of one client
mod http; // the thread that speaks HTTP
mod status; // looking
mod change; // what outlives the server
mod opener; // stores by their names
mod differing; // where devices of the volume differ
mod controller; // doing
mod merging; // merges
mod way_back; // a merge that can be taken back
mod server; // both threads together
mod client; // the other end

pub use api::{
    Diff, DiffQuery, DiffRange, ExportStatus, Grow, MakeStore, NewSnapshot, OriginStatus,
    SnapshotStatus, StartMerge, Status, TuneMerge, UndoMerge, WayBack,
};
pub use change::StateChange;
pub use client::{Client, ClientError, Events};
pub use controller::Controller;
pub use opener::StoreOpener;
pub use refusal::{Code, Refusal};
pub use server::Control;
pub use status::ServerFacts;

pub use crate::socket::OwnerSocket;
