use std::cell::Cell;
use std::pin::pin;

use futures_util::future::{join3, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::origin_writes::OriginWrites;
use super::snapshot::Snapshot;
use crate::device::Device;

/// Writes back what waits, and publishes what is due, until `stop` is ready. What fails here is reported by the
/// next flush. A COW device that hangs holds up its own publish only.
pub(super) async fn run<O: Device, C: Device>(
    writes: &OriginWrites<'_, O, C>,
    stop: impl Future<Output = ()>,
) {
    let backlog = writes.protect.origin.backlog();
    let stopped = Cell::new(false);
    let stopping = async {
        stop.await;
        stopped.set(true);
        backlog.notify();
    };
    join3(stopping, write_back_until(writes, &stopped), publish_until(writes, &stopped)).await;
}

async fn write_back_until<O: Device, C: Device>(
    writes: &OriginWrites<'_, O, C>,
    stopped: &Cell<bool>,
) {
    let backlog = writes.protect.origin.backlog();
    loop {
        backlog.wait_until(|| stopped.get() || backlog.is_due(writes.clock.now())).await;
        if stopped.get() {
            return;
        }
        let _reported_by_the_next_flush = writes.write_back().await;
    }
}

async fn publish_until<O: Device, C: Device>(
    writes: &OriginWrites<'_, O, C>,
    stopped: &Cell<bool>,
) {
    let backlog = writes.protect.origin.backlog();
    let due = || writes.protect.snapshots.find(Snapshot::is_publish_due);
    let mut under_way = FuturesUnordered::new();
    while !stopped.get() {
        if let Some(snapshot) = due() {
            // Not found again before as much has come again.
            snapshot.publish_attempted();
            under_way.push(async move {
                let _reported_by_the_next_flush = snapshot.flush().await;
                snapshot.publish_attempted();
            });
            continue;
        }
        let waits = pin!(backlog.wait_until(|| stopped.get() || due().is_some()));
        if under_way.is_empty() {
            waits.await;
        } else {
            let _whichever = select(waits, under_way.next()).await;
        }
    }
    // Every publish is driven to its end.
    under_way.collect::<()>().await;
}
