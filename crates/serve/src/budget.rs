use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use dmsnap::sync::Event;

/// Memory for the requests of all connections of a server.
///
/// It is shared out by what is left: a connection may have half of what its export may still have, and an
/// export as much as is free. So exports whose devices hang, and clients that do not read, leave a share for
/// every other one, and none of it needs to be set aside before somebody comes. A request that fits into
/// no such share, of a connection that has nothing else in flight, goes alone: one at a time in the whole
/// server, in memory of its own.
#[derive(Debug)]
pub(crate) struct Memory {
    most: usize,
    used: Cell<usize>,
    /// A request goes alone.
    alone: Cell<bool>,
    /// In the order they came.
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

/// Whose memory a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    Shared,
    Alone,
}

#[derive(Debug)]
struct Waiter {
    budget: Rc<Budget>,
    bytes: usize,
    granted: Cell<Option<Grant>>,
    waker: RefCell<Option<Waker>>,
}

impl Memory {
    /// At most `bytes`, and those of one request more.
    pub(crate) fn new(bytes: usize) -> Rc<Self> {
        let (used, alone) = (Cell::default(), Cell::default());
        Rc::new(Self { most: bytes, used, alone, waiting: RefCell::default() })
    }

    /// Somebody waits.
    fn is_wanted(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// What a request of `bytes` may go by now; it is counted among the budget's already.
    fn admits(&self, budget: &Budget, bytes: usize) -> Option<Grant> {
        let of_export = budget.of_export.get();
        let free = self.most.saturating_sub(self.used.get());
        let share = free.saturating_sub(of_export) / 2;
        let own = budget.shared.get();
        // Less than the share: something is always left for the next client.
        match own + bytes < share {
            true => Some(Grant::Shared),
            false if own == 0 && !budget.goes_alone.get() && !self.alone.get() => {
                Some(Grant::Alone)
            }
            false => None,
        }
    }

    fn count(&self, budget: &Budget, bytes: usize, grant: Grant) {
        match grant {
            Grant::Alone => {
                self.alone.set(true);
                budget.goes_alone.set(true);
            }
            Grant::Shared => {
                self.used.set(self.used.get() + bytes);
                budget.shared.set(budget.shared.get() + bytes);
                budget.of_export.set(budget.of_export.get() + bytes);
            }
        }
    }

    fn give_back(&self, budget: &Budget, bytes: usize, grant: Grant) {
        match grant {
            Grant::Alone => {
                self.alone.set(false);
                budget.goes_alone.set(false);
            }
            Grant::Shared => {
                self.used.set(self.used.get() - bytes);
                budget.shared.set(budget.shared.get() - bytes);
                budget.of_export.set(budget.of_export.get() - bytes);
            }
        }
        if self.is_wanted() {
            self.grant();
        }
    }

    /// Lets those go on who may now.
    fn grant(&self) {
        let mut wakers = Vec::new();
        self.waiting.borrow_mut().retain(|waiter| {
            let Some(grant) = self.admits(&waiter.budget, waiter.bytes) else { return true };
            self.count(&waiter.budget, waiter.bytes, grant);
            waiter.granted.set(Some(grant));
            wakers.extend(waiter.waker.take());
            false
        });
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// How many requests and bytes of one connection may be in flight, and its share of the server's memory.
#[derive(Debug)]
pub(crate) struct Budget {
    requests: Cell<usize>,
    bytes: Cell<usize>,
    returned: Event,
    memory: Rc<Memory>,
    /// Bytes that its requests have of the shared memory.
    shared: Cell<usize>,
    /// One of its requests goes alone.
    goes_alone: Cell<bool>,
    /// The same of all connections that have its export.
    of_export: Rc<Cell<usize>>,
}

impl Budget {
    pub(crate) fn new(
        requests: usize,
        bytes: usize,
        memory: Rc<Memory>,
        of_export: Rc<Cell<usize>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            requests: requests.max(1).into(),
            bytes: bytes.into(),
            returned: Event::default(),
            memory,
            shared: Cell::default(),
            goes_alone: Cell::default(),
            of_export,
        })
    }

    /// Waits until one more request of `bytes` may be in flight. Not more than the whole budget
    /// may be asked for, and by one task at a time.
    pub(crate) async fn take(self: &Rc<Self>, bytes: usize) -> Permit {
        self.returned.until(|| self.has_own(bytes).then_some(())).await;
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        let mut permit = Permit { budget: self.clone(), bytes, grant: None };
        permit.grant = match self.memory.admits(self, bytes) {
            Some(grant) => {
                self.memory.count(self, bytes, grant);
                Some(grant)
            }
            None => Some(InQueue::new(self, bytes).granted().await),
        };
        permit
    }

    /// True if [`take`](Self::take) would not wait.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.has_own(bytes) && self.memory.admits(self, bytes).is_some()
    }

    /// Others wait for memory, and this one has some.
    pub(crate) fn keeps_others_waiting(&self) -> bool {
        let waiting = self.memory.waiting.borrow();
        let others = waiting.iter().any(|it| !std::ptr::eq(&raw const *it.budget, self));
        others && (self.shared.get() > 0 || self.goes_alone.get())
    }

