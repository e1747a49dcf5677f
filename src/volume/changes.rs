use std::cell::Cell;
use std::rc::Rc;

use crate::sync::Event;

/// Counts what changes in a volume, for those who show how it is: each change is a generation. Data that is
/// written where it was before is not a change.
///
/// Counting takes no memory, and nobody is woken who does not [wait](Self::wait_after). What has changed since a
/// generation is asked of the volume: [`Volume::changes_after`](super::Volume::changes_after).
#[derive(Debug, Default)]
pub struct Changes {
    generation: Cell<u64>,
    changed: Event,
}

impl Changes {
    /// The generation of the last change; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Returns the current generation as soon as that is a later one than `generation`. There may have been many
    /// changes since, and more may come at any moment: who does something costly for each generation should wait
    /// a while in between.
    pub async fn wait_after(&self, generation: u64) -> u64 {
        let later = || Some(self.generation()).filter(|now| *now > generation);
        self.changed.until(later).await
    }

    /// Something changes: the generation of that.
    fn count(&self) -> u64 {
        self.generation.set(self.generation.get() + 1);
        self.changed.notify();
        self.generation.get()
    }
}

/// The last change of one thing.
#[derive(Debug)]
pub(super) struct Changed {
    changes: Rc<Changes>,
    last: Cell<u64>,
}

impl Changed {
    /// Of a thing that has not changed yet.
    pub(super) fn never(changes: &Rc<Changes>) -> Self {
        Self { changes: changes.clone(), last: Cell::default() }
    }

    /// It changes now.
    pub(super) fn now(&self) {
        self.last.set(self.changes.count());
    }

    /// Has it changed since a generation?
    pub(super) fn after(&self, generation: u64) -> bool {
        self.last.get() > generation
    }
}

/// What has changed in a volume since some generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeSet {
    /// Until which generation.
    pub generation: u64,
    /// A snapshot was added or taken out. Those that are left are told apart by
    /// [`Snapshot::id`](super::Snapshot::id).
    pub snapshots_changed: bool,
    /// A merge was started, paused, given up, has finished or failed, or has merged another window.
    pub merge_changed: bool,
    /// Those of the snapshots that are there that have changed, oldest first.
    pub snapshots: Vec<SnapshotChange>,
}

/// What has changed in a snapshot since some generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotChange {
    /// Which one: [`Snapshot::id`](super::Snapshot::id).
    pub id: u64,
    /// It was added.
    pub is_new: bool,
    /// Its [state](super::Snapshot::state) has changed, or whether its store says so.
    pub state_changed: bool,
    /// Exceptions were made, published, or cleared by a merge.
    pub exceptions_changed: bool,
}
