//! All integration tests of the package, in one program: it is linked once.

#[macro_use]
mod common;
mod controlled;
#[path = "../../../tests/device/loops.rs"]
mod loops;
#[path = "../../../tests/device/neighbour.rs"]
mod neighbour;
mod serving;

mod bad_disks;
mod bad_inputs;
mod base;
mod control;
mod diff;
mod diff_live;
mod disks;
mod docs;
mod formats;
mod golden;
mod json;
mod keeping;
mod kernel;
mod kernel_images;
mod killed;
mod lifetime;
mod listening;
mod lvm;
mod memory;
mod metadata;
mod neighbours;
mod openapi;
mod readme;
mod real_disks;
mod reflink;
mod repair;
mod serve;
mod serve_refused;
mod served_files;
mod signals;
mod sockets;
mod state;
mod streams;
mod table;
mod tasks;
mod undo;
mod undo_histories;
mod undo_live;
mod usage;
