//! Large machines, drawn from a seed.

use dmsnap::volume::{OnFull, SnapshotOptions, Strays};

use crate::fault::RequestFault;
use crate::hunt::{Failure, Tally, some_cuts};
use crate::naive::SECTOR;
use crate::plan::{Action, Asked, Plan, Setup, Slot, Start, Step};
use crate::random::Random;

/// Images judged after a life.
const IMAGES: usize = 24;

/// Lives of a machine: after each the power is cut, and it goes on from there.
const LIVES: usize = 3;

/// What goes wrong in large machines.
const DRAWN: [RequestFault; 10] = [
    RequestFault::Fails,
    RequestFault::FailsDone,
    RequestFault::NoSpace,
    RequestFault::Short,
    RequestFault::DropsWrites,
    RequestFault::KeepsPages,
    RequestFault::Slow,
    RequestFault::Hangs,
    RequestFault::Full,
    RequestFault::Gone,
];

/// Runs the machine of this seed, cuts its power, goes on, and so on.
///
/// # Errors
///
/// The broken promise.
pub fn live(seed: u64) -> Result<Tally, Box<Failure>> {
    let mut random = Random::new(seed);
    let mut setup = draw_setup(&mut random);
    let mut start = setup.start();
    let mut tally = Tally::default();
    for life in 0..LIVES {
        setup.order = (!random.chance(1, 8)).then(|| random.draw());
        let plan = Plan { steps: draw_steps(&setup, &mut random), setup: setup.clone() };
        let (lived, last) = some_cuts(&plan, &start, IMAGES, &mut random)?;
        tally += lived;
        match last {
            Some(last) if life + 1 < LIVES => start = last,
            _ => break,
        }
    }
    Ok(tally)
}

/// The first life of a seed: the machine, and where it begins.
pub fn first_life(seed: u64) -> (Plan, Start) {
    let mut random = Random::new(seed);
    let mut setup = draw_setup(&mut random);
    let start = setup.start();
    setup.order = (!random.chance(1, 8)).then(|| random.draw());
    (Plan { steps: draw_steps(&setup, &mut random), setup }, start)
}

fn draw_setup(random: &mut Random) -> Setup {
    let block = if random.chance(1, 5) { 4096 } else { 512 };
    let align = block / SECTOR;
    let origin = (24 + random.below(100)).next_multiple_of(align);
    let slots = (0..1 + random.below(3)).map(|_| draw_slot(origin, align, random)).collect();
    let block = u32::try_from(block).unwrap_or(512);
    let backlog = if random.chance(1, 3) { 1 << (13 + random.below(5)) } else { 0 };
    Setup { block, origin, backlog, stacked: random.chance(1, 7), slots, order: None }
}

fn draw_slot(origin: usize, align: usize, random: &mut Random) -> Slot {
    let chunk = random.pick(&[1, 1, 2, 4, 8, 16]);
    let olds = origin.div_ceil(chunk);
    let whole = |chunks: usize| (chunks * chunk).next_multiple_of(align).div_ceil(chunk);
    let transient = random.chance(1, 10);
    let tight = random.chance(1, 4);
    let chunks = if tight { 4 + random.below(olds) } else { 2 * olds + 12 };
    let chunks = whole(chunks.next_multiple_of((align / chunk).max(1)));
    let per_area = chunk * SECTOR / 16;
    // What fits with every area that has to follow.
    let room = (chunks - 3) * per_area / (per_area + 1);
    let filled = match random.below(5) {
        _ if transient => None,
        0 => None,
        1 => Some(0),
        2 => Some(olds.min(room).min(per_area)),
        _ => Some(random.below(1 + olds.min(room))),
    };
    let on_full = random.pick(&[
        OnFull::Invalidate,
        OnFull::Invalidate,
        OnFull::Fail,
        OnFull::Wait { ticks: 3 },
    ]);
    Slot {
        chunk,
        chunks,
        filled,
        strays: if filled.is_some() && random.chance(1, 8) { random.below(6) } else { 0 },
        damaged: false,
        // Drawn from what is known: seeds keep their meaning.
        fenced: filled.is_some() && (chunks ^ olds).is_multiple_of(4),
        way_back_of: None,
        transient,
        tight,
        grows_to: if tight && random.chance(1, 3) { whole(2 * olds + 12) } else { 0 },
        options: SnapshotOptions {
            strays: Strays::default(),
            len_bytes: None,
            ignore_fence: false,
            on_full,
            max_bytes: None,
            discard_zeroes: random.chance(1, 2),
            discard_passdown: random.chance(1, 3),
        },
    }
    .with_growth()
}

