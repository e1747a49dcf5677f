//! A snapshot's chunks, brought back to the origin and forgotten, window by window.

mod window; // where the next window begins
mod offline; // nobody else has the devices

pub(crate) use offline::{Finished, Merge};
pub(crate) use window::window_start;
