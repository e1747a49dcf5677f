use std::cell::Cell;
use std::io;

use super::error::VolumeError;
use crate::planted::{Planted, planted};
use crate::store::StoreError;

/// How a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum State {
    /// Reads and writes.
    #[default]
    Active,
    /// A write found no room: it failed, reads are right, and writes that need no room go on.
    Overflowed,
    /// Dropped: nothing can be read or written any more.
    Invalid,
}

/// How a snapshot is, and whether its store says so.
#[derive(Debug, Default)]
pub(super) struct Standing {
    state: Cell<State>,
    /// How many calls write the mark of a dropped snapshot at the moment.
    marking: Cell<u32>,
    /// It was dropped, and its store does not say so.
    unmarked: Cell<bool>,
    /// It is not the volume's any more: nobody begins to write to its store.
    out: Cell<bool>,
}

impl Standing {
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    pub(super) fn usable(&self) -> io::Result<()> {
        match self.state.get() {
            State::Invalid => Err(VolumeError::Invalid.into()),
            State::Active | State::Overflowed => Ok(()),
        }
    }

    /// An error if it was taken out.
    pub(super) fn present(&self) -> io::Result<()> {
        match self.is_out() {
            true => Err(VolumeError::TakenOut.into()),
            false => Ok(()),
        }
    }

    /// Do origin writes keep old data in it?
    pub(super) fn is_kept(&self) -> bool {
        self.state.get() != State::Invalid && !self.is_out()
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.get() && !planted(Planted::RemovedIsWritten)
    }

    pub(super) fn take_out(&self) {
        self.out.set(true);
    }

    /// True if that changes anything. One that was dropped stays so.
    pub(super) fn set_overflowed(&self, overflowed: bool) -> bool {
        let state = if overflowed { State::Overflowed } else { State::Active };
        let changes = ![state, State::Invalid].contains(&self.state.get());
        if changes {
            self.state.set(state);
        }
        changes
    }

    /// It is dropped, and `mark` says so on the COW device.
    pub(super) async fn drop_with(
        &self,
        mark: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        self.state.set(State::Invalid);
        self.marking.set(self.marking.get() + 1);
        let marked = mark.await;
        self.marking.set(self.marking.get() - 1);
        self.unmarked.set(marked.is_err());
        marked
    }

    /// The same for one that was dropped before.
    pub(super) async fn mark_again(
        &self,
        mark: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let marked = mark.await;
        self.unmarked.set(marked.is_err());
        marked
    }

    /// True if it was dropped and its COW device has not taken the mark.
    pub(super) fn is_unmarked(&self) -> bool {
        self.unmarked.get() && !self.is_marking()
    }

    /// True while the mark is being written.
    pub(super) fn is_marking(&self) -> bool {
        self.marking.get() > 0 && !planted(Planted::UnmarkedLetsThrough)
    }
}
