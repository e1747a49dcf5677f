//! A snapshot's chunks, brought back to the origin and forgotten, window by window; and what the origin held there,
//! kept before.

mod window; // where the next window begins
mod keep; // what the origin holds, brought to a store
mod offline; // nobody else has the devices

pub(crate) use keep::{Keep, Ready};
pub(crate) use offline::{Finished, Merge};
pub(crate) use window::window_start;
