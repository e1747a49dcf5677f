//! dmsnap and a real Linux kernel on the same stores, each going on where the other stopped.
//!
//! The kernel is booted by `tests/kernel/boot` (see the README there) and takes the devices as its
//! disks. What it read and what its status line said is compared with what dmsnap tells, and both
//! with a model that knows only which bytes were written where.
//!
//! `DMSNAP_SKIP_KERNEL=1` skips these tests, for machines where that kernel cannot run.

#[allow(dead_code, reason = "others take more from it")]
pub(crate) mod random; // bytes and places from a seed
mod guest; // one boot of the kernel
mod pair; // a store, its origin, and what both should hold
mod machine; // a kernel that is told step by step what to do
pub(crate) mod nbd; // a client of what is served
mod merge; // merges of dmsnap's that do not reach their end
mod created; // the kernel fills what dmsnap made
mod stopped; // the kernel goes on where dmsnap's merge stopped
mod undone; // merges with a way back, and what the kernel reads of it
mod crashed; // dmsnap goes on where the kernel's merge stopped
mod restored; // stores whose metadata was lost and made again
mod tagged; // stores that say whom they belong to
mod strays; // leftovers past the end stay dead
mod full; // stores without room
mod served; // NBD clients and the kernel write in turn
mod attached; // file systems of the kernel on what is served
mod status; // their status and that of `dmsetup`
mod history; // the same steps on both sides, compared after each
mod relay; // a store that is handed on at each crash
mod lvm; // LVM's own snapshots
mod merged_groups; // those disks after a merge, for LVM to look at
mod undone_group; // and after it was taken back
