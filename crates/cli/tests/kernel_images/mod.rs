//! Every command against every store of `tests/data`, all written by a real kernel.
//!
//! What is expected comes from that kernel (`index.json`) or from the naive reader in `store`,
//! never from the code under test.

pub(crate) mod images; // the stores, unpacked for one test
pub(crate) mod store; // a second, naive reader
pub(crate) mod run; // the command, run and judged
mod commands; // what each command promises
mod killed; // what a merge promises when it is killed
