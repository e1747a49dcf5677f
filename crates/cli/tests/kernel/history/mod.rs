//! The same history on both sides, compared after every step.
//!
//! A history is chosen from a seed: writes of many sizes to the origin and to snapshots with
//! different chunk sizes, discards, stores that run full, snapshots that come and go, growing COW
//! devices, merges with writes during them. The kernel does it with device-mapper, dmsnap with
//! `dmsnap serve`. After each step both must show, byte for byte and in the words of the status
//! line, what a naive model of snapshots says; `model::Side` is the list of what differs.

pub(crate) mod model; // what should come of it
pub(crate) mod choose; // the steps
pub(crate) mod mapped; // the kernel's side
pub(crate) mod served; // dmsnap's side

use std::collections::BTreeMap;

use crate::common::{self, Dir};
use crate::kernel::guest::skipped;
use crate::kernel::machine::Machine;
use crate::kernel::pair::directory;
use crate::kernel::random::{Random, rounds};

use choose::{CHUNKS, Chooser};
use mapped::{DISK_BYTES, Mapped};
use model::{Shape, Side, Snapshot, State, Step, World, Write, index};
use served::{Served, content};

/// Steps of a history.
const STEPS: u64 = 30;

#[test]
fn kernel_and_dmsnap_agree_after_every_step_of_random_histories() {
    if skipped() {
        return;
    }
    let (seed, rounds) = (Random::seed(), rounds(CHUNKS.len() as u64));
    let mut machine = Machine::boot(directory(), DISK_BYTES, 120 + 20 * rounds);
    let mut figures = Figures::default();
    for n in 0..rounds {
        History::new(seed + n, &mut machine).run(&mut figures);
    }
    figures.print(rounds);
}

/// What was done, for the last line.
#[derive(Default)]
struct Figures {
    steps: u64,
    compared: u64,
    stores: u64,
    merges: u64,
    dropped: u64,
    last_chunks: u64,
    overflowed: u64,
    chunks: BTreeMap<u64, u64>,
}

impl Figures {
    fn count(&mut self, step: &Step) {
        self.steps += 1;
        match step {
            Step::Add { shape, .. } => {
                self.stores += 1;
                *self.chunks.entry(shape.chunk * 512).or_default() += 1;
            }
            Step::Merge { .. } => self.merges += 1,
            _ => {}
        }
    }

    /// Counts what a step made of the snapshots.
    fn states(&mut self, before: &BTreeMap<u32, [State; 2]>, after: &BTreeMap<u32, [State; 2]>) {
        for (id, now) in after {
            let Some(then) = before.get(id).filter(|then| *then != now) else { continue };
            let became = |state| (0..2).any(|side| then[side] != state && now[side] == state);
            self.overflowed += u64::from(became(State::Overflow));
            self.dropped += u64::from(became(State::Invalid));
        }
    }

    fn print(&self, rounds: u64) {
        let Self { steps, compared, stores, merges, dropped, last_chunks, overflowed, chunks } =
            self;
        println!(
            "FIGURES histories: {rounds} with {steps} steps, {compared} devices compared on both \
             sides; {stores} stores, {overflowed} times overflowed, {dropped} times dropped, \
             {last_chunks} of them by a kernel that gave the last chunk out; \
             {merges} merges; stores by bytes of a chunk: {chunks:?}"
        );
    }
}

/// One history, and how far it is.
struct History<'m> {
    seed: u64,
    chooser: Chooser,
    mapped: Option<Mapped<'m>>,
    served: Option<Served>,
    kernel: World,
    dmsnap: World,
    steps: Vec<Step>,
}

impl<'m> History<'m> {
    fn new(seed: u64, machine: &'m mut Machine) -> Self {
        let mut chooser = Chooser::new(seed, Random::from(seed));
        let first = Write { at: 0, count: chooser.sectors, number: 1 };
        let origin: Vec<u64> = first.range().map(|sector| model::tag(1, sector)).collect();
        let by_table = chooser.below(2) == 0;
        Self {
            seed,
            chooser,
            mapped: Some(Mapped::new(machine, &content(first))),
            served: Some(Served::new(&content(first), by_table)),
            kernel: World::new(Side::Kernel, origin.clone()),
            dmsnap: World::new(Side::Dmsnap, origin),
            steps: Vec::new(),
        }
    }

    fn run(mut self, figures: &mut Figures) {
        for _ in 0..STEPS {
            let step = self.chooser.step(&self.kernel, &self.dmsnap);
            figures.count(&step);
            self.steps.push(step.clone());
            let before = self.states();
            self.step(&step);
            figures.states(&before, &self.states());
            figures.last_chunks += self.lost_with_its_last_chunk(&step, &before);
            figures.compared += self.compare();
        }
        self.end();
    }

    /// 1 if the kernel gave the last chunk of a hazardous size out, and lost the snapshot by it: with
    /// PO no other write to a snapshot does that.
    fn lost_with_its_last_chunk(&self, step: &Step, before: &BTreeMap<u32, [State; 2]>) -> u64 {
        let Step::WriteSnapshot { id, .. } = step else { return 0 };
        let snapshot = &self.kernel.snapshots[id];
        u64::from(snapshot.shape.po && !snapshot.live() && before[id][0] != State::Invalid)
    }

