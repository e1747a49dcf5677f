//! Many chunks, from one device to another: how they are read, how neighbours are joined, at which pace
//! they are moved.

mod observer; // progress, pace, stop
mod rate; // bytes spread over time
mod ranges; // neighbours joined, requests cut
mod reader; // chunks of a COW device, in large reads
mod target; // where they are brought, and who else is there
mod engine; // chunks of a COW device, brought to a target

pub(crate) use engine::{CopyError, Engine, InFlight, Moves};
pub(crate) use observer::Part;
pub use observer::{Observer, Progress, Silent};
pub(crate) use ranges::{Joined, REQUEST_BYTES, all, index, joined, touching, union};
pub use rate::{Rate, wait_until};
pub(crate) use reader::{LARGE_READS, Reader};
pub(crate) use target::{Alone, Target};
