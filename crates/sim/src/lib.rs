//! A simulated machine for tests: disks that forget, a scheduler, a naive model, and the code that
//! is tested between them.
//!
//! Writes are volatile until they are flushed. When the power is cut, any subset of the volatile
//! writes survives, each whole or torn between blocks. [`Power`] is shared by the disks of one
//! machine: it counts their operations, cuts them all at once, and makes chosen requests fail.
//! [`Disk::reboots`] tells every content a disk can have after the cut.
//!
//! [`plan::Plan`] says what a machine is and what happens in it, [`play::play`] runs it and holds
//! what clients find against the [`model::Model`], and [`cuts::Cuts`] cuts its power at every moment
//! of the record. [`hunt`] does so with many: the small worlds of [`worlds`], every cut of them, and
//! large ones that [`draw`] makes of a seed.

pub mod naive; // stores as a kernel reads them, byte by byte
pub mod model; // what clients were promised
mod random; // numbers from a seed
mod survivors; // which writes survive
mod medium; // what is durable, what is volatile
mod fault; // what can go wrong with a request
mod record; // what happened, in order
mod power; // requests counted over all disks; cuts and errors
mod scheduler; // which request goes on next
mod traffic; // what a disk was asked
mod holes; // where it has no data
mod delays; // how long requests are put off without a scheduler
mod disk; // a device for the code that is tested
mod reboots; // every content of one disk after a cut
pub mod plan; // a machine and what happens in it
mod below; // what lies below an origin
mod tasks; // what servers do in the background
mod clock; // seconds that pass when nothing else happens
mod liveness; // who may wait for a disk that hangs
mod machine; // a machine that runs
mod excuses; // what may go wrong because a disk did
mod soundness; // what must hold whenever nothing is under way
mod clients; // what clients do
mod operator; // snapshots come and go, merges, restarts
mod served; // what exports say of a range
pub mod play; // a machine from its start to its end
pub mod cuts; // every cut of a record
mod verdict; // what must hold after a cut
pub mod hunt; // looking for a broken promise
pub mod worlds; // small machines, tried exhaustively
pub mod draw; // large machines, drawn from a seed
pub mod minimise; // the least that still fails
pub mod report; // a failure in words

pub use disk::Disk;
pub use fault::RequestFault;
pub use power::Power;
pub use random::Random;
pub use reboots::Reboots;
pub use record::Event;
pub use scheduler::{Scheduler, Stuck};
pub use traffic::{Counts, Operation};

/// Runs a task on simulated devices to its end.
pub fn run<T>(task: impl Future<Output = T>) -> T {
    futures_executor::block_on(task)
}
