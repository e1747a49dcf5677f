//! Tasks of one thread that wait for each other: no locks, no runtime.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::task::{Poll, Waker};

use futures_util::future::LocalBoxFuture;
use futures_util::poll;
use futures_util::stream::{FuturesOrdered, StreamExt};

/// Wakes the tasks of this thread that wait for a condition.
#[derive(Debug, Default)]
pub struct Event {
    /// Those who wait, each by a key of its own, ascending. Hundreds may wait at a time.
    waiting: RefCell<Vec<(u64, Waker)>>,
    next: Cell<u64>,
}

impl Event {
    /// Something changed: everybody who waits looks again.
    pub fn notify(&self) {
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
    pub async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        if let Some(value) = condition() {
            return value;
        }
        let waiter = Waiter { event: self, key: Cell::new(u64::MAX) };
        poll_fn(|cx| match condition() {
            Some(value) => Poll::Ready(value),
            None => {
                waiter.wait(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Returns when `holds` does. It is asked at once, and again after each [`notify`](Self::notify).
    pub async fn wait_until(&self, mut holds: impl FnMut() -> bool) {
        self.until(|| holds().then_some(())).await;
    }
}

/// One that waits; forgotten when it stops waiting, for whatever reason.
struct Waiter<'a> {
    event: &'a Event,
    /// Another one after each notification, which empties the list.
    key: Cell<u64>,
}

impl Waiter<'_> {
    fn place(&self) -> Option<usize> {
        self.event.waiting.borrow().binary_search_by_key(&self.key.get(), |(key, _)| *key).ok()
    }

    fn wait(&self, waker: &Waker) {
        let place = self.place();
        let mut waiting = self.event.waiting.borrow_mut();
        match place {
            Some(n) => waiting[n].1.clone_from(waker),
            None => {
                self.key.set(self.event.next.replace(self.event.next.get() + 1));
                waiting.push((self.key.get(), waker.clone()));
            }
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(n) = self.place() {
            self.event.waiting.borrow_mut().remove(n);
        }
    }
}

/// Raised once, for good.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    event: Event,
}

impl Signal {
    /// Raises it, for good.
    pub fn raise(&self) {
        self.raised.set(true);
        self.event.notify();
    }

    /// Has it been raised?
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Returns when it has been raised.
    pub async fn wait(&self) {
        self.event.until(|| self.raised.get().then_some(())).await;
    }
}

/// Waits until all of these have ended. What they return is in the order of `futures`.
///
/// Each is boxed, so that what is compiled for each type of future is a few lines: the library waits for many
/// types.
pub fn join_all<'a, F: Future + 'a>(
    futures: impl IntoIterator<Item = F>,
) -> impl Future<Output = Vec<F::Output>> + 'a
where
    F::Output: 'a,
{
    let boxed = |future: F| -> LocalBoxFuture<'a, F::Output> { Box::pin(future) };
    all_of(futures.into_iter().map(boxed).collect())
}

/// Up to this many futures are all polled whenever one of them may go on; of more, only those that may.
const POLLED_TOGETHER: usize = 30;

async fn all_of<T>(mut futures: Vec<LocalBoxFuture<'_, T>>) -> Vec<T> {
    if futures.len() == 1
        && let Some(only) = futures.pop()
    {
        return vec![only.await];
    }
    if futures.len() > POLLED_TOGETHER {
        return futures.into_iter().collect::<FuturesOrdered<_>>().collect().await;
    }
    let mut ended: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut are_all_ended = true;
        for (future, end) in futures.iter_mut().zip(&mut ended).filter(|(_, end)| end.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(value) => *end = Some(value),
                Poll::Pending => are_all_ended = false,
            }
        }
        if are_all_ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    ended.into_iter().flatten().collect()
}

/// Lets the other tasks of this thread have their turn.
pub(crate) async fn give_way() {
    let mut gave = false;
    poll_fn(|context| match std::mem::replace(&mut gave, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Requests under way on stretches of a device, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    next: Cell<u64>,
    under_way: RefCell<Vec<(u64, Range<u64>)>>,
    left: Event,
}

/// One request under way; over when dropped.
#[derive(Debug)]
pub(crate) struct Track<'a> {
    tracked: &'a Tracked,
    id: u64,
}

impl Tracked {
    /// Begins a request.
    pub(crate) fn enter(&self, range: Range<u64>) -> Track<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.under_way.borrow_mut().push((id, range));
        Track { tracked: self, id }
    }

    /// Makes a request. If it is not over at once, before anybody else can come in, it counts as under way
    /// until it is.
    pub(crate) async fn during<T>(&self, range: Range<u64>, request: impl Future<Output = T>) -> T {
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
    pub(crate) async fn wait_clear(&self, range: Range<u64>) {
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
pub(crate) struct Gate {
    closed: Cell<bool>,
    /// At which ticks those inside came, and how many at each; oldest first.
    inside: RefCell<VecDeque<(u64, u64)>>,
    /// How many ever came in.
    entered: Cell<u64>,
    changed: Event,
}

/// One request inside; out when dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    gate: &'a Gate,
    since: u64,
}

/// Nobody is inside and nobody comes in; open again when dropped.
#[derive(Debug)]
pub(crate) struct Closed<'a>(&'a Gate);

impl Gate {
    /// Comes in, at tick `now`.
    pub(crate) async fn enter(&self, now: &Cell<u64>) -> Inside<'_> {
        self.changed.wait_until(|| !self.closed.get()).await;
        let since = now.get();
        self.entered.set(self.entered.get() + 1);
        let mut inside = self.inside.borrow_mut();
        match inside.back_mut() {
            Some((tick, count)) if *tick == since => *count += 1,
            _ => inside.push_back((since, 1)),
        }
        Inside { gate: self, since }
    }

    pub(crate) async fn close(&self) -> Closed<'_> {
        self.changed.wait_until(|| !self.closed.get()).await;
        self.closed.set(true);
        // Given up half-way, it is open again.
        let closed = Closed(self);
        self.changed.wait_until(|| self.inside.borrow().is_empty()).await;
        closed
    }

    /// How many ever came in, if nobody is inside. Twice the same number: nobody was in between.
    pub(crate) fn empty_since(&self) -> Option<u64> {
        self.inside.borrow().is_empty().then(|| self.entered.get())
    }

    /// The tick at which the oldest request inside came.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.inside.borrow().front().map(|(tick, _)| *tick)
    }

