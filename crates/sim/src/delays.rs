use std::cell::RefCell;
use std::future::poll_fn;
use std::task::Poll;

use crate::random::Random;

/// How long requests are put off where no scheduler decides it: not at all, until there is a seed.
#[derive(Debug, Default)]
pub(crate) struct Delays(RefCell<Option<Random>>);

impl Delays {
    /// 0 ends them.
    pub(crate) fn seed(&self, seed: u64) {
        self.0.replace((seed != 0).then(|| Random::new(seed)));
    }

    /// Waits a number of turns of the executor.
    pub(crate) async fn turns(&self) {
        let mut left = match self.0.borrow_mut().as_mut() {
            None => return,
            // Now and then one is very late: races between a slow request and a chain of others.
            Some(random) => match random.chance(1, 32) {
                true => random.below(1024),
                false => random.below(8),
            },
        };
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
