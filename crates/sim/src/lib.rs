//! A simulated disk for tests.
//!
//! Writes are volatile until they are flushed. When the power is cut, any subset of the volatile
//! writes survives, each whole or torn between blocks. [`Power`] is shared by the disks of one
//! machine: it counts their operations, cuts them all at once, and makes chosen operations fail.
//! [`Disk::reboots`] tells every content a disk can have after the cut.

mod disk; // writes, flushes, what is volatile
mod power; // operations counted over all disks; cuts and errors
mod reboots; // every content after a cut

pub use disk::{Counts, Disk, Operation};
pub use power::{Fault, Power};
pub use reboots::Reboots;

/// Runs a task on simulated devices to its end.
pub fn run<T>(task: impl Future<Output = T>) -> T {
    futures_executor::block_on(task)
}
