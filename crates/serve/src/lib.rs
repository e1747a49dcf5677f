//! Devices offered to others, and the ways to change what is offered.
//!
//! A server runs on the thread of the devices it serves: one compio runtime, nothing is `Send`.

#![forbid(unsafe_code)]

mod socket; // a socket for its owner alone
mod tasks; // work in the background
mod budget; // how much of what clients ask for is under way
pub mod export; // what can be served, whatever the protocol
pub mod nbd; // the network block device protocol
mod names; // names that no snapshot can have
mod idle_publisher; // what a volume wants done every second
mod merges; // merges alongside clients
mod forecast; // when a store will be full
pub mod control; // a socket to look at all that and to change it
mod service; // all of it together: how it starts, ticks, and ends

pub use export::{ORIGIN, VolumeExport};
pub use idle_publisher::IdlePublisher;
pub use merges::{MergeEnd, MergePhase, MergeProgress, Merger, OnEnd};
pub use names::{ReservedName, refuse_reserved};
pub use service::{
    MIN_MEMORY_BYTES, NoOpener, Service, ServiceError, ServiceEvent, ServiceOptions,
};
pub use tasks::{Spawn, spawn_by};

// What is served: a program that starts a server has no need to look further down.
pub use dmsnap::volume::{
    MergeState, OnFull, Snapshot, SnapshotOptions, State, Strays, UnknownOnFull, View, Volume,
    VolumeError,
};
