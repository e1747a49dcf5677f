use std::pin::pin;

use futures_util::future::{Either, join_all, select};

use super::Volume;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::sync::{Closed, Gate};

/// A request inside a gate that is older than this many ticks may never end: nobody is kept waiting for
/// it. Also how long others wait at most for what is to be done while the gates are closed.
const PATIENCE: u64 = 2;

impl<O: Device, C: Device> Volume<O, C> {
    /// Runs `prepare`, closes the gates, and runs it once more for what came in between. What is returned
    /// keeps the gates closed.
    ///
    /// A device that hangs must not stop everybody who writes: while it keeps a request inside, or
    /// `prepare` from its end, the gates stay open, and only this call waits. So `prepare` must do no harm
    /// when it is run several times, and may be run while others write.
    ///
    /// # Errors
    ///
    /// Those of `prepare`.
    pub(super) async fn quiet<'g, E>(
        &self,
        gates: &[&'g Gate],
        prepare: impl AsyncFn() -> Result<(), E>,
    ) -> Result<Vec<Closed<'g>>, E> {
        loop {
            prepare().await?;
            let closed = self.close_gates(gates).await;
            match self.at_most(PATIENCE, pin!(prepare())).await {
                Ok(ended) => return ended.map(|()| closed),
                Err(rest) => {
                    drop(closed);
                    rest.await?;
                }
            }
        }
    }

    async fn close_gates<'g>(&self, gates: &[&'g Gate]) -> Vec<Closed<'g>> {
        let hangs = || gates.iter().any(|gate| self.hangs(gate));
        loop {
            for gate in gates {
                gate.wait_until(|| !self.hangs(gate)).await;
            }
            let closing = pin!(join_all(gates.iter().map(|gate| gate.close())));
            let too_long = pin!(self.ticked.wait_until(hangs));
            if let Either::Left((closed, _)) = select(closing, too_long).await {
                return closed;
            }
        }
    }

    /// Is somebody inside for so long that he may never come out?
    fn hangs(&self, gate: &Gate) -> bool {
        let is_old = |since: u64| since + PATIENCE < self.ticks.get();
        gate.oldest().is_some_and(is_old) && !planted(Planted::GateWaitsForHung)
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

    /// Returns after so many ticks, the last of which may come at once.
    async fn ticks_pass(&self, ticks: u64) {
        let end = self.ticks.get() + ticks;
        self.ticked.wait_until(|| self.ticks.get() >= end).await;
    }
}
