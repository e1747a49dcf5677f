use std::cell::RefCell;
use std::rc::Rc;

use super::interface::{Export, MAX_NAME_BYTES};
use super::meter::{Counts, Kind};
use super::slot::{Lease, Slot};

/// What a server serves. A clone is the same set; exports come and go while it is being served.
#[derive(Clone, Default)]
pub struct Exports {
    slots: Rc<RefCell<Vec<Rc<Slot>>>>,
    /// The name of the default one, if it was chosen.
    default: Rc<RefCell<Option<String>>>,
}

/// There is an export of that name, or no client could ask for it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an export of that name is being served, or the name is not possible")]
pub struct DuplicateName;

impl Exports {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `export` from now on. The first one is also the default, unless another one
    /// [is chosen](Self::set_default): clients get it that ask for the empty name, unless some export has that name.
    ///
    /// # Errors
    ///
    /// [`DuplicateName`]
    pub fn add<E: Export>(&self, export: E) -> Result<(), DuplicateName> {
        let mut exports = self.slots.borrow_mut();
        let name = export.name();
        let is_askable = name.len() <= MAX_NAME_BYTES && !name.contains('\0');
        if !is_askable || exports.iter().any(|slot| slot.target.name() == name) {
            return Err(DuplicateName);
        }
        exports.push(Rc::new(Slot::new(export)));
        Ok(())
    }

    /// The export of that name is the default from now on, as long as there is one.
    pub fn set_default(&self, name: &str) {
        self.default.replace(Some(name.into()));
    }

    /// Stops serving the export of that name. New clients no longer find it, at once; its
    /// connections are closed after the requests already read, with a flush. Returns when the last
    /// one is closed and the export dropped; false if there was none of that name.
    pub async fn remove(&self, name: &str) -> bool {
        let slot = {
            let mut exports = self.slots.borrow_mut();
            match exports.iter().position(|slot| slot.target.name() == name) {
                Some(n) => exports.remove(n),
                None => return false,
            }
        };
        slot.remove().await;
        true
    }

    /// The names in the order they were added.
    pub fn names(&self) -> Vec<String> {
        self.all().iter().map(|slot| slot.target.name().to_owned()).collect()
    }

    /// How each export is used, in the order they were added.
    pub fn uses(&self) -> Vec<Use> {
        let used = |slot: &Rc<Slot>| Use {
            name: slot.target.name().to_owned(),
            connections: slot.users(),
            counts: slot.meter.counts(),
        };
        self.slots.borrow().iter().map(used).collect()
    }

    /// The export of that name, or the default one for the empty name, for one client.
    pub fn lease(&self, name: &str) -> Option<Lease> {
        self.find(name).map(Lease::new)
    }

    pub(crate) fn all(&self) -> Vec<Rc<Slot>> {
        self.slots.borrow().clone()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Rc<Slot>> {
        let (exports, default) = (self.slots.borrow(), self.default.borrow());
        let of = |name: &str| exports.iter().find(|slot| slot.target.name() == name);
        let default = || default.as_deref().and_then(of).or(exports.first());
        of(name).or_else(|| default().filter(|_| name.is_empty())).cloned()
    }
}

/// How an export is used.
#[derive(Clone, Debug)]
pub struct Use {
    /// The export's name.
    pub name: String,
    /// Clients that have it now.
    pub connections: usize,
    /// What was asked of it since it was added, kind by kind as in [`Kind::ALL`].
    pub counts: [Counts; Kind::ALL.len()],
}
