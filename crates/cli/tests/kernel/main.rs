//! dmsnap and a real Linux kernel on the same stores, each going on where the other stopped.
//!
//! The kernel is booted by `tests/kernel/boot` (see the README there) and takes the devices as its
//! disks. What it read and what its status line said is compared with what dmsnap tells, and both
//! with a model that knows only which bytes were written where.
//!
//! `DMSNAP_SKIP_KERNEL=1` skips these tests, for machines where that kernel cannot run.

#[path = "../common/mod.rs"]
mod common; // running the command
#[allow(dead_code, reason = "others take more from it")]
mod random; // bytes and places from a seed
mod guest; // one boot of the kernel
mod pair; // a store, its origin, and what both should hold
mod machine; // a kernel that is told step by step what to do
mod nbd; // a client of what is served
mod merge; // merges of dmsnap's that do not reach their end
mod created; // the kernel fills what dmsnap made
mod stopped; // the kernel goes on where dmsnap's merge stopped
mod crashed; // dmsnap goes on where the kernel's merge stopped
mod strays; // leftovers behind the end stay dead
mod full; // stores without room
mod served; // NBD clients and the kernel write in turn
mod attached; // file systems of the kernel on what is served
#[path = "../serving/mod.rs"]
mod serving; // servers and their clients
#[path = "../controlled/mod.rs"]
mod controlled; // servers with a control socket
mod status; // their status and that of `dmsetup`
#[path = "../killed/sectors.rs"]
mod sectors; // what each sector may hold after a crash
#[path = "../killed/client.rs"]
mod client; // one connection, with its share of an export
#[path = "../killed/load.rs"]
mod load; // all connections at once
mod history; // the same steps on both sides, compared after each
mod relay; // a store that is handed on at each crash
mod lvm; // LVM's own snapshots
#[allow(dead_code, reason = "others take more from it")]
#[path = "../lvm/samples.rs"]
mod samples; // disks that LVM wrote
mod merged_groups; // those disks after a merge, for LVM to look at
