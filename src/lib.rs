//! Device-mapper snapshots in user space.
//!
//! The floors, in the order bytes travel; each may use only the ones above it:

#![forbid(unsafe_code)]

pub mod device; // bytes at positions: files, block devices, memory
pub mod store; // exceptions on the COW device
pub mod table; // exceptions in memory
pub mod volume; // one origin and its snapshots, live
pub mod ops; // whole tasks: create, info, check, dump, export, merge

pub use dmsnap_format as format;
