use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use crate::planted::{Planted, planted};
use crate::sync::Event;

/// Chunks of a snapshot whose new exception is being made.
#[derive(Debug, Default)]
pub(super) struct Pending {
    chunks: RefCell<HashSet<u64>>,
    /// How many were settled so far.
    settled: Cell<u64>,
    /// One was settled, or the snapshot's state has changed.
    changed: Event,
}

impl Pending {
    pub(super) fn contains(&self, old: u64) -> bool {
        self.chunks.borrow().contains(&old) && !planted(Planted::TwoExceptions)
    }

    pub(super) fn begin(&self, old: u64) {
        self.chunks.borrow_mut().insert(old);
    }

    /// The exception is there, or will not be made.
    pub(super) fn settle(&self, old: u64) {
        self.chunks.borrow_mut().remove(&old);
        self.settled.set(self.settled.get() + 1);
        self.changed.notify();
    }

    /// How many were settled so far.
    pub(super) fn settled(&self) -> u64 {
        self.settled.get()
    }

    /// Lets those who wait look again: the snapshot's state has changed.
    pub(super) fn notify(&self) {
        self.changed.notify();
    }

    /// Returns when `holds` does. It is asked at once, and again when an exception was settled or the
    /// snapshot's state has changed.
    pub(super) async fn wait_until(&self, holds: impl FnMut() -> bool) {
        self.changed.wait_until(holds).await;
    }

    /// Returns when no new exception for `old` is being made.
    pub(super) async fn wait_for(&self, old: u64) {
        self.wait_until(|| !self.contains(old)).await;
    }

    /// Returns when no new exception is being made at all.
    pub(super) async fn wait_for_all(&self) {
        self.wait_until(|| self.chunks.borrow().is_empty()).await;
    }
}
