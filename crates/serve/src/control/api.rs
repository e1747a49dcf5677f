//! What is said over the control socket. `_bytes` are bytes, `_seconds` seconds; a value that is not
//! known is null.

use dmsnap::volume::{OnFull, State};
use serde::{Deserialize, Serialize};

use crate::MergeProgress;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the server.
    pub version: String,
    /// How long it has been running.
    pub seconds: f64,
    /// Clients' writes are refused.
    pub read_only: bool,
    /// What everything else is a snapshot of.
    pub origin: OriginStatus,
    /// Oldest first.
    pub snapshots: Vec<SnapshotStatus>,
    /// The merge, if one was started and its snapshot is still there.
    pub merge: Option<MergeProgress>,
    /// What clients can ask for, in the order it was added.
    pub exports: Vec<ExportStatus>,
}

/// The origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// As it was named to the server.
    pub path: String,
    /// Its size, and that of every snapshot.
    pub len_bytes: u64,
    /// It is open for reading alone: clients' writes to it are refused, and nothing is merged into it.
    pub read_only: bool,
    /// What somebody else has done to it while it is served, if anybody has.
    pub changed: Option<String>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Also that of its export.
    pub name: String,
    /// The COW device, as it was named to the server.
    pub cow: String,
    /// What its clients see of it, in bytes.
    pub len_bytes: u64,
    /// False if it is gone with the server.
    pub persistent: bool,
    /// How it is.
    pub state: State,
    /// It is, or has been, merged: its device is the origin's.
    pub merging: bool,
    /// It has merged: its device is another name of the origin's until it is removed.
    pub merged: bool,
    /// It keeps what a merge of its partner writes over, and clients can only read it.
    pub way_back: bool,
    /// The snapshot with the other store of its undoable merge, if there is one here.
    pub partner: Option<String>,
    /// What a kernel prints after the target's name.
    pub status: String,
    /// The unit of copying.
    pub chunk_bytes: u64,
    /// Size of the COW device.
    pub total_bytes: Option<u64>,
    /// Of that, what is given out, metadata included.
    pub allocated_bytes: Option<u64>,
    /// Of that, metadata.
    pub metadata_bytes: Option<u64>,
    /// Fill level from 0 to 100, as LVM counts it.
    pub percent: Option<f64>,
    /// Chunks that differ, or have differed, from the origin.
    pub exceptions: u64,
    /// Of those, what a power cut would take at this moment.
    pub unpublished: u64,
    /// Memory of its table.
    pub memory_bytes: u64,
    /// What origin writes do when the store is full.
    pub on_full: OnFull,
    /// Up to this size the COW file grows by itself.
    pub max_size_bytes: Option<u64>,
    /// Discards zero whole chunks.
    pub discard_zeroes: bool,
    /// Discards go to the origin as well.
    pub discard_passdown: bool,
    /// How fast it fills, on average over some minutes.
    pub fill_bytes_per_second: Option<f64>,
    /// When it will be full at that speed, growth up to `max_size_bytes` included; null if it does
    /// not fill.
    pub seconds_to_full: Option<f64>,
    /// Writes of slots since it was added.
    pub metadata_writes: Option<u64>,
    /// Flushes of the COW device for slots since it was added.
    pub metadata_flushes: Option<u64>,
}

/// An export, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// Clients ask for it by this name.
    pub name: String,
    /// Clients that have it now.
    pub connections: u64,
    /// Requests answered since it was added.
    pub requests: u64,
    /// Of those, the ones that failed.
    pub errors: u64,
    /// Bytes that clients have read.
    pub read_bytes: u64,
    /// Bytes that clients have written.
    pub written_bytes: u64,
}

/// A snapshot that is to be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSnapshot {
    /// Of snapshot and export.
    pub name: String,
    /// The COW device: an absolute path.
    pub cow: String,
    /// Make a store there first; without it the one that is there is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make: Option<MakeStore>,
    /// No store: the snapshot is gone with the server, `cow` is overwritten in chunks of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transient_chunk_bytes: Option<u64>,
    /// What origin writes do when the store is full; `invalidate` if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
    /// Up to this size the COW file grows by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// Discards zero whole chunks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discard_zeroes: bool,
    /// Discards go to the origin as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discard_passdown: bool,
}

/// A store that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeStore {
    /// A power of two from 512 bytes to 1 GiB.
    pub chunk_bytes: u64,
    /// Size of the file to make; without it the device must be there, and begin with zeroes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// How long a COW file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// At least the size it has.
    pub size_bytes: u64,
}

/// A merge that is to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartMerge {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Limit in bytes per second; 0 for none. Left out: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_second: Option<u64>,
    /// Most data in one window. Left out: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_bytes: Option<u64>,
    /// Keep a way back there. Left out: none is kept, but by a partner that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<WayBack>,
}

/// Where a merge keeps what it writes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayBack {
    /// A file that is made, or a blank device: an absolute path.
    pub cow: String,
    /// Of snapshot and export; `NAME-undo` if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Up to this size the file grows by itself; as large as it can ever have to be if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
}

/// A merge that is to be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoMerge {
    /// Name of the snapshot that merges, or has merged.
    pub snapshot: String,
}

/// Changes of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneMerge {
    /// Limit in bytes per second; 0 for none. Left out: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_second: Option<u64>,
    /// Most data in one window. Left out: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_bytes: Option<u64>,
}

/// Which differences are asked for: query parameters of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffQuery {
    /// Name of a snapshot, or `origin`.
    pub from: String,
    /// The same of the other side.
    pub to: String,
    /// From this byte on; 0 if it is left out.
    pub start: u64,
    /// At most this many ranges. The server may tell fewer, and does so if it is left out.
    pub max: Option<u64>,
}

/// Where two devices differ, or may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Of the larger one, in bytes.
    pub size: u64,
    /// Every range begins at a multiple of this many bytes, unless the question begins inside one.
    pub granularity: u64,
    /// In order; they neither touch nor overlap.
    pub ranges: Vec<DiffRange>,
    /// Where to ask again, if there is more.
    pub next: Option<u64>,
}

/// A range that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRange {
    /// Its first byte.
    pub start: u64,
    /// In bytes.
    pub length: u64,
}
