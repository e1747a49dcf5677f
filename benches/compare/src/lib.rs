//! What the programs of the comparison share. `benches/compare/run` starts them.

#![forbid(unsafe_code)]

pub mod order; // the same blocks in the same order, every time
pub mod cpu_time; // what a process has worked
pub mod client; // a connection to an NBD server
pub mod load; // requests, and how long they took
pub mod wire; // a connection to an NBD client
pub mod map; // an overlay that is an array
pub mod store; // stores to merge and to open
pub mod counted; // memory that counts
pub mod path; // request paths on it
