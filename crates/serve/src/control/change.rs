use super::api::{NewSnapshot, StartMerge, TuneMerge, WayBack};

/// What a call changes of what is served. A caller that keeps it can start a server with the same snapshots and the same
/// merge again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum StateChange<'a> {
    /// A snapshot is served.
    Added(&'a NewSnapshot),
    /// A snapshot is not served any more. If it has merged, or was to, there is no merge any more.
    Removed(&'a str),
    /// A merge begins.
    MergeStarted(&'a StartMerge),
    /// The way back of the merge is there: a snapshot of this name.
    WayBackMade {
        /// Of the snapshot.
        name: &'a str,
        /// Its COW device, and how far it grows.
        way_back: &'a WayBack,
    },
    /// The rate, or the window, of the merge is another one.
    MergeTuned(TuneMerge),
    /// The merge of this snapshot moves nothing until it is resumed.
    MergePaused(&'a str),
    /// The merge of this snapshot goes on.
    MergeResumed(&'a str),
    /// The merge of this snapshot is given up: it is a plain one.
    MergeCancelled(&'a str),
    /// The merge is taken back: from now on this snapshot merges, and its partner is a plain one.
    MergeExchanged(&'a str),
}
