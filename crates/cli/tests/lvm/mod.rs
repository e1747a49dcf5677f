//! `dmsnap lvm`, and `lvm:` names, on disks that real LVM wrote: what they say is what LVM said, and
//! what they show has the hash that a kernel computed.

#[path = "../../../lvm/tests/common/samples.rs"]
mod index; // those disks
pub(crate) mod samples; // unpacked, and what LVM and the kernel make of them
mod listed; // as `lvs` lists them
mod exported; // snapshots as images
mod merged; // snapshots back into their origins
mod undone; // the same, and taken back
mod killed; // the same, killed on the way
mod stopped; // the same, asked to stop
mod sparse; // snapshots of nothing
mod grown; // origins that were extended later
mod served; // origins and their snapshots over NBD
mod evidence; // what only reads writes nothing
mod named; // what a name stands for, and what it does not
mod damaged; // disks that are not whole
mod raid; // disks of arrays
mod json; // docs/json.md is right
