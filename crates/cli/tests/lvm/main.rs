//! `dmsnap lvm`, and `lvm:` names, on disks that real LVM wrote: what they say is what LVM said, and
//! what they show has the hash that a kernel computed.

#[path = "../common/mod.rs"]
mod common; // running the command
#[path = "../serving/mod.rs"]
mod serving; // servers and their clients
mod samples; // those disks, and what LVM and the kernel make of them
mod listed; // as `lvs` lists them
mod exported; // snapshots as images
mod merged; // snapshots back into their origins
#[path = "../kernel/random.rs"]
#[allow(dead_code, reason = "others take more from it")]
mod random; // choices from a seed
mod killed; // the same, killed on the way
mod served; // origins and their snapshots over NBD
mod evidence; // what only reads writes nothing
mod named; // what a name stands for, and what it does not
mod damaged; // disks that are not whole
mod json; // docs/json.md is right
