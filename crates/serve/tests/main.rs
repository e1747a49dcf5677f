//! All integration tests of the package, in one program: it is linked once.

mod common;

mod batches;
mod clients;
mod durability;
mod exports;
mod hostile;
mod limits;
mod service;
mod tls;
mod unaligned;
mod watched;
