use dmsnap::volume::VolumeError;
use serde::{Deserialize, Serialize};

/// How a merge is, for the caller that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergePhase {
    /// Windows are merged.
    Running,
    /// The last window before a pause is under way.
    Pausing,
    /// Nothing is moved; origin and snapshot are one device all the same.
    Paused,
    /// Nothing is left.
    Finished,
    /// A device failed; what is left may be tried again.
    Failed,
}

/// How far a merge is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeProgress {
    /// Name of the snapshot that merges.
    pub snapshot: String,
    /// How it is.
    pub state: MergePhase,
    /// Exceptions when it was started.
    pub exceptions_total: u64,
    /// Exceptions that are left.
    pub exceptions_left: u64,
    /// Bytes when it was started, in whole chunks.
    pub bytes_total: u64,
    /// Bytes that are left.
    pub bytes_left: u64,
    /// The limit, if there is one.
    pub rate_bytes_per_second: Option<u64>,
    /// Most data in one window.
    pub window_bytes: u64,
    /// What it moved on average while it ran; none before the first window has ended.
    pub bytes_per_second: Option<u64>,
    /// How long it ran, without pauses.
    pub seconds: f64,
    /// What is left of it at that speed; none if nobody can tell.
    pub seconds_left: Option<u64>,
    /// The snapshot that keeps what it writes over, if one does: `undo` makes it the one that merges.
    pub way_back: Option<String>,
    /// It was started with a way back, and there is none any more.
    pub way_back_lost: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What became of a merge that nobody paused.
#[derive(Clone, Copy, Debug)]
pub enum MergeEnd<'a> {
    /// Nothing is left.
    Finished,
    /// A device failed.
    Failed(&'a VolumeError),
}

/// Whom to tell: the snapshot's name, and what became of its merge.
pub type OnEnd = Box<dyn Fn(&str, MergeEnd<'_>)>;
