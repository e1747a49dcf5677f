//! What the fuzz targets do with their input: one module each, and what they share.
//!
//! Each target holds the real code against something naive that says what must come out. A target
//! that only waits for panics misses nearly everything.

#![forbid(unsafe_code)]

mod input; // the bytes a target was given
mod memory; // how much of it may be used
mod sparse; // devices
mod case; // a store to begin with
pub mod header; // chunk 0, and where everything lies
pub mod areas; // lists of exceptions
pub mod image; // a store, an origin, and what clients and commands do with them
mod content; // what a device should hold
mod live; // clients of a volume, against a naive model
mod disks; // what LVM wrote, and how it is spoilt
pub mod lvm; // readers and writers of LVM metadata
mod socket; // a client that says all and hears all
mod exports; // what the NBD server offers
mod talk; // what its clients may be answered
pub mod nbd; // clients of the NBD server
mod tunnel; // a client that encrypts, and whose bytes may be spoilt on the way
pub mod tls; // clients that encrypt, or should
pub mod control; // clients of the control socket
pub mod open; // real files
pub mod pack; // metadata in one file
pub mod repair; // damaged stores