impl Slot {
    fn with_growth(mut self) -> Self {
        let bytes = (self.grows_to * self.chunk * SECTOR) as u64;
        self.options.max_bytes = (bytes > 0).then_some(bytes);
        self
    }
}

fn draw_steps(setup: &Setup, random: &mut Random) -> Vec<Step> {
    let merges = random.chance(2, 3);
    let faulty = random.chance(1, 3);
    let mut steps = Vec::new();
    for _ in 0..4 + random.below(16) {
        let exclusive = random.chance(1, 25);
        let mut clients = Vec::new();
        if exclusive {
            clients.push(vec![match random.below(3) {
                0 => offline_merge(setup, random),
                _ => Action::Reopen,
            }]);
        } else {
            for _ in 0..1 + random.below(5) {
                clients.push((0..1 + random.below(5)).map(|_| request(setup, random)).collect());
            }
            if random.chance(1, 2) {
                clients.push(
                    (0..1 + random.below(3)).map(|_| operation(setup, merges, random)).collect(),
                );
            }
        }
        let mut faults = Vec::new();
        if faulty && random.chance(1, 5) {
            faults.push((random.below(60) as u64, random.pick(&DRAWN)));
        }
        steps.push(Step { clients, faults });
    }
    steps
}

fn offline_merge(setup: &Setup, random: &mut Random) -> Action {
    let slot = 1 + random.below(setup.slots.len());
    Action::OfflineMerge { slot, window: window(setup, slot, random) }
}

fn window(setup: &Setup, slot: usize, random: &mut Random) -> u64 {
    (setup.slots[slot - 1].chunk * SECTOR * (1 + random.below(40))) as u64
}

/// Where a request goes, in bytes: mostly whole sectors, now and then any bytes.
fn place(setup: &Setup, random: &mut Random) -> (usize, usize) {
    let most = random.pick(&[1, 2, 5, 9, 40]);
    let at = random.below(setup.origin);
    let sectors = 1 + random.below(most.min(setup.origin - at));
    let (at, len) = (at * SECTOR, sectors * SECTOR);
    match random.chance(1, 6) {
        true => {
            let skip = random.below(len.min(900));
            (at + skip, 1 + random.below(len - skip))
        }
        false => (at, len),
    }
}

fn request(setup: &Setup, random: &mut Random) -> Action {
    let device = random.below(1 + setup.slots.len());
    let (at, len) = place(setup, random);
    match random.below(20) {
        0..=2 => Action::Read { device, at, len },
        3 => Action::Status { device, asked: asked(setup, random), at, len },
        4..=12 => Action::Write { device, at, len },
        13 => Action::Fua { device, at, len },
        14 => Action::Zero { device, at, len, keep: true },
        15 => Action::Zero { device, at, len, keep: false },
        16 => Action::Discard { device, at, len },
        _ => Action::Flush { device },
    }
}

/// Each export knows how it differs from every snapshot; on its own a snapshot's name stands for the origin.
fn asked(setup: &Setup, random: &mut Random) -> Asked {
    match random.below(4) {
        0 => Asked::Base,
        1 => Asked::Depth,
        _ => Asked::Dirty(1 + random.below(setup.slots.len())),
    }
}

fn operation(setup: &Setup, merges: bool, random: &mut Random) -> Action {
    let slot = 1 + random.below(setup.slots.len());
    match random.below(if merges { 16 } else { 7 }) {
        0..=2 => Action::Add { slot },
        3 => Action::Remove { slot },
        4 if random.chance(1, 3) => Action::Drop { slot },
        4 => Action::Tick,
        5 => Action::Lengthen { slot, chunks: longer(setup, slot, random) },
        6 => Action::Add { slot },
        7..=9 => Action::StartMerge { slot },
        10..=13 => {
            Action::RunMerge { window: window(setup, slot, random), moves: 1 + random.below(40) }
        }
        14 => Action::CancelMerge,
        _ => Action::Remove { slot },
    }
}

fn longer(setup: &Setup, slot: usize, random: &mut Random) -> usize {
    let slot = &setup.slots[slot - 1];
    let align = (setup.block as usize / SECTOR / slot.chunk).max(1);
    (slot.chunks + 1 + random.below(20)).next_multiple_of(align)
}
