use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dmsnap_sim::RequestFault;
use dmsnap_sim::draw::live;
use dmsnap_sim::hunt::{Failure, Tally, each_fault, every_cut, worth_a_try};
use dmsnap_sim::minimise::minimise;
use dmsnap_sim::report::report;
use dmsnap_sim::worlds::{World, find, named, sequences};

/// How a machine is asked for again.
const REPLAY: &str = "cargo run --release -p dmsnap-sim -- replay";

/// What many machines came to.
struct Sum {
    tally: Mutex<Tally>,
    failed: Mutex<Option<(String, Box<Failure>)>>,
    stop: AtomicBool,
}

impl Sum {
    fn new() -> Self {
        Self { tally: Mutex::default(), failed: Mutex::default(), stop: AtomicBool::new(false) }
    }

    fn take(&self, replay: impl FnOnce() -> String, ended: Result<Tally, Box<Failure>>) {
        match ended {
            Ok(tally) => *self.tally.lock().expect("no thread panics") += tally,
            Err(failure) => {
                self.stop.store(true, Ordering::Relaxed);
                self.failed.lock().expect("no thread panics").get_or_insert((replay(), failure));
            }
        }
    }

    /// Says what it came to; a failure as small as it can be made.
    fn tell(self, what: &str, began: Instant) -> bool {
        let tally = self.tally.into_inner().expect("no thread panics");
        println!(
            "{what}: {} machines, {} requests, {} power cuts, {} images judged and gone on with, \
             {} requests gone wrong, in {:.1} s",
            tally.machines,
            tally.requests,
            tally.cuts,
            tally.images,
            tally.faults,
            began.elapsed().as_secs_f64()
        );
        let failed = self.failed.into_inner().expect("no thread panics");
        if let Some((replay, failure)) = &failed {
            println!("\nBROKEN: {}\nreplay it: {REPLAY} {replay}\n", failure.what);
        }
        failed.is_none()
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Calls `act` with number after number, on every core, until it says that there is none or
/// something has failed.
fn on_every_core(sum: &Sum, act: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while !sum.stop.load(Ordering::Relaxed) {
                    if !act(next.fetch_add(1, Ordering::Relaxed)) {
                        return;
                    }
                }
            });
        }
    });
}

fn each_world(
    sum: &Sum,
    worlds: &[World],
    act: impl Fn(&World) -> Result<Tally, Box<Failure>> + Sync,
) {
    on_every_core(sum, |n| {
        let world = usize::try_from(n).ok().and_then(|n| worlds.get(n));
        if let Some(world) = world {
            sum.take(|| format!("--world {}", world.name), act(world));
        }
        world.is_some()
    });
}

/// Every cut of every small world.
pub(crate) fn exhaustive(operations: u32) -> bool {
    let began = Instant::now();
    let sum = Sum::new();
    let mut worlds = named();
    (1..=operations).for_each(|len| worlds.extend(sequences(len)));
    each_world(&sum, &worlds, |world| every_cut(&world.plan, &world.plan.setup.start()));
    sum.tell(&format!("{} small worlds, every cut", worlds.len()), began)
}

/// Every request of every small world goes wrong, or one in `every`.
pub(crate) fn faults(every: u64) -> bool {
    let began = Instant::now();
    let sum = Sum::new();
    let mut worlds = named();
    worlds.extend(sequences(1));
    let wanted = |request: u64, fault: RequestFault| {
        (request + fault.number()).is_multiple_of(every) && worth_a_try(request / every, fault)
    };
    each_world(&sum, &worlds, |world| each_fault(&world.plan, &world.plan.setup.start(), wanted));
    let requests =
        if every == 1 { "every request".into() } else { format!("one request in {every}") };
    sum.tell(&format!("{} small worlds, {requests}", worlds.len()), began)
}

/// Large worlds until the time is over.
pub(crate) fn random(from: u64, time: Duration) -> bool {
    let began = Instant::now();
    let sum = Sum::new();
    let seeds = AtomicU64::new(0);
    on_every_core(&sum, |n| {
        let seed = from + n;
        sum.take(|| format!("--seed {seed}"), live(seed));
        seeds.fetch_add(1, Ordering::Relaxed);
        began.elapsed() < time
    });
    sum.tell(&format!("seeds {from} to {}", from + seeds.into_inner().max(1) - 1), began)
}

/// One machine again.
pub(crate) fn replay(seed: Option<u64>, world: Option<&str>) -> bool {
    let ended = match (seed, world) {
        (Some(seed), _) => live(seed),
        (None, Some(name)) => {
            let Some(world) = find(name) else {
                println!("there is no world {name}");
                return false;
            };
            let start = world.plan.setup.start();
            every_cut(&world.plan, &start)
                .and_then(|_| each_fault(&world.plan, &start, |_, _| true))
        }
        (None, None) => return false,
    };
    match ended {
        Ok(tally) => println!("nothing is broken: {tally:?}"),
        Err(failure) => {
            println!("BROKEN: {}\nnow with as little as possible ...\n", failure.what);
            println!("{}", report(&minimise(&failure)));
            return false;
        }
    }
    true
}
