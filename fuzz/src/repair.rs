//! Damaged stores, repaired to a copy and where they are: what is not named as lost reads as before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use dmsnap::device::Device;
use dmsnap::format::StoreId;
use dmsnap::ops::{
    self, Duplicates, Error, Finding, RepairOptions, RepairTarget, Silent, Treatment,
};
use futures_executor::block_on;

use crate::case::Case;
use crate::image::spoil;
use crate::input::{Input, told};
use crate::sparse::Sparse;

/// What a store shows, by a reader that stops at nothing.
struct View {
    chunk: u64,
    /// By chunk of the origin, the chunk of the COW device that counts.
    chunks: BTreeMap<u64, u64>,
    /// Chunks of the origin with an exception that has no data.
    lost: BTreeSet<u64>,
}

impl View {
    fn of(cow: &Sparse, chunk: u64, origin_bytes: u64, rule: Duplicates) -> Self {
        let (slots, len) = (chunk / 16, cow.len_bytes().expect("known"));
        let (end, olds) = (len / chunk, origin_bytes.div_ceil(chunk));
        let mut view = Self { chunk, chunks: BTreeMap::new(), lost: BTreeSet::new() };
        for slot in 0.. {
            let area = 1 + slot / slots * (slots + 1);
            let (old, new) = match area < end {
                true => cow.two_numbers(area * chunk + slot % slots * 16),
                false => return view,
            };
            match (old < olds, new > 1 && new < end && new % (slots + 1) != 1) {
                _ if new == 0 => return view,
                (false, _) => {}
                (true, false) => drop(view.lost.insert(old)),
                (true, true) if rule == Duplicates::First => {
                    view.chunks.entry(old).or_insert(new);
                }
                (true, true) => drop(view.chunks.insert(old, new)),
            }
        }
        view
    }

    fn show(&self, cow: &Sparse, origin: &Sparse, old: u64) -> Vec<u8> {
        let end = origin.len_bytes().expect("known");
        let at = old * self.chunk..((old + 1) * self.chunk).min(end);
        match self.chunks.get(&old) {
            Some(new) => cow.content(new * self.chunk..new * self.chunk + (at.end - at.start)),
            None => origin.content(at),
        }
    }
}

/// The shape of the devices, a store, what went wrong with it, then how it is to be repaired.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let case = Case::new(&mut input, &[1, 1, 2, 8], 100, 64);
    let origin = Sparse::zeroed(case.origin_bytes.unwrap_or(3000) / 512 * 512);
    spoil(&case, &origin, &mut input);
    origin.resize(origin.len_bytes().expect("known") / 512 * 512);
    let rule = input.pick(&[Duplicates::First, Duplicates::Last]);
    let told_size = input.u8().is_multiple_of(4).then(|| case.layout.chunk_size());
    let options = RepairOptions {
        drop_lost: true,
        revive: true,
        duplicates: Some(rule),
        chunk_size: told_size,
        ..RepairOptions::default()
    };
    copied(&case.cow, &origin, (options, rule));
    let target = RepairTarget::InPlace { can_grow: false };
    in_place(&case.cow, &origin, (RepairOptions { target, ..options }, rule));
}

/// What was told of a repair.
#[derive(Default)]
struct Told {
    /// Bytes of the origin that may read otherwise.
    named: Vec<Range<u64>>,
    found_more: bool,
}

impl Told {
    fn hear(&mut self, finding: &Finding, treatment: &Treatment) {
        told(|| format!("{finding}: {treatment}"));
        self.named.extend(treatment.origin());
        self.found_more |= treatment.name() == "move-up";
    }

    /// Holds a repaired store against the damaged one.
    fn judge(&self, [before, after]: [&Sparse; 2], origin: &Sparse, chunk: u64, rule: Duplicates) {
        let len = origin.len_bytes().expect("known");
        let report = block_on(ops::check(after, Some(origin), |it| told(|| it.to_string())));
        assert!(report.expect("readable").sound, "repaired, and not sound");
        let views = [before, after].map(|cow| View::of(cow, chunk, len, rule));
        let [then, now] = &views;
        assert!(now.lost.is_empty());
        for old in 0..len.div_ceil(chunk) {
            let is_named = self.named.iter().any(|bytes| bytes.contains(&(old * chunk)));
            let is_found = self.found_more && !then.chunks.contains_key(&old);
            let same = now.show(after, origin, old) == then.show(before, origin, old);
            assert!(same || is_named || is_found, "chunk {old} reads otherwise");
        }
    }
}

fn copied(cow: &Sparse, origin: &Sparse, (options, rule): (RepairOptions, Duplicates)) {
    let before = cow.copy();
    let mut said = Told::default();
    let salvage = block_on(ops::salvage(cow, Some(origin), options, |it, by| said.hear(it, by)));
    let Ok(salvage) = salvage else { return assert!(*cow == before, "a refused repair wrote") };
    let plan = salvage.plan();
    let output = Sparse::zeroed(plan.needed_bytes.min(1 << 30));
    let made = block_on(salvage.copy_to(&output, &Silent));
    told(|| format!("{plan:?}, {made:?}"));
    assert!(*cow == before, "a repair to another device wrote to the old one");
    match made {
        Ok(repaired) => {
            assert_eq!(repaired.exceptions, plan.kept);
            let chunk = u64::from(plan.chunk_size_sectors.expect("known")) * 512;
            said.judge([cow, &output], origin, chunk, rule);
        }
        Err(Error::Needs(_)) => assert_eq!(output.take_writes(), 0),
        Err(error) => panic!("{error}"),
    }
}

fn in_place(cow: &Sparse, origin: &Sparse, (options, rule): (RepairOptions, Duplicates)) {
    let before = cow.copy();
    cow.take_writes();
    let mut said = Told::default();
    let salvage = block_on(ops::salvage(cow, Some(origin), options, |it, by| said.hear(it, by)));
    let Ok(salvage) = salvage else { return };
    let mut pack = Vec::new();
    let packed = block_on(salvage.back_up(&mut pack));
    let id = StoreId::new([1; 16]).expect("not zero");
    match block_on(salvage.in_place(id, &Silent)) {
        Ok(repaired) => {
            packed.expect("a backup");
            assert_eq!(repaired.exceptions, salvage.plan().kept);
            let chunk = u64::from(salvage.plan().chunk_size_sectors.expect("known")) * 512;
            said.judge([&before, cow], origin, chunk, rule);
            block_on(ops::unpack(&mut &pack[..], cow, true)).expect("what was packed");
            assert_same_metadata(&before, cow, chunk);
        }
        Err(Error::Needs(_) | Error::CowTooSmall { .. }) => assert_eq!(cow.take_writes(), 0),
        Err(error) => panic!("{error}"),
    }
}

fn assert_same_metadata(before: &Sparse, after: &Sparse, chunk: u64) {
    let len = before.len_bytes().expect("known");
    let begin = 0..len.min(512);
    assert!(before.content(begin.clone()) == after.content(begin), "another header");
    for area in (0..len / chunk).filter(|n| n % (chunk / 16 + 1) == 1) {
        let bytes = area * chunk..(area + 1) * chunk;
        assert!(before.content(bytes.clone()) == after.content(bytes), "another area");
    }
}
