use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::task::{Poll, Waker};

use futures_util::poll;

/// Something that others wait for, on one thread.
#[derive(Debug, Default)]
pub(super) struct Event {
    waiting: RefCell<Vec<Waker>>,
}

impl Event {
    /// Makes everybody who waits look again.
    pub(super) fn notify(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Returns when `holds` does. It is asked at once, and again after each notification.
    pub(super) async fn wait_until(&self, mut holds: impl FnMut() -> bool) {
        poll_fn(|context| {
            if holds() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Requests under way on stretches of a device, in bytes.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    next: Cell<u64>,
    under_way: RefCell<Vec<(u64, Range<u64>)>>,
    left: Event,
}

/// One request under way; over when dropped.
#[derive(Debug)]
pub(super) struct Track<'a> {
    tracked: &'a Tracked,
    id: u64,
}

impl Tracked {
    /// Begins a request.
    pub(super) fn enter(&self, range: Range<u64>) -> Track<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.under_way.borrow_mut().push((id, range));
        Track { tracked: self, id }
    }

    /// Makes a request. If it is not over at once, before anybody else can come in, it counts as under way
    /// until it is.
    pub(super) async fn during<T>(&self, range: Range<u64>, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        match poll!(request.as_mut()) {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                let _under_way = self.enter(range);
                request.await
            }
        }
    }

    /// Returns when no request that is under way now touches `range`. Later ones are the caller's
    /// business to keep out.
    pub(super) async fn wait_clear(&self, range: Range<u64>) {
        let before = self.next.get();
        let touches = |(id, other): &(u64, Range<u64>)| {
            *id < before && other.start < range.end && range.start < other.end
        };
        self.left.wait_until(|| !self.under_way.borrow().iter().any(touches)).await;
    }
}

impl Drop for Track<'_> {
    fn drop(&mut self) {
        self.tracked.under_way.borrow_mut().retain(|(id, _)| *id != self.id);
        self.tracked.left.notify();
    }
}

/// Lets requests pass, or holds new ones back until those under way have ended.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: Cell<bool>,
    inside: Cell<u64>,
    changed: Event,
}

/// One request inside; out when dropped.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Gate);

/// Nobody is inside and nobody comes in; open again when dropped.
#[derive(Debug)]
pub(super) struct Closed<'a>(&'a Gate);

impl Gate {
    pub(super) async fn enter(&self) -> Inside<'_> {
        self.changed.wait_until(|| !self.closed.get()).await;
        self.inside.set(self.inside.get() + 1);
        Inside(self)
    }

    pub(super) async fn close(&self) -> Closed<'_> {
        self.changed.wait_until(|| !self.closed.get()).await;
        self.closed.set(true);
        let closed = Closed(self);
        self.changed.wait_until(|| self.inside.get() == 0).await;
        closed
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        self.0.changed.notify();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.set(false);
        self.0.changed.notify();
    }
}
