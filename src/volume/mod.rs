//! One origin and its snapshots, live: every rule for reads, writes, flushes, discards,
//! copy-on-write, overflow and merging while all of that goes on.
//!
//! A volume lives on one thread and has no clock but [`Volume::tick`]. Its devices are [`View`]s, which are
//! [`Device`](crate::device::Device)s themselves: a front end serves them, and a snapshot can be the origin of another
//! volume.
//!
//! # Rules
//!
//! - A write to a snapshot puts the data into a new chunk and lets reads see it at once; the next
//!   flush publishes everything written so far. A whole chunk is not copied, a part of one is
//!   written together with the rest of the old chunk.
//! - A write to the origin starts only when every snapshot has a *published* exception for every
//!   chunk it touches. The old data is read once, however many snapshots need it, and writes at the
//!   same time share a publish.
//! - A snapshot's read that went to the origin keeps origin writes to that stretch out until it is
//!   done.
//! - A merging snapshot and the origin are one device: reads take what still has an exception from
//!   the COW device, writes go to where the chunk is. It takes no new exceptions.
//!
//! A future that writes must be driven to its end, also when nobody wants its result any more.

mod error; // why a volume does not do something
mod payload; // data, or zeroes
mod changes; // generations, for those who show how a volume is
mod clock; // ticks, and what waits for them
mod gates; // closed when nobody is inside
mod scratch; // memory for copying, bounded
mod stretches; // data at places
mod backlog; // origin writes that are held back
mod origin; // the device below, and what is held back of its writes
mod options; // how a snapshot behaves
mod standing; // how a snapshot is, and whether its store says so
mod pending; // chunks whose exception is being made
mod unpublished; // exceptions that a crash would lose
mod chunk_map; // where the bytes of a snapshot lie
mod grow; // a COW device made longer
mod snapshot; // all of that together
mod snapshots; // those of a volume
mod old_data; // read from the origin, written to those who need it
mod protect; // old data kept before origin writes
mod origin_writes; // everything that changes the origin
mod write_back; // what is done while clients go on
mod read; // reads of a snapshot
mod write; // writes to a snapshot
mod merging; // a merge, and its window
mod merge_writes; // writes while a snapshot merges
mod merge_run; // window after window
mod extents; // lengths of stretches, alike ones joined
mod layers; // what holds a stretch
mod differences; // where origin and snapshot differ
#[allow(clippy::module_inception, reason = "what the folder is about")]
mod volume; // the origin, its snapshots, and the rules between them
mod membership; // snapshots come and go
mod merge_control; // a merge begins, runs, pauses, is given up
mod partners; // a merge that can be taken back
mod view; // the devices of a volume

pub use crate::store::Strays;
pub use changes::{ChangeSet, Changes, SnapshotChange};
pub use error::VolumeError;
pub use layers::Layer;
pub use merging::MergeState;
pub use options::{OnFull, SnapshotOptions, UnknownOnFull};
pub use snapshot::Snapshot;
pub use standing::State;
pub use view::View;
pub use volume::Volume;
