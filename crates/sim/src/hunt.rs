//! Looking for a broken promise: every cut of a machine, or some.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cuts::{Cuts, Image};
use crate::fault::RequestFault;
use crate::plan::{Plan, Start};
use crate::play::{Played, play};
use crate::random::Random;
use crate::verdict::judge;

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Machines that ran.
    pub machines: u64,
    /// Requests of their disks.
    pub requests: u64,
    /// Moments at which their power was cut.
    pub cuts: u64,
    /// Contents of all disks after a cut, each judged and gone on with.
    pub images: u64,
    /// Requests that went wrong.
    pub faults: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.machines += other.machines;
        self.requests += other.requests;
        self.cuts += other.cuts;
        self.images += other.images;
        self.faults += other.faults;
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In words.
    pub what: String,
    /// The machine and what happened in it.
    pub plan: Plan,
    /// Where it began.
    pub start: Start,
    /// The image after the cut that showed it; `None` if it was seen while the machine ran.
    pub image: Option<Image>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic of the code that is tested is a broken promise like any other, and not
/// printed.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| match CAUGHT.get() {
        true => PANIC.with_borrow_mut(|last| *last = Some(info.to_string())),
        false => eprintln!("{info}"),
    }));
}

/// Calls `act`, and makes a panic in it an error.
fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    let outside = CAUGHT.replace(true);
    let ended = catch_unwind(AssertUnwindSafe(act));
    CAUGHT.set(outside);
    ended.map_err(|_| {
        let told = PANIC.with_borrow_mut(Option::take);
        told.unwrap_or_else(|| "a panic".into()).replace('\n', ": ")
    })
}

/// Runs a machine and holds it against the model.
///
/// # Errors
///
/// The broken promise.
pub fn run(plan: &Plan, start: &Start) -> Result<Played, Box<Failure>> {
    let failure = |what| {
        let (plan, start) = (plan.clone(), start.clone());
        Box::new(Failure { what, plan, start, image: None })
    };
    let played = caught(|| play(plan, start)).map_err(failure)?;
    match &played.broken {
        Some(what) => Err(failure(what.clone())),
        None => Ok(played),
    }
}

/// Judges one image.
///
/// # Errors
///
/// The broken promise, in words.
pub fn judge_image(cuts: &mut Cuts<'_>, image: &Image) -> Result<(), String> {
    let contents = cuts.contents(image);
    caught(|| judge(&cuts.known(), contents)).and_then(|judged| judged)
}

/// Runs a machine and tries every image of every cut, or where that is too many, a telling choice.
///
/// # Errors
///
/// The first broken promise.
pub fn every_cut(plan: &Plan, start: &Start) -> Result<Tally, Box<Failure>> {
    let played = run(plan, start)?;
    let mut tally = Tally { machines: 1, requests: played.requests, ..Tally::default() };
    let mut cuts = Cuts::new(&plan.setup, start, &played.record);
    while let Some(images) = cuts.next_images(1) {
        tally.cuts += 1;
        for image in images {
            tally.images += 1;
            judge_image(&mut cuts, &image).map_err(|what| {
                let (plan, start) = (plan.clone(), start.clone());
                Box::new(Failure { what, plan, start, image: Some(image) })
            })?;
        }
    }
    Ok(tally)
}

/// Runs a machine and tries images of cuts that a seed chooses, about `most` of them. Returns the
/// last one's disks, and what is known then.
///
/// # Errors
///
/// The first broken promise.
pub fn some_cuts(
    plan: &Plan,
    start: &Start,
    most: usize,
    random: &mut Random,
) -> Result<(Tally, Option<Start>), Box<Failure>> {
    let played = run(plan, start)?;
    let fired = plan.steps.iter().map(|step| step.faults.len() as u64).sum();
    let mut tally =
        Tally { machines: 1, requests: played.requests, faults: fired, ..Tally::default() };
    let mut at: Vec<usize> =
        (0..most.div_ceil(4)).map(|_| random.below(played.record.len())).collect();
    at.sort_unstable();
    at.dedup();
    let mut cuts = Cuts::new(&plan.setup, start, &played.record);
    let mut last = None;
    for at in at {
        if at < cuts.at() {
            continue;
        }
        cuts.go_to(at);
        let Some(images) = cuts.next_images(random.draw()) else { break };
        tally.cuts += 1;
        for _ in 0..4.min(images.len()) {
            let image = images[random.below(images.len())].clone();
            tally.images += 1;
            judge_image(&mut cuts, &image).map_err(|what| {
                let (plan, start) = (plan.clone(), start.clone());
                Box::new(Failure { what, plan, start, image: Some(image.clone()) })
            })?;
            last = cuts.restart(&image);
        }
    }
    Ok((tally, last))
}

/// Faults that last until they are healed make long runs: they are tried with every fourth request.
const SPARSE: u64 = 4;

/// Runs a machine once for each of its requests and each way in which that can go wrong; those that last,
/// for some of the requests.
///
/// # Errors
///
/// The first broken promise.
pub fn every_fault(plan: &Plan, start: &Start) -> Result<Tally, Box<Failure>> {
    each_fault(plan, start, worth_a_try)
}

/// Whether a fault is tried with a request: those that last, with some.
pub fn worth_a_try(request: u64, fault: RequestFault) -> bool {
    !fault.lasts() || request.is_multiple_of(SPARSE)
}

/// The same in every way for every request, as far as `wanted` says so.
///
/// # Errors
///
/// The first broken promise.
pub fn each_fault(
    plan: &Plan,
    start: &Start,
    wanted: impl Fn(u64, RequestFault) -> bool,
) -> Result<Tally, Box<Failure>> {
    let whole = run(plan, start)?;
    let opening = whole.steps.first().copied().unwrap_or(0);
    let mut tally = Tally::default();
    for request in 0..whole.requests.saturating_sub(opening) {
        for fault in RequestFault::ALL.into_iter().filter(|fault| wanted(request, *fault)) {
            let mut bad = plan.clone();
            if let Some(step) = bad.steps.first_mut() {
                step.faults.push((request, fault));
            }
            let played = run(&bad, start)?;
            tally.machines += 1;
            tally.faults += 1;
            tally.requests += played.requests;
            tally += last_images(&bad, start, &played)?;
        }
    }
    Ok(tally)
}

/// The images of a cut in the end.
fn last_images(plan: &Plan, start: &Start, played: &Played) -> Result<Tally, Box<Failure>> {
    let mut cuts = Cuts::new(&plan.setup, start, &played.record);
    cuts.go_to(played.record.len());
    let images = cuts.images_now(7);
    let most = images.len().min(16);
    for image in images.into_iter().take(most) {
        judge_image(&mut cuts, &image).map_err(|what| {
            let (plan, start) = (plan.clone(), start.clone());
            Box::new(Failure { what, plan, start, image: Some(image) })
        })?;
    }
    Ok(Tally { cuts: 1, images: most as u64, ..Tally::default() })
}

/// True if a machine breaks a promise: while it runs, or after one of the images that a search of
/// bounded length finds.
pub fn breaks(plan: &Plan, start: &Start, with_cuts: bool) -> Option<Box<Failure>> {
    if !with_cuts {
        return run(plan, start).err();
    }
    every_cut(plan, start).err()
}
