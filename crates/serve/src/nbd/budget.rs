use std::cell::Cell;
use std::rc::Rc;

use super::event::Event;

/// How many requests and bytes of one connection may be in flight.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Cell<usize>,
    bytes: Cell<usize>,
    returned: Event,
}

impl Budget {
    pub(super) fn new(requests: usize, bytes: usize) -> Rc<Self> {
        let (requests, bytes) = (Cell::new(requests.max(1)), Cell::new(bytes));
        Rc::new(Self { requests, bytes, returned: Event::default() })
    }

    /// Waits until one more request of `bytes` may be in flight. Not more than the whole budget
    /// may be asked for.
    pub(super) async fn take(self: &Rc<Self>, bytes: usize) -> Permit {
        self.returned.until(|| self.has(bytes).then_some(())).await;
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        Permit { budget: self.clone(), bytes }
    }

    /// True if [`take`](Self::take) would not wait.
    pub(super) fn has(&self, bytes: usize) -> bool {
        self.requests.get() > 0 && self.bytes.get() >= bytes
    }
}

/// One request's share. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.requests.set(self.budget.requests.get() + 1);
        self.budget.bytes.set(self.budget.bytes.get() + self.bytes);
        self.budget.returned.notify();
    }
}
