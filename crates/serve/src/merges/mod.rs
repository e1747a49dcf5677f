//! Merges alongside clients.

mod yielder; // clients before work in the background
mod progress; // how far a merge is
mod merger; // one merge at a time

pub use merger::Merger;
pub use progress::{MergeEnd, MergePhase, MergeProgress, OnEnd};
