//! Devices offered to others, and the ways to change what is offered.
//!
//! A server runs on the thread of the devices it serves: one compio runtime, nothing is `Send`.

#![forbid(unsafe_code)]

mod socket; // a socket for its owner alone
pub mod nbd; // the network block device protocol
mod live; // a volume's devices as exports
mod names; // names that no snapshot can have
mod tasks; // work in the background
mod keeper; // what a volume wants done every second
mod rate; // bytes spread over time
mod turns; // clients before work in the background
mod merger; // a merge beside the clients
mod forecast; // when a store will be full
pub mod control; // a socket to look at all that and to change it

pub use keeper::Keeper;
pub use live::{Live, ORIGIN};
pub use merger::{MergeEnd, MergePhase, MergeProgress, Merger, OnEnd};
pub use names::{ReservedName, refuse_reserved};
pub use rate::{Rate, sleep_until};
pub use tasks::{Spawn, spawn_by};

// What is served: whoever starts a server has no need to look further down.
pub use dmsnap::volume::{
    MergeState, OnFull, Snapshot, SnapshotOptions, State, Strays, View, Volume, VolumeError,
};
