use std::pin::pin;

use futures_util::future::{Either, select};

use super::clock::Clock;
use crate::planted::{Planted, planted};
use crate::sync::{Closed, Gate, join_all};

/// A request inside a gate that is older than this many ticks may never end: nobody is kept waiting for
/// it. Also how long others wait at most for what is to be done while the gates are closed.
const CLOSE_TICKS: u64 = 2;

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
pub(super) async fn close<'g, E>(
    clock: &Clock,
    gates: &[&'g Gate],
    prepare: impl AsyncFn() -> Result<(), E>,
) -> Result<Vec<Closed<'g>>, E> {
    loop {
        prepare().await?;
        let closed = close_empty(clock, gates).await;
        match clock.at_most(CLOSE_TICKS, pin!(prepare())).await {
            Ok(ended) => return ended.map(|()| closed),
            Err(rest) => {
                drop(closed);
                rest.await?;
            }
        }
    }
}

/// Closes the gates when everybody inside has come out; while somebody hangs there, they stay open.
async fn close_empty<'g>(clock: &Clock, gates: &[&'g Gate]) -> Vec<Closed<'g>> {
    let any_hangs = || gates.iter().any(|gate| hangs(clock, gate));
    loop {
        for gate in gates {
            gate.wait_until(|| !hangs(clock, gate)).await;
        }
        let closing = pin!(join_all(gates.iter().map(|gate| gate.close())));
        let too_long = pin!(clock.wait_until(any_hangs));
        if let Either::Left((closed, _)) = select(closing, too_long).await {
            return closed;
        }
    }
}

/// Is a request inside for so long that it may never come out?
fn hangs(clock: &Clock, gate: &Gate) -> bool {
    let is_old = |since: u64| since + CLOSE_TICKS < clock.now();
    gate.oldest().is_some_and(is_old) && !planted(Planted::GateWaitsForHung)
}
