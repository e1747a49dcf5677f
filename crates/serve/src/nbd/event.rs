use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes the tasks of this thread that wait for a condition.
#[derive(Debug, Default)]
pub(super) struct Event {
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
}

impl Event {
    /// Something changed: whoever waits looks again.
    pub(super) fn notify(&self) {
        let waiting = self.waiting.take();
        waiting.into_values().for_each(Waker::wake);
    }

    /// Waits until `condition` gives a value. It is looked at now and after every
    /// [`notify`](Self::notify).
    pub(super) async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let place = Place { event: self, key: self.next.replace(self.next.get() + 1) };
        poll_fn(|cx| match condition() {
            Some(value) => Poll::Ready(value),
            None => {
                place.event.waiting.borrow_mut().insert(place.key, cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// A waiter's place; given up when it stops waiting, for whatever reason.
struct Place<'a> {
    event: &'a Event,
    key: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.event.waiting.borrow_mut().remove(&self.key);
    }
}

/// Raised once, for good.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Cell<bool>,
    event: Event,
}

impl Signal {
    pub(super) fn raise(&self) {
        self.raised.set(true);
        self.event.notify();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.get()
    }

    pub(super) async fn wait(&self) {
        self.event.until(|| self.raised.get().then_some(())).await;
    }
}
