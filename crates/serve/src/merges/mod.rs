//! Merges alongside clients.

mod yielder; // clients before work in the background
mod merger; // one merge at a time

pub use merger::{MergeEnd, MergePhase, MergeProgress, Merger, OnEnd};
