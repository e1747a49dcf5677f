use std::cell::Cell;
use std::io;
use std::pin::pin;

use futures_util::future::{Either, select};

use super::error::VolumeError;
use crate::device::Buffer;
use crate::sync::{Event, Gate, Inside};

/// The time of a volume, in ticks, and what is waited for by it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ticks: Cell<u64>,
    ticked: Event,
    /// Nobody waits for room any more: what finds none fails at once.
    fails_at_once: Cell<bool>,
}

impl Clock {
    /// The number of ticks so far.
    pub(super) fn now(&self) -> u64 {
        self.ticks.get()
    }

    pub(super) fn tick(&self) {
        Buffer::give_back_idle();
        self.ticks.set(self.ticks.get() + 1);
        self.ticked.notify();
    }

    /// From now on nobody [waits for room](Self::wait_for_room), nor goes on waiting.
    pub(super) fn stop_waiting_for_room(&self) {
        self.fails_at_once.set(true);
        self.ticked.notify();
    }

    /// Lets everybody who waits look again, though no time has passed.
    pub(super) fn look_again(&self) {
        self.ticked.notify();
    }

    /// Comes into a gate, now.
    pub(super) async fn enter<'g>(&self, gate: &'g Gate) -> Inside<'g> {
        gate.enter(&self.ticks).await
    }

    /// Returns when `holds` does. It is asked at once, and again at each tick.
    pub(super) async fn wait_until(&self, holds: impl FnMut() -> bool) {
        self.ticked.wait_until(holds).await;
    }

    /// Tries again, tick by tick, what finds no room in a snapshot that waits for it; as long as
    /// that snapshot's rule says, and while `wanted` does.
    ///
    /// Between two attempts nothing is held, so snapshots may come and go, merge and be dropped:
    /// `attempt` looks at the volume anew each time. One that was begun may be made again from its
    /// beginning, because nobody was told of its end.
    pub(super) async fn wait_for_room(
        &self,
        wanted: impl Fn() -> bool,
        attempt: impl AsyncFn() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut waited = 0;
        loop {
            let ended = attempt().await;
            let Err(error) = &ended else { return ended };
            let allowed = VolumeError::ticks_to_wait(error);
            let is_over = || self.fails_at_once.get() || !wanted();
            if is_over() || allowed.is_none_or(|ticks| waited >= ticks) {
                return ended;
            }
            waited += 1;
            let now = self.now();
            self.ticked.wait_until(|| self.now() != now || is_over()).await;
        }
    }

    /// What `future` returns, if that takes at most this many ticks; otherwise the future, not ended.
    ///
    /// It is to be driven on or dropped at once: one that is kept and not driven on keeps its place among
    /// those who wait, and they wait for it.
    pub(super) async fn at_most<F>(&self, ticks: u64, future: F) -> Result<F::Output, F>
    where
        F: Future + Unpin,
    {
        match select(future, pin!(self.ticks_pass(ticks))).await {
            Either::Left((ended, _)) => Ok(ended),
            Either::Right(((), rest)) => Err(rest),
        }
    }

    /// Returns after this many ticks, the last of which may come at once.
    async fn ticks_pass(&self, ticks: u64) {
        let end = self.now() + ticks;
        self.ticked.wait_until(|| self.now() >= end).await;
    }
}
