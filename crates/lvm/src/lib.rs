//! LVM2 as it lies on disk: which disks belong together, what they hold, and where.
//!
//! Everything here is pure: the caller reads and writes. A [`DiskScan`] says which bytes of a disk it
//! needs and finds the PVs on it, in partitions too; [`Groups::assemble`] puts volume groups
//! together from what several disks hold; [`Group::mapping`] says where the bytes of an LV lie.
//! Nothing read is trusted: sizes and counts are checked against the disk and against stated limits
//! before anything is allocated, and [`VolumeGroup::faults`] names what contradicts itself.
//!
//! ```
//! use dmsnap_lvm::VolumeGroup;
//!
//! let text = br#"contents = "Text Format Volume Group"
//! version = 1
//! vg0 {
//!     id = "JQS3Zf-SsjM-oh5o-Z0Vb-AbwG-sv4F-Sc0sMw"
//!     seqno = 3
//!     extent_size = 128        # sectors: 64 KiB
//!     physical_volumes {
//!         pv0 {
//!             id = "3ChMKv-9mVW-Kavm-SmYs-c02X-ONvn-hw1pgB"
//!             pe_start = 2048
//!             pe_count = 80
//!         }
//!     }
//!     logical_volumes {
//!         root {
//!             id = "ircQG6-dRZC-tTd4-Dokw-mG3W-K4Zy-YgSmx4"
//!             status = ["READ", "WRITE", "VISIBLE"]
//!             segment1 {
//!                 start_extent = 0
//!                 extent_count = 32
//!                 type = "striped"
//!                 stripe_count = 1
//!                 stripes = ["pv0", 7]
//!             }
//!         }
//!     }
//! }"#;
//! let vg = VolumeGroup::parse(text)?;
//! let root = vg.mapping("root")?;
//! assert_eq!(root.len_bytes(), 32 * 65536);
//! let piece = root.piece(0).expect("root is not empty");
//! assert_eq!((piece.pv, piece.start, piece.len), (0, 2048 * 512 + 7 * 65536, 32 * 65536));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bytes; // extents, identities, the checksum
mod partition; // partition tables in front of PVs
mod label; // the front of a PV
mod area; // metadata areas and their circular buffer
mod scan; // which bytes of a disk to read, and what was found there
mod text; // the language of the metadata
mod group; // a volume group and its LVs
mod assemble; // groups from several disks
mod rewrite; // the metadata while a merge is under way, and after it

pub use area::{AREA_HEADER_BYTES, Area, AreaError, MAX_TEXT_BYTES, TextPlace};
pub use assemble::{
    CopyState, FindError, Group, GroupProblem, Groups, LocateError, PvPlace, TextCopy,
};
pub use bytes::{Extent, SECTOR_BYTES, Uuid};
pub use group::{
    Activity, Column, Fault, GroupError, LogicalVolume, MapError, MappedSegment, Mapping,
    PhysicalVolume, Piece, Role, Segment, SegmentKind, Snapshot, Stripe, Target, VolumeGroup,
    is_valid_name,
};
pub use label::{Extension, LABEL_SCAN_BYTES, Label, LabelError};
pub use partition::{MAX_PARTITIONS, Partition, TableError, TableKind};
pub use rewrite::{MergeRewrites, Rewrite, RewriteError, Stamp, Step};
pub use scan::{Disk, DiskProblem, DiskScan, FoundArea, FoundPv, MAX_AREAS, MAX_SCAN_BYTES};
pub use text::{SyntaxError, SyntaxFault, ValueError};
