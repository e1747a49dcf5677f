//! What can be served, whatever the protocol.
//!
//! An [`Export`] is one thing that can be served; [`Exports`] are those that are. A client has one by a
//! [`Lease`] and sends it [`Request`]s. What clients ask for is counted, and an export can be taken away
//! while clients have it.

mod extent; // what a range is made of
mod allocation; // holes of any device
mod interface; // what an export is
mod request; // what it can be asked
mod target; // exports of any type in one set
mod meter; // what clients ask for, counted
mod slot; // one export while it is served
mod exports; // all of them
mod volume; // a volume's devices as exports

pub use allocation::allocation;
pub use exports::{DuplicateName, Exports, Use};
pub use extent::{Extent, HOLE, StatusKind, ZERO};
pub use interface::{Export, MAX_NAME_BYTES};
pub use meter::{Counts, Kind, LATENCY_MICROS};
pub use request::{Reply, Request};
pub use slot::Lease;
pub use volume::{ORIGIN, VolumeExport};

pub(crate) use slot::Slot;