    fn has_own(&self, bytes: usize) -> bool {
        self.requests.get() > 0 && self.bytes.get() >= bytes
    }
}

/// One request's share. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Rc<Budget>,
    bytes: usize,
    /// `None` while it is waited for.
    grant: Option<Grant>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.requests.set(budget.requests.get() + 1);
        budget.bytes.set(budget.bytes.get() + self.bytes);
        if let Some(grant) = self.grant {
            budget.memory.give_back(budget, self.bytes, grant);
        }
        budget.returned.notify();
    }
}

/// A place in the queue; given up when dropped, with what was granted and not taken over.
struct InQueue(Rc<Waiter>);

impl InQueue {
    fn new(budget: &Rc<Budget>, bytes: usize) -> Self {
        let (granted, waker) = (Cell::default(), RefCell::default());
        let waiter = Rc::new(Waiter { budget: budget.clone(), bytes, granted, waker });
        budget.memory.waiting.borrow_mut().push_back(waiter.clone());
        Self(waiter)
    }

    async fn granted(self) -> Grant {
        poll_fn(|context| match self.0.granted.take() {
            Some(grant) => Poll::Ready(grant),
            None => {
                self.0.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        let Waiter { budget, bytes, granted, .. } = &*self.0;
        budget.memory.waiting.borrow_mut().retain(|it| !Rc::ptr_eq(it, &self.0));
        if let Some(grant) = granted.take() {
            budget.memory.give_back(budget, *bytes, grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    struct Clients {
        memory: Rc<Memory>,
        exports: [Rc<Cell<usize>>; 2],
    }

    impl Clients {
        fn new(bytes: usize) -> Self {
            Self { memory: Memory::new(bytes), exports: Default::default() }
        }

        fn of(&self, export: usize) -> Rc<Budget> {
            Budget::new(128, 64 * MIB, self.memory.clone(), self.exports[export].clone())
        }
    }

    /// Takes until it would have to wait.
    fn all(budget: &Rc<Budget>, bytes: usize) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take(bytes).now_or_never()).collect()
    }

    #[test]
    fn many_greedy_clients_stay_within_the_bound_and_leave_room_for_the_next_one() {
        let clients = Clients::new(256 * MIB);
        let greedy: Vec<_> = (0..256).map(|_| clients.of(0)).collect();
        let mut held: Vec<_> = greedy.iter().map(|it| all(it, 2 * MIB)).collect();
        assert!(clients.memory.used.get() <= 256 * MIB);
        assert!(held[0].len() > 16, "{} requests of the first", held[0].len());
        // The requests of everybody else still get through: one alongside the others, or alone.
        let small = all(&clients.of(0), 64 << 10);
        assert!(!small.is_empty(), "nothing is left for the same export");
        let other = all(&clients.of(1), MIB);
        assert!(other.len() > 16, "{} requests of another export", other.len());
        drop((held.drain(..), small, other));
        drop(held);
        assert_eq!((clients.memory.used.get(), clients.exports[0].get()), (0, 0));
        assert!(!clients.memory.alone.get() && !clients.memory.is_wanted());
        assert!(greedy.iter().all(|it| it.requests.get() == 128 && it.bytes.get() == 64 * MIB));
    }

    #[test]
    fn a_request_larger_than_every_share_goes_alone_and_in_its_turn() {
        let clients = Clients::new(16 * MIB);
        let budgets = [clients.of(0), clients.of(0), clients.of(1)];
        let first = budgets[0].take(32 * MIB).now_or_never().expect("alone");
        assert!(!budgets[0].has(32 * MIB), "one at a time");
        let mut second = pin!(budgets[1].take(32 * MIB));
        let mut third = pin!(budgets[2].take(32 * MIB));
        assert!(
            second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none()
        );
        assert!(budgets[0].take(MIB).now_or_never().is_some(), "small ones go on");
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "it came later");
        let second = second.now_or_never().expect("its turn");
        drop(second);
        drop(third.now_or_never().expect("its turn"));
        assert!(!clients.memory.alone.get() && clients.memory.used.get() == 0);
    }

    #[test]
    fn a_place_that_is_given_up_holds_up_nobody() {
        let clients = Clients::new(16 * MIB);
        let budgets = [clients.of(0), clients.of(0)];
        let first = budgets[0].take(32 * MIB).now_or_never().expect("alone");
        assert!(budgets[1].take(32 * MIB).now_or_never().is_none(), "and not waited for");
        assert!(!clients.memory.is_wanted());
        {
            let mut granted = pin!(budgets[1].take(32 * MIB));
            assert!(granted.as_mut().now_or_never().is_none());
            drop(first);
            assert!(clients.memory.alone.get(), "granted");
        }
        assert!(!clients.memory.alone.get(), "and given back");
        assert_eq!((budgets[1].requests.get(), budgets[1].bytes.get()), (128, 64 * MIB));
    }
}