    /// Returns when `holds` does. It is asked at once, and again when somebody comes or goes.
    pub(crate) async fn wait_until(&self, holds: impl FnMut() -> bool) {
        self.changed.wait_until(holds).await;
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.borrow_mut();
        if let Some(place) = inside.iter().position(|(tick, _)| *tick == self.since) {
            inside[place].1 -= 1;
            if inside[place].1 == 0 {
                inside.remove(place);
            }
        }
        drop(inside);
        self.gate.changed.notify();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.set(false);
        self.0.changed.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_executor::block_on;
    use futures_util::FutureExt;

    use super::*;

    /// Each ends at its own moment, the later ones first, and none is asked again after its end.
    #[test]
    fn all_have_ended_and_are_in_their_order() {
        for count in [0, 1, 2, 3, POLLED_TOGETHER, POLLED_TOGETHER + 1, 100] {
            let (open, event) = (Cell::new(count), Event::default());
            let (open, event) = (&open, &event);
            let waits = (0..count).map(|n| async move {
                event.wait_until(|| open.get() <= n + 1).await;
                open.set(open.get() - 1);
                event.notify();
                n
            });
            assert_eq!(block_on(join_all(waits)), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_waited_for_no_more_is_dropped() {
        for count in [1, 2, 100] {
            let held = Rc::new(());
            let futures = (0..count).map(|_| {
                let held = held.clone();
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                }
            });
            assert!(join_all(futures).now_or_never().is_none());
            assert_eq!(Rc::strong_count(&held), 1);
        }
    }
}
