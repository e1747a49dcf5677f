use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use super::changes::{Changed, Changes};
use super::snapshot::Snapshot;
use crate::device::Device;

/// The snapshots of a volume, oldest first.
#[derive(Debug)]
pub(super) struct Snapshots<C> {
    list: RefCell<Vec<Rc<Snapshot<C>>>>,
    /// How many were ever added.
    added: Cell<u64>,
    changed: Changed,
}

impl<C> Snapshots<C> {
    pub(super) fn new(changes: &Rc<Changes>) -> Self {
        Self { list: RefCell::default(), added: Cell::default(), changed: Changed::never(changes) }
    }

    /// Was one added or taken out since a generation?
    pub(super) fn changed_after(&self, generation: u64) -> bool {
        self.changed.after(generation)
    }

    /// What the next snapshot is told from every other one by.
    pub(super) fn next_id(&self) -> u64 {
        self.added.get()
    }

    pub(super) fn add(&self, snapshot: Rc<Snapshot<C>>) {
        self.added.set(self.added.get() + 1);
        self.list.borrow_mut().push(snapshot);
        self.changed.now();
    }

    pub(super) fn remove(&self, snapshot: &Rc<Snapshot<C>>) {
        let mut list = self.list.borrow_mut();
        let before = list.len();
        list.retain(|other| !Rc::ptr_eq(other, snapshot));
        let is_out = list.len() < before;
        drop(list);
        if is_out {
            self.changed.now();
        }
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

impl<C: Device> Snapshots<C> {
    /// The one whose store and that of `snapshot` name each other as partners.
    pub(super) fn partner(&self, snapshot: &Snapshot<C>) -> Option<Rc<Snapshot<C>>> {
        let own = snapshot.tag()?;
        let partner = own.partner?;
        self.find(|it| it.tag().is_some_and(|tag| tag.id == partner && tag.partner == Some(own.id)))
    }
}
