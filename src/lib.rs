//! Device-mapper snapshots in user space: the exception stores of Linux's `snapshot` and
//! `snapshot-merge` targets, opened, checked, merged and served without a kernel module.
//!
//! Everything works on a [`Device`](device::Device): a file, a disk, memory, or one of the caller's own. Files
//! and disks want a [`compio`] runtime around them; nothing else does. [`ops`] has one function for each whole
//! task, [`volume`] an origin and its snapshots while clients use them, and [`blocking`] the usual tasks for
//! programs without a runtime.
//!
//! ```
//! use dmsnap::device::{Device, Memory};
//! use dmsnap::format::{ChunkSize, OriginChunk};
//! use dmsnap::ops::{self, MergeOptions, Silent};
//! use dmsnap::store::{Persistent, Store, Strays};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! futures_executor::block_on(async {
//!     // An origin of 1 MiB, and an empty store with chunks of 4 KiB.
//!     let origin = Memory::zeroed(1 << 20);
//!     let cow = Memory::zeroed(1 << 20);
//!     ops::create(&cow, ChunkSize::from_sectors(8)?, false).await?;
//!
//!     // One exception: chunk 5 of the origin gets new content in the snapshot.
//!     let store = Persistent::open(&cow, None, Strays::Refuse, |_| {}).await?;
//!     let prepared = store.prepare()?;
//!     cow.write(prepared.chunk().get() * 4096, vec![7; 4096].into()).await?;
//!     store.commit(prepared, OriginChunk::new(5));
//!     store.publish().await?;
//!     assert_eq!(ops::info(&cow).await?.status, "24/2048 16");
//!
//!     // Back into the origin with it.
//!     let merged = ops::merge(&cow, &origin, MergeOptions::default(), &Silent).await?;
//!     assert_eq!((merged.exceptions, merged.left), (1, 0));
//!     assert_eq!(origin.content()[5 * 4096..6 * 4096], [7; 4096]);
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Features
//!
//! - `file` (default): files and disks, and [`blocking`]. Without it there is no runtime, and no call to the
//!   system, in what is built.
//! - `serde` (default): what tasks return can be serialised.
//!
//! # Floors
//!
//! In the order bytes travel; each may use only the ones above it:

#![cfg_attr(docsrs, feature(doc_cfg))]
// One module has some: `device/ioctl.rs`. The lint table denies it everywhere else.
#![deny(unsafe_code)]

#[cfg(feature = "planted")]
pub mod planted; // laws broken on purpose, for those who prove the rest
#[cfg(not(feature = "planted"))]
mod planted; // nothing

pub mod sync; // tasks of one thread that wait for each other
pub mod device; // bytes at positions: files, block devices, memory
pub mod signature; // what else may lie there: file systems, RAID members, formats of images
pub mod store; // exceptions on the COW device
pub mod table; // exceptions in memory
pub mod copy; // many chunks, from one device to another
mod merge; // a snapshot's chunks, back to the origin
pub mod volume; // one origin and its snapshots, live
pub mod ops; // whole tasks: create, info, check, dump, export, merge
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub mod blocking; // the usual ones, without a runtime

/// The pieces of memory that are written.
pub use bytes;
/// The runtime of files.
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub use compio;
pub use dmsnap_format as format;
