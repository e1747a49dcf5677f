//! Volumes of disks that real LVM wrote, without a process: what they hold has the hash that a kernel
//! computed, and a merge leaves what LVM's own left.

#[path = "../../../lvm/tests/common/samples.rs"]
mod index; // those disks
mod samples; // unpacked, and what LVM and the kernel make of them
mod listed; // groups and volumes by their names
mod read; // volumes and snapshots as devices
mod merged; // snapshots back into their origins, and out of the metadata
mod refused; // why not, as variants
mod example; // the one of this package, run
