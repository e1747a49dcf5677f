use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// What happens to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, having done nothing; the next ones succeed.
    Fails,
    /// A flush fails and the writes before it are dropped, as disks and kernels do.
    DropsWrites,
}

/// The power supply of all disks of one machine. Writes, flushes, zeroings and discards count as
/// operations; reads do not, but fail without power.
#[derive(Clone, Debug, Default)]
pub struct Power {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    operations: Cell<u64>,
    cut_after: Cell<Option<u64>>,
    faults: RefCell<Vec<(u64, Fault)>>,
}

impl Power {
    /// Never cut.
    pub fn steady() -> Self {
        Self::default()
    }

    /// Cut after this many operations: the next one does not reach its disk.
    pub fn cut_after(operations: u64) -> Self {
        let power = Self::default();
        power.inner.cut_after.set(Some(operations));
        power
    }

    /// Makes operation number `operation` (from 0) go wrong.
    pub fn fail(&self, operation: u64, fault: Fault) {
        self.inner.faults.borrow_mut().push((operation, fault));
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.inner.operations.get()
    }

    pub(crate) fn is_on(&self) -> bool {
        self.inner.cut_after.get().is_none_or(|cut| self.inner.operations.get() <= cut)
    }

    /// Counts an operation and says what becomes of it.
    pub(crate) fn spend(&self) -> Result<(), (io::Error, Option<Fault>)> {
        let number = self.inner.operations.get();
        self.inner.operations.set(number + 1);
        if !self.is_on() {
            return Err((io::Error::other("the power is off"), None));
        }
        let faults = self.inner.faults.borrow();
        match faults.iter().find(|(at, _)| *at == number) {
            Some((_, fault)) => Err((io::Error::other("injected error"), Some(*fault))),
            None => Ok(()),
        }
    }
}
