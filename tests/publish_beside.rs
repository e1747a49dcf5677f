//! What clients write without a flush is published meanwhile when it has become much.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use dmsnap::device::Device;
use dmsnap::volume::{SnapshotOptions, View};
use dmsnap_sim::{Disk, Power, RequestFault, run};
use futures_util::future::join;

use crate::common::live::{
    AnySnapshot, AnyVolume, SECTOR, add, any_volume, data, empty_cow, origin,
};

/// So many exceptions are much.
const MUCH: u64 = 65_536;

struct Machine {
    power: Power,
    volume: Rc<AnyVolume>,
    cow: Rc<Disk>,
    snapshot: Rc<AnySnapshot>,
}

impl Machine {
    fn new() -> Self {
        let power = Power::steady();
        let volume = any_volume(origin(2 * MUCH, &power));
        let cow = empty_cow(1, 2 * MUCH + 20_000, &power);
        let snapshot = add(&volume, "s", cow.clone(), SnapshotOptions::default());
        Self { power, volume, cow, snapshot }
    }

    async fn write(&self, sectors: std::ops::Range<u64>) {
        let view = View::snapshot(&self.volume, &self.snapshot);
        for from in sectors.clone().step_by(512) {
            let batch = from..sectors.end.min(from + 512);
            let writes = batch.map(|sector| (sector * SECTOR, data(sector, 1))).collect();
            view.write_many(writes).await.expect("written");
        }
    }

    /// Does something while another task writes back.
    async fn beside(&self, clients: impl Future<Output = ()>) {
        let done = Cell::new(false);
        let clients = async {
            clients.await;
            done.set(true);
        };
        join(clients, self.volume.run_write_back(until(|| done.get()))).await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    poll_fn(|context| match holds() {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

#[test]
fn much_is_published_beside_the_clients() {
    let machine = Machine::new();
    let (snapshot, before) = (&machine.snapshot, machine.cow.counts().flushes);
    run(machine.beside(async {
        machine.write(0..MUCH - 1).await;
        assert_eq!(snapshot.unpublished(), MUCH - 1);
        assert_eq!(machine.cow.counts().flushes, before, "not yet");
        machine.write(MUCH - 1..MUCH).await;
        until(|| snapshot.unpublished() == 0).await;
        // Later ones wait for their own turn.
        machine.write(MUCH..MUCH + 1000).await;
        assert_eq!(snapshot.unpublished(), 1000);
    }));
    assert_eq!(machine.cow.counts().flushes, before + 2);
}

#[test]
fn a_publish_that_fails_beside_the_clients_is_told_to_the_next_flush_and_not_tried_for_ever() {
    for fault in [RequestFault::Fails, RequestFault::NoSpace] {
        let machine = Machine::new();
        let snapshot = &machine.snapshot;
        let view = View::snapshot(&machine.volume, snapshot);
        run(machine.beside(async {
            machine.write(0..MUCH).await;
            // The next is the first write of an area.
            machine.power.fail(machine.power.operations(), fault);
            let tried = machine.power.operations();
            until(|| machine.power.operations() > tried).await;
            let after = machine.power.operations();
            let looks = Cell::new(0);
            until(|| looks.replace(looks.get() + 1) > 1000).await;
            assert_eq!(machine.power.operations(), after, "once, {fault:?}");
        }));
        let ended = run(view.flush());
        assert_eq!(ended.is_ok(), fault == RequestFault::NoSpace, "{fault:?}: {ended:?}");
    }
}
