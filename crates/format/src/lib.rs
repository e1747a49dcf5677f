//! The exception store of Linux's device-mapper snapshots, as bytes and as meaning.
//!
//! Everything here is arithmetic on values the caller already holds: no I/O, no allocation, no
//! `unsafe`, `no_std`. Raw structs ([`RawHeader`], [`RawException`]) are exactly what lies on disk
//! and say nothing about sense; [`Header`] and [`Exception`] have passed every check that can be
//! made without looking at a device. [`Layout`] knows where chunks lie and which of them may hold
//! data; [`Usage`] is the arithmetic of the kernel's status line.
//!
//! ```
//! use dmsnap_format::{ChunkSize, Layout, OriginChunk, RawException, RawHeader};
//!
//! let header = RawHeader::new(ChunkSize::from_sectors(8)?, true).validate()?;
//! let layout = Layout::new(header.chunk_size);
//! assert_eq!(layout.exceptions_per_area(), 256);
//! assert_eq!(layout.area_location(1).get(), 258);
//!
//! // The 257th exception lies in slot 0 of area 1, and its data in the chunk after that area.
//! let (area, slot) = layout.position(256);
//! assert_eq!((area, slot), (1, 0));
//! assert_eq!(layout.lock_step_chunk(256).get(), 259);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod units; // sectors, chunks and their two numberings
mod header; // chunk 0
mod fence; // what a few bytes of the origin were
mod tag; // whom a store belongs to: the rest of chunk 0
mod exception; // one slot, one exception, runs of them
mod layout; // where areas and data lie, and what may lie there
mod usage; // the status line

pub use exception::{Exception, ExceptionFault, RawException, Run, SLOT_BYTES};
pub use fence::{Fence, MOST_SAMPLES, Sample, sample_bytes, sampled_bytes};
pub use header::{Header, HeaderError, MAGIC, RawHeader, VERSION};
pub use layout::{Extents, Layout, Role};
pub use tag::{StoreId, TAG_AT, TAG_BYTES, Tag, TagState};
pub use units::{ChunkSize, ChunkSizeError, CowChunk, OriginChunk, SECTOR_BYTES};
pub use usage::{Tally, Usage};
