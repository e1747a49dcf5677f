use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::rc::Rc;

use dmsnap_format::Exception;

use super::changes::{Changed, Changes};
use super::error::VolumeError;
use super::snapshot::Snapshot;
use super::standing::State;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::sync::Event;

/// How a merge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeState {
    /// Windows are merged.
    Running,
    /// No window is under way; origin and snapshot are one device as before.
    Paused,
    /// Nothing is left: the snapshot's device passes everything on to the origin.
    Finished,
    /// A device failed. The exceptions that are left are kept.
    Failed,
}

/// The merge of a volume, if one was started.
#[derive(Debug)]
pub(super) struct Merges<C> {
    current: RefCell<Option<Rc<Merging<C>>>>,
    /// How often exceptions went away, or a device became another one.
    moved: Cell<u64>,
    changed: Changed,
}

impl<C> Merges<C> {
    pub(super) fn new(changes: &Rc<Changes>) -> Self {
        let (current, moved) = (RefCell::default(), Cell::default());
        Self { current, moved, changed: Changed::never(changes) }
    }

    /// Was one started, paused, ended, or has one merged a window since a generation?
    pub(super) fn changed_after(&self, generation: u64) -> bool {
        self.changed.after(generation)
    }

    /// How the merge is from now on.
    pub(super) fn set_state(&self, merging: &Merging<C>, state: MergeState) {
        merging.state.set(state);
        self.changed.now();
    }

    /// The merge that was started last, unless it was given up or its snapshot taken out.
    pub(super) fn current(&self) -> Option<Rc<Merging<C>>> {
        self.current.borrow().clone()
    }

    /// The merge of this snapshot, if one was started.
    pub(super) fn of(&self, snapshot: &Rc<Snapshot<C>>) -> Option<Rc<Merging<C>>> {
        self.current().filter(|merging| Rc::ptr_eq(&merging.snapshot, snapshot))
    }

    pub(super) fn begin(&self, merging: Merging<C>) {
        self.current.replace(Some(Rc::new(merging)));
        self.has_moved();
        self.changed.now();
    }

    /// Origin and snapshot are two devices again. Returns the merge that made them one, if there was one.
    pub(super) fn end(&self) -> Option<Rc<Merging<C>>> {
        let ended = self.current.take()?;
        self.has_moved();
        self.changed.now();
        Some(ended)
    }

    /// A window was merged: its exceptions went away.
    pub(super) fn window_merged(&self) {
        self.has_moved();
        self.changed.now();
    }

    /// A merge has taken exceptions away, or made a device another one.
    pub(super) fn has_moved(&self) {
        self.moved.set(self.moved.get() + 1);
    }

    /// How often that was so.
    pub(super) fn moved(&self) -> u64 {
        self.moved.get()
    }
}

impl<C: Device> Merges<C> {
    /// The merge that makes this device (the origin, if `None`) one with another, if there is one.
    pub(super) fn with(&self, snapshot: Option<&Rc<Snapshot<C>>>) -> Option<Rc<Merging<C>>> {
        let merging = self.current()?;
        let same = snapshot.is_none_or(|snapshot| Rc::ptr_eq(snapshot, &merging.snapshot));
        (same && merging.snapshot.state() != State::Invalid).then_some(merging)
    }

    /// [`VolumeError::Merging`] while a merge has not finished.
    pub(super) fn refuse_unfinished(&self) -> Result<(), VolumeError> {
        match self.current.borrow().as_ref().filter(|merging| !merging.is_finished()) {
            Some(it) => Err(VolumeError::Merging { snapshot: it.snapshot.name().into() }),
            None => Ok(()),
        }
    }

    /// The same for the merge of this snapshot only.
    pub(super) fn refuse_unfinished_of(
        &self,
        snapshot: &Rc<Snapshot<C>>,
    ) -> Result<(), VolumeError> {
        match self.of(snapshot) {
            Some(_) => self.refuse_unfinished(),
            None => Ok(()),
        }
    }
}

/// A merge of a volume.
#[derive(Debug)]
pub(super) struct Merging<C> {
    snapshot: Rc<Snapshot<C>>,
    state: Cell<MergeState>,
    /// True while [`Volume::run_merge`](super::Volume::run_merge) is at work: also after a pause was asked
    /// for, until its window has ended.
    at_work: Cell<bool>,
    window: RefCell<OpenWindow>,
    /// A window was closed.
    released: Event,
}

/// The window under way.
#[derive(Debug, Default)]
struct OpenWindow {
    /// Its chunks.
    olds: HashSet<u64>,
    /// Those written since their data was read.
    rewritten: BTreeSet<u64>,
    /// True while writes to its chunks wait for it to end.
    held: bool,
}

/// A run of the merge is at work; over when dropped.
pub(super) struct AtWork<'a>(&'a Cell<bool>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<C> Merging<C> {
    pub(super) fn new(snapshot: Rc<Snapshot<C>>) -> Self {
        Self {
            snapshot,
            state: MergeState::Paused.into(),
            at_work: Cell::default(),
            window: RefCell::default(),
            released: Event::default(),
        }
    }

    pub(super) fn snapshot(&self) -> &Rc<Snapshot<C>> {
        &self.snapshot
    }

    pub(super) fn state(&self) -> MergeState {
        self.state.get()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.get() == MergeState::Finished
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.get() == MergeState::Failed
    }

    /// `None` while another run is at work: two of them would clear each other's slots.
    pub(super) fn begin_work(&self) -> Option<AtWork<'_>> {
        (!self.at_work.replace(true)).then(|| AtWork(&self.at_work))
    }

    /// [`VolumeError::MergeRunning`] while a run is at work.
    pub(super) fn refuse_at_work(&self) -> Result<(), VolumeError> {
        match self.at_work.get() {
            true => Err(VolumeError::MergeRunning),
            false => Ok(()),
        }
    }

    /// These chunks are under way.
    pub(super) fn open(&self, exceptions: &[Exception]) {
        let olds = exceptions.iter().map(|exception| exception.old.get()).collect();
        *self.window.borrow_mut() = OpenWindow { olds, ..OpenWindow::default() };
    }

    pub(super) fn close(&self) {
        self.window.take();
        self.released.notify();
    }

    /// From now on writes to chunks of the window wait for its end.
    pub(super) fn hold_writes(&self) {
        self.window.borrow_mut().held = !planted(Planted::HoldNobody);
    }

    pub(super) fn is_held(&self, old: u64) -> bool {
        let window = self.window.borrow();
        window.held && window.olds.contains(&old)
    }

    /// Returns when a write to this chunk need not wait any more.
    pub(super) async fn wait_released(&self, old: u64) {
        self.released.wait_until(|| !self.is_held(old)).await;
    }

    /// These chunks were written: those of the window are to be copied again.
    pub(super) fn rewritten(&self, olds: Range<u64>) {
        if planted(Planted::ForgetDirty) {
            return;
        }
        let OpenWindow { olds: open, rewritten, .. } = &mut *self.window.borrow_mut();
        rewritten.extend(olds.filter(|old| open.contains(old)));
    }

    /// How many chunks are to be copied again.
    pub(super) fn rewritten_len(&self) -> usize {
        self.window.borrow().rewritten.len()
    }

    /// Which chunks are to be copied again.
    pub(super) fn take_rewritten(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.window.borrow_mut().rewritten)
    }
}
