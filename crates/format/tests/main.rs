//! All integration tests of the package, in one program: it is linked once.

mod common;
mod document;

mod capacity;
mod exceptions;
mod header;
mod layout;
mod tag;
mod usage;
mod worked_example;
