//! Package `device` against real files and real disks.
//!
//! What needs a disk needs root and loop devices; without them it says so and does nothing.

mod loops; // loop devices and mounts, gone when dropped
mod neighbour; // a program that has a file open
mod scratch; // files of one test, and what runs it
mod requests; // bytes written are bytes read, whatever the way and the alignment
mod space; // zeroes, holes, sizes
mod opening; // modes, locks, refusals
mod sharing; // extents lent from file to file
mod disks; // the same on block devices
mod claims; // shared, until something is written
mod neighbours; // who else has it: QEMU, loop devices, writers without locks
