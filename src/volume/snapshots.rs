use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use super::snapshot::Snapshot;

/// The snapshots of a volume, oldest first.
#[derive(Debug)]
pub(super) struct Snapshots<C> {
    list: RefCell<Vec<Rc<Snapshot<C>>>>,
    /// How many were ever added.
    added: Cell<u64>,
}

impl<C> Default for Snapshots<C> {
    fn default() -> Self {
        Self { list: RefCell::default(), added: Cell::default() }
    }
}

impl<C> Snapshots<C> {
    /// What the next snapshot is told from every other one by.
    pub(super) fn next_id(&self) -> u64 {
        self.added.get()
    }

    pub(super) fn add(&self, snapshot: Rc<Snapshot<C>>) {
        self.added.set(self.added.get() + 1);
        self.list.borrow_mut().push(snapshot);
    }

    pub(super) fn remove(&self, snapshot: &Rc<Snapshot<C>>) {
        self.list.borrow_mut().retain(|other| !Rc::ptr_eq(other, snapshot));
    }

    pub(super) fn contains(&self, snapshot: &Rc<Snapshot<C>>) -> bool {
        self.list.borrow().iter().any(|other| Rc::ptr_eq(other, snapshot))
    }

    /// All of them, for as long as nothing is waited for.
    pub(super) fn borrow(&self) -> Ref<'_, Vec<Rc<Snapshot<C>>>> {
        self.list.borrow()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Rc<Snapshot<C>>> {
        self.list.borrow().clone()
    }

    /// The first of which `holds` is true.
    pub(super) fn find(&self, holds: impl Fn(&Snapshot<C>) -> bool) -> Option<Rc<Snapshot<C>>> {
        self.list.borrow().iter().find(|it| holds(it)).cloned()
    }
}
