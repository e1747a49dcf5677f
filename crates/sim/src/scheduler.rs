use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::random::Random;

/// One in this many requests is very late.
const LATE: usize = 40;

/// How many others a very late request lets pass, at most.
const LATEST: usize = 400;

/// Decides which request of all disks goes on next: those that take effect, and those that
/// complete. One seed fixes the order of everything.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None`: every request goes on at once, in the order it was made.
    random: RefCell<Option<Random>>,
    waiting: RefCell<Vec<Waiting>>,
    /// How many have gone on so far.
    clock: Cell<usize>,
}

#[derive(Debug)]
struct Waiting {
    /// Not before the clock says this, unless there is nobody else.
    due: usize,
    passed: Rc<Cell<bool>>,
    waker: Waker,
}

/// A task that nothing will ever wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scheduler {
    /// Requests go on in the order they are made, at once.
    pub fn in_order() -> Self {
        Self::default()
    }

    /// Requests go on in an order that `seed` decides.
    pub fn seeded(seed: u64) -> Self {
        let scheduler = Self::default();
        scheduler.inner.random.replace(Some(Random::new(seed)));
        scheduler
    }

    /// Returns when it is this request's turn.
    pub async fn point(&self) {
        let due = match self.inner.random.borrow_mut().as_mut() {
            None => return,
            Some(random) => match random.chance(1, LATE) {
                true => 1 + random.below(LATEST),
                false => 0,
            },
        };
        self.wait(due).await;
    }

    /// Returns when a few others have had their turn.
    pub async fn think(&self) {
        let delay = self.inner.random.borrow_mut().as_mut().map(|random| random.below(LATE));
        if let Some(delay) = delay {
            self.wait(delay).await;
        }
    }

    /// Returns very late.
    pub async fn late(&self) {
        if self.inner.random.borrow().is_some() {
            self.wait(LATEST).await;
        }
    }

    async fn wait(&self, delay: usize) {
        let passed = Rc::new(Cell::new(false));
        let mut registered = false;
        poll_fn(|context: &mut Context<'_>| {
            if passed.get() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut registered, true) {
                self.inner.waiting.borrow_mut().push(Waiting {
                    due: self.inner.clock.get() + delay,
                    passed: passed.clone(),
                    waker: context.waker().clone(),
                });
            }
            Poll::Pending
        })
        .await;
    }

    /// Lets one request go on; false if none waits.
    fn pass_one(&self) -> bool {
        let mut waiting = self.inner.waiting.borrow_mut();
        let mut random = self.inner.random.borrow_mut();
        let Some(random) = random.as_mut().filter(|_| !waiting.is_empty()) else { return false };
        let now = self.inner.clock.get();
        self.inner.clock.set(now + 1);
        let first = random.below(waiting.len());
        let order = (first..waiting.len()).chain(0..first);
        let chosen = order.clone().find(|n| waiting[*n].due <= now);
        let chosen = chosen.or_else(|| order.min_by_key(|n| waiting[*n].due)).unwrap_or(0);
        let next = waiting.swap_remove(chosen);
        drop(waiting);
        next.passed.set(true);
        next.waker.wake();
        true
    }

    /// Drives a task to its end. `idle` is called when no request waits and the task goes on only
    /// if something else happens; it says whether something did.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if the task waits for what will never happen.
    pub fn run<T>(
        &self,
        task: impl Future<Output = T>,
        mut idle: impl FnMut() -> bool,
    ) -> Result<T, Stuck> {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut task = std::pin::pin!(task);
        loop {
            while woken.0.swap(false, Ordering::Relaxed) {
                if let Poll::Ready(ended) = task.as_mut().poll(&mut context) {
                    // One that is still waiting belongs to a task that was dropped.
                    self.inner.waiting.borrow_mut().clear();
                    return Ok(ended);
                }
            }
            if !self.pass_one() && !idle() {
                self.inner.waiting.borrow_mut().clear();
                return Err(Stuck);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    fn order(seed: u64) -> Vec<usize> {
        let scheduler = Scheduler::seeded(seed);
        let order = RefCell::new(Vec::new());
        let tasks = (0..20).map(|n| {
            let (scheduler, order) = (&scheduler, &order);
            async move {
                scheduler.point().await;
                order.borrow_mut().push(n);
            }
        });
        scheduler.run(join_all(tasks), || false).expect("nobody waits for ever");
        order.into_inner()
    }

    #[test]
    fn a_seed_fixes_the_order_and_another_seed_another_one() {
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let mut all = order(7);
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_task_that_nobody_will_wake_is_found() {
        let scheduler = Scheduler::seeded(1);
        let stuck = scheduler.run(std::future::pending::<()>(), || false);
        assert_eq!(stuck, Err(Stuck));
        let mut hours = 3;
        let woken = scheduler.run(std::future::pending::<()>(), || {
            hours -= 1;
            hours > 0
        });
        assert_eq!((woken, hours), (Err(Stuck), 0));
    }
}
