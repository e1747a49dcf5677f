use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes the tasks of this thread that wait for a condition.
#[derive(Debug, Default)]
pub(crate) struct Event {
    /// By the keys of their places.
    waiting: RefCell<Vec<(u64, Waker)>>,
    next: Cell<u64>,
}

impl Event {
    /// Something changed: whoever waits looks again.
    pub(crate) fn notify(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        // Taken out, because waking may run anything; put back, because its memory is still good.
        let mut waiting = self.waiting.take();
        for (_, waker) in waiting.drain(..) {
            waker.wake();
        }
        let mut now = self.waiting.borrow_mut();
        if now.is_empty() {
            *now = waiting;
        }
    }

    /// Waits until `condition` gives a value. It is looked at now and after every
    /// [`notify`](Self::notify).
    pub(crate) async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        if let Some(value) = condition() {
            return value;
        }
        let place = Place { event: self, key: self.next.replace(self.next.get() + 1) };
        poll_fn(|cx| match condition() {
            Some(value) => Poll::Ready(value),
            None => {
                place.wait(cx.waker());
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

impl Place<'_> {
    fn wait(&self, waker: &Waker) {
        let mut waiting = self.event.waiting.borrow_mut();
        match waiting.iter_mut().find(|(key, _)| *key == self.key) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.push((self.key, waker.clone())),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.event.waiting.borrow_mut().retain(|(key, _)| *key != self.key);
    }
}

/// Raised once, for good.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    event: Event,
}

impl Signal {
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        self.event.notify();
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.get()
    }

    pub(crate) async fn wait(&self) {
        self.event.until(|| self.raised.get().then_some(())).await;
    }
}
