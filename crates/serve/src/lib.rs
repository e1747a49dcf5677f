//! Devices offered to others.
//!
//! A server runs on the thread of the devices it serves: one compio runtime, nothing is `Send`.

#![forbid(unsafe_code)]

pub mod nbd; // the network block device protocol
mod live; // a volume's devices as exports

pub use live::{Keeper, Live, ORIGIN};

// What is served: whoever starts a server has no need to look further down.
pub use dmsnap::volume::{
    MergeControl, MergeState, OnFull, Snapshot, SnapshotOptions, State, Volume,
};
