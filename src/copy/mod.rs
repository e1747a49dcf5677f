//! Many chunks, from one device to another: how they are read, how neighbours are joined, at which pace
//! they are moved.

mod observer; // progress, rate, stop
mod ranges; // neighbours joined, requests cut
mod reader; // chunks of a COW device, in large reads
mod engine; // chunks of a COW device, brought to a target

pub(crate) use engine::{CopyError, Engine, Moves};
pub use observer::{Observer, Progress, Silent};
pub(crate) use ranges::{REQUEST_BYTES, Transfer, Write, all, index, joined, union};
pub(crate) use reader::Reader;
