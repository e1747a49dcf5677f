use std::cell::Cell;

use crate::sync::Event;

/// Lets at most `MAX` at a time do something; the others wait.
#[derive(Debug, Default)]
pub(super) struct Semaphore<const MAX: usize> {
    taken: Cell<usize>,
    given_back: Event,
}

/// One of those who may; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a, const MAX: usize>(&'a Semaphore<MAX>);

impl<const MAX: usize> Semaphore<MAX> {
    pub(super) async fn acquire(&self) -> Permit<'_, MAX> {
        self.given_back.wait_until(|| self.taken.get() < MAX).await;
        self.taken.set(self.taken.get() + 1);
        Permit(self)
    }
}

impl<const MAX: usize> Drop for Permit<'_, MAX> {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        // All of them: one that is not waited for any more must not keep its place from the others.
        self.0.given_back.notify();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn no_more_than_that_at_a_time() {
        let semaphore = Semaphore::<2>::default();
        let first = semaphore.acquire().now_or_never().expect("free");
        let _second = semaphore.acquire().now_or_never().expect("free");
        assert!(semaphore.acquire().now_or_never().is_none());
        drop(first);
        assert!(semaphore.acquire().now_or_never().is_some());
    }
}