    /// How each snapshot is, with the kernel and with dmsnap.
    fn states(&self) -> BTreeMap<u32, [State; 2]> {
        let both = self.kernel.snapshots.iter().zip(self.dmsnap.snapshots.values());
        both.map(|((id, kernel), dmsnap)| (*id, [kernel.state, dmsnap.state])).collect()
    }

    fn mapped(&mut self) -> &mut Mapped<'m> {
        self.mapped.as_mut().expect("until the end")
    }

    fn served(&mut self) -> &mut Served {
        self.served.as_mut().expect("until the end")
    }

    fn step(&mut self, step: &Step) {
        let expected = [self.kernel.step(step), self.dmsnap.step(step)];
        if let Step::Add { id, shape, made_by } = *step {
            let store = blank(shape, made_by);
            let store = self.mapped().add(id, shape, &store);
            return self.served().add(id, shape, &store);
        }
        let found = [self.mapped().step(step), self.served().step(step)];
        assert_eq!(found, expected, "success of {step:?}, kernel and dmsnap");
    }

    /// Compares every device of both sides with their models. Tells how many there are.
    fn compare(&mut self) -> u64 {
        let ids: Vec<_> = self.kernel.snapshots.keys().copied().collect();
        for id in std::iter::once(None).chain(ids.into_iter().map(Some)) {
            let found = self.mapped().content(id);
            assert_shows(&self.kernel, id, found.as_deref());
            let sectors = self.chooser.sectors;
            let found = self.served().content(id, sectors);
            assert_shows(&self.dmsnap, id, found.as_deref());
            let Some(id) = id else { continue };
            assert_eq!(
                self.mapped().status(id),
                self.kernel.snapshots[&id].status(),
                "s{id}: kernel"
            );
            let found = self.served().status_on_disk(id);
            assert_eq!(found, self.dmsnap.snapshots[&id].status_on_disk(), "s{id}: dmsnap");
        }
        1 + self.kernel.snapshots.len() as u64
    }

    /// Each side closes, and the other one reads what it left.
    fn end(mut self) {
        let (machine, origin, stores) = self.mapped.take().expect("once").end();
        read_by_dmsnap(&self.kernel, &origin, &stores);
        let (origin, stores) = self.served.take().expect("once").end();
        self.dmsnap.step(&Step::Reopen);
        let mut mapped = Mapped::new(machine, &origin);
        for (id, snapshot) in &self.dmsnap.snapshots {
            mapped.add(*id, snapshot.shape, &stores[id]);
            assert_shows(&self.dmsnap, Some(*id), mapped.content(Some(*id)).as_deref());
            assert_eq!(mapped.status(*id), snapshot.status(), "s{id}: served, then mapped");
        }
        mapped.end();
    }
}

/// What the kernel left is sound, and exported as it was shown.
fn read_by_dmsnap(kernel: &World, origin: &[u8], stores: &BTreeMap<u32, Vec<u8>>) {
    let dir = Dir::new();
    let image = dir.file("origin", origin);
    for (id, store) in stores {
        let snapshot = &kernel.snapshots[id];
        let cow = dir.file("cow", store);
        let checked = dmsnap!("check", cow, image);
        assert_eq!(checked.status, i32::from(!snapshot.live()), "s{id}: {}", checked.stdout);
        if snapshot.live() {
            let out = dir.path(&format!("out{id}"));
            dmsnap!("export", cow, image, out).ok();
            assert_shows(kernel, Some(*id), Some(&common::read(&out)));
        }
    }
}

/// A store for a snapshot, on a device that was used before: made, or still to be made.
fn blank(shape: Shape, made_by: Side) -> Vec<u8> {
    let mut bytes = vec![0xAA; index(shape.cow * 512)];
    let zero = 4096.max(shape.chunk * 512).min(shape.cow * 512);
    bytes[..index(zero)].fill(0);
    if made_by == Side::Dmsnap {
        let dir = Dir::new();
        let cow = dir.file("cow", &bytes);
        // What lies on it is overwritten. A size at which kernels lose the last chunk is warned of.
        let made = dmsnap!("create", "--force", cow, "--chunk-size", format!("{}s", shape.chunk));
        assert_eq!(made.status, 0, "{}", made.stderr);
        bytes = common::read(&cow);
    }
    bytes
}

/// What a device shows; nothing if it cannot be read.
#[track_caller]
fn assert_shows(world: &World, id: Option<u32>, found: Option<&[u8]>) {
    let snapshot = id.map(|id| &world.snapshots[&id]);
    let expected = match snapshot {
        None => Some(&world.origin),
        Some(snapshot) => snapshot.live().then_some(&snapshot.shows),
    };
    assert_eq!(found.is_some(), expected.is_some(), "{id:?} can be read");
    let (Some(found), Some(expected)) = (found, expected) else { return };
    assert_eq!(found.len(), expected.len() * 512, "{id:?}: its size");
    for (sector, (bytes, tag)) in found.chunks(512).zip(expected).enumerate() {
        let found = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let whole = bytes.chunks(8).all(|word| word == &bytes[..8]);
        assert!(
            found == *tag && whole,
            "{id:?}, sector {sector}: found {found:#x}, expected {tag:#x}, whole: {whole}, {:?}",
            snapshot.map(Snapshot::status)
        );
    }
}

impl Drop for History<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history of seed {}, up to the step that failed:", self.seed);
            self.steps.iter().for_each(|step| eprintln!("    {step:?}"));
            eprintln!("again: tests/kernel/run --rounds 1 --seed {} history", self.seed);
        }
    }
}
