//! LVM volumes that lie in disks and disk images, without LVM and without a kernel: found, opened as
//! devices, and snapshots merged back into their origins together with the metadata.
//!
//! [`Volumes`] opens images and finds the volume groups on them ([`Scan`]); a [`Group`] gives its
//! volumes as [`AnyDevice`](dmsnap::device::AnyDevice)s, on which every task of [`dmsnap::ops`] works.
//! A [`Merge`] brings a snapshot back into its origin and takes it out of the group, while the other snapshots
//! of that origin keep what they show; [`DataMerge`] and [`Rewrite`] are its two halves.
//!
//! What can be opened may still deserve a warning: each is an [`ImageError`] too, and is given to the
//! function that the caller brings (see [`Warn`]).
#![forbid(unsafe_code)]

mod name; // [VG/]LV
mod error; // why not, and about what
mod files; // one file or disk, opened
mod images; // disks and images, each opened once
mod group; // a group and its volumes as devices
mod scan; // physical volumes and groups on them
mod data; // a snapshot back into its origin, the others kept
mod rewrite; // the group without it
mod merge; // both, in the right order
mod volumes; // what several volumes lie in is opened once

pub use data::{DataMerge, WayBack};
pub use error::{Candidate, ImageError, ImageErrorKind, Subject};
pub use files::{Warn, open_file, refuse_raid_member, warnings};
pub use group::{Group, Origin, SnapshotOf};
pub use images::Images;
pub use merge::{GroupMerged, GroupOptions, Merge, MergeError, NewMetadata};
pub use name::{Name, NameError};
pub use rewrite::Rewrite;
pub use scan::Scan;
pub use volumes::Volumes;
