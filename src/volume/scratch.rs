use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The most that a volume's own copying takes by default, in bytes.
const USUAL_BYTES: u64 = 64 << 20;

/// Memory for what a volume copies by itself: parts of reads, the rest of a chunk that is written in part, old
/// data on its way to snapshots. It is taken for one step, a read and a write of devices, and never held
/// while other requests are waited for: so those who wait for it get it once devices answer.
///
/// Each of its users (a snapshot, the origin) may have as much as is left free. So users whose devices
/// hang leave a share for the others; and a user that has nothing gets what it asks for in any case.
#[derive(Debug)]
pub(super) struct Scratch {
    most: Cell<u64>,
    used: Cell<u64>,
    /// Users with requests that wait.
    waiting: RefCell<VecDeque<Rc<Share>>>,
}

/// What one user has of it.
#[derive(Debug, Default)]
pub(super) struct Share {
    used: Cell<u64>,
    /// In the order they came.
    queue: RefCell<VecDeque<Rc<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    state: Cell<WaiterState>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaiterState {
    Waiting,
    /// Counted as used, and not yet taken over.
    Granted,
    Taken,
}

/// Memory that may be used; given back when dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    scratch: &'a Scratch,
    share: &'a Share,
    bytes: u64,
}

impl Default for Scratch {
    fn default() -> Self {
        let (most, used) = (USUAL_BYTES.into(), Cell::default());
        Self { most, used, waiting: RefCell::default() }
    }
}

impl Scratch {
    pub(super) fn limit(&self, most_bytes: u64) {
        self.most.set(most_bytes);
        self.grant();
    }

    /// Waits until `bytes` may be used.
    pub(super) async fn take<'a>(&'a self, share: &'a Rc<Share>, bytes: u64) -> Taken<'a> {
        match share.queue.borrow().is_empty() && self.admits(share, bytes) {
            true => self.count(share, bytes),
            false => Place::new(self, share, bytes).granted().await,
        }
        Taken { scratch: self, share, bytes }
    }

    fn admits(&self, share: &Share, bytes: u64) -> bool {
        let (own, free) = (share.used.get(), self.most.get().saturating_sub(self.used.get()));
        own == 0 || own + bytes <= free
    }

    fn count(&self, share: &Share, bytes: u64) {
        share.used.set(share.used.get() + bytes);
        self.used.set(self.used.get() + bytes);
    }

    fn give_back(&self, share: &Share, bytes: u64) {
        share.used.set(share.used.get() - bytes);
        self.used.set(self.used.get() - bytes);
        if !self.waiting.borrow().is_empty() {
            self.grant();
        }
    }

    /// Lets those go on who may, in each user's order.
    fn grant(&self) {
        let mut wakers = Vec::new();
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|share| {
            let mut queue = share.queue.borrow_mut();
            while let Some(first) = queue.pop_front_if(|first| self.admits(share, first.bytes)) {
                self.count(share, first.bytes);
                first.state.set(WaiterState::Granted);
                wakers.extend(first.waker.take());
            }
            !queue.is_empty()
        });
        // Nobody is always the first.
        if waiting.len() > 1 {
            waiting.rotate_left(1);
        }
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.scratch.give_back(self.share, self.bytes);
    }
}

/// A place in the queue; given up when dropped, with what was granted and not taken.
struct Place<'a> {
    scratch: &'a Scratch,
    share: &'a Rc<Share>,
    waiter: Rc<Waiter>,
}

impl<'a> Place<'a> {
    fn new(scratch: &'a Scratch, share: &'a Rc<Share>, bytes: u64) -> Self {
        let state = WaiterState::Waiting.into();
        let waiter = Rc::new(Waiter { bytes, state, waker: RefCell::default() });
        let mut queue = share.queue.borrow_mut();
        if queue.is_empty() {
            scratch.waiting.borrow_mut().push_back(share.clone());
        }
        queue.push_back(waiter.clone());
        drop(queue);
        Self { scratch, share, waiter }
    }

    async fn granted(self) {
        let waiter = &self.waiter;
        poll_fn(|context| match waiter.state.get() {
            WaiterState::Waiting => {
                waiter.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
            WaiterState::Granted | WaiterState::Taken => Poll::Ready(()),
        })
        .await;
        waiter.state.set(WaiterState::Taken);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.waiter.state.get() {
            WaiterState::Taken => {}
            WaiterState::Granted => self.scratch.give_back(self.share, self.waiter.bytes),
            WaiterState::Waiting => {
                self.share.queue.borrow_mut().retain(|it| !Rc::ptr_eq(it, &self.waiter));
                // Those who wait after it may be let in, and a user without a queue has no place.
                self.scratch.grant();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_user_whose_device_hangs_leaves_a_share_for_the_others() {
        let scratch = Scratch::default();
        scratch.limit(64);
        let (hung, other) = (Rc::new(Share::default()), Rc::new(Share::default()));
        let mut held = Vec::new();
        while let Some(taken) = scratch.take(&hung, 4).now_or_never() {
            held.push(taken);
        }
        assert_eq!((held.len(), scratch.used.get()), (8, 32));
        // What was not waited for has left no place in a queue.
        assert!(scratch.waiting.borrow().is_empty());
        let first = scratch.take(&other, 30).now_or_never().expect("it has nothing");
        assert!(scratch.take(&other, 4).now_or_never().is_none(), "more than is left");
        drop(first);
        assert!(scratch.take(&other, 64).now_or_never().is_some(), "alone, whatever it is");
        drop(held);
        assert_eq!((scratch.used.get(), hung.used.get()), (0, 0));
    }

    #[test]
    fn those_who_wait_go_on_in_order() {
        let scratch = Scratch::default();
        scratch.limit(16);
        let share = Rc::new(Share::default());
        let first = scratch.take(&share, 8).now_or_never().expect("it has nothing");
        let mut large = pin!(scratch.take(&share, 12));
        let mut small = pin!(scratch.take(&share, 1));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none(), "not before the one that came first");
        drop(first);
        let large = large.now_or_never().expect("alone");
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        drop(small.now_or_never().expect("its turn"));
        assert_eq!((scratch.used.get(), share.used.get()), (0, 0));
    }
}
