use std::cell::Cell;

use crate::sync::Event;

/// Lets at most `MOST` at a time do something; the others wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Turns<const MOST: usize> {
    taken: Cell<usize>,
    given_back: Event,
}

/// Over when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a, const MOST: usize>(&'a Turns<MOST>);

impl<const MOST: usize> Turns<MOST> {
    pub(super) async fn take(&self) -> Turn<'_, MOST> {
        self.given_back.wait_until(|| self.taken.get() < MOST).await;
        self.taken.set(self.taken.get() + 1);
        Turn(self)
    }
}

impl<const MOST: usize> Drop for Turn<'_, MOST> {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        // All of them: one that is not waited for any more must not keep the turn from the others.
        self.0.given_back.notify();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn so_many_at_a_time_and_no_more() {
        let turns = Turns::<2>::default();
        let first = turns.take().now_or_never().expect("free");
        let _second = turns.take().now_or_never().expect("free");
        assert!(turns.take().now_or_never().is_none());
        drop(first);
        assert!(turns.take().now_or_never().is_some());
    }
}
