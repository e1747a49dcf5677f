//! All integration tests of the package, in one program: it is linked once.

mod common;

mod attributes;
mod damage;
mod partitions;
mod real_lvm;
mod reports;
mod rewrite;
