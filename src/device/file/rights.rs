use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::mode::{Caching, Mode};
use super::semaphore::Semaphore;
use super::trace::Trace;

/// What an open file may be used for, and what it takes to use it for more.
#[derive(Debug)]
pub(super) struct Rights {
    pub(super) mode: Mode,
    pub(super) caching: Caching,
    /// As it was opened.
    pub(super) path: PathBuf,
    /// Why nobody may write to it, where [`Mode::Share`] found that.
    pub(super) not_writable: Option<String>,
    /// As it was when it was opened, if it is a file.
    pub(super) trace: Option<Trace>,
    /// One claim at a time.
    pub(super) turn: Semaphore<1>,
    /// Others had it open at the last claim, which waited for them: the next one does not.
    pub(super) was_refused: Cell<bool>,
}

impl Rights {
    pub(super) fn new(
        path: &Path,
        (mode, caching): (Mode, Caching),
        trace: Option<Trace>,
        not_writable: Option<String>,
    ) -> Self {
        let (turn, was_refused) = (Semaphore::default(), Cell::default());
        Self { mode, caching, path: path.to_owned(), not_writable, trace, turn, was_refused }
    }

    /// Refuses every write, for as long as it is open.
    pub(super) fn is_read_only(&self) -> bool {
        match self.mode {
            Mode::Look | Mode::Read => true,
            Mode::Share => self.not_writable.is_some(),
            Mode::Write => false,
        }
    }
}
