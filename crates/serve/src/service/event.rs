use std::io;
use std::rc::Rc;

use dmsnap::device::Change;

use crate::merges::MergeEnd;

/// What a service has to tell while it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ServiceEvent<'a> {
    /// A client cannot be let in, because descriptors or memory have run out: about ten times a second, while
    /// it lasts.
    ClientRefused(&'a io::Error),
    /// A snapshot was dropped: its store is full or its COW device failed.
    Dropped {
        /// Its name.
        snapshot: &'a str,
    },
    /// A snapshot was dropped that kept what a merge writes over, or wrote: the merge cannot be taken back.
    WayBackLost {
        /// Name of the snapshot that merges.
        snapshot: &'a str,
        /// Name of the one that was dropped.
        way_back: &'a str,
    },
    /// The COW device of a dropped snapshot does not take the mark that says so. It is tried again with each
    /// tick. Origin writes that need the mark fail until then, or until the snapshot is taken out.
    Unmarked {
        /// Its name.
        snapshot: &'a str,
    },
    /// The store of a dropped snapshot is marked at last.
    Marked {
        /// Its name.
        snapshot: &'a str,
    },
    /// The origin was to be written, and is open for reading alone, or others have it open: the request is
    /// refused. Told once for as long as it lasts.
    OriginNotWritten {
        /// Why.
        found: &'a str,
    },
    /// Somebody else has changed the origin: what its snapshots show where they hold nothing of their own may be a
    /// mixture. Told once for each kind of change.
    OriginChanged {
        /// What was done to it.
        change: Change,
    },
    /// A merge that nobody paused has ended.
    MergeEnded {
        /// Name of the snapshot that merged.
        snapshot: &'a str,
        /// What became of it.
        end: MergeEnd<'a>,
    },
    /// It was asked to stop: what clients have asked for is done, and nothing new is taken.
    Stopping,
    /// Everything has ended, and a merge is not finished.
    MergeLeft {
        /// Name of the snapshot that merges.
        snapshot: &'a str,
        /// Exceptions that are left.
        exceptions: u64,
    },
}

/// Whom to tell.
pub(super) type Teller = Rc<dyn Fn(ServiceEvent<'_>)>;
