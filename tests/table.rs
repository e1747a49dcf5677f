//! The table of exceptions does what a plain ordered map does, in a fraction of the memory.

use std::collections::BTreeMap;

use dmsnap::format::{ChunkSize, CowChunk, Exception, Layout, OriginChunk, Run};
use dmsnap::table::{Duplicate, Table};
use proptest::collection::vec;
use proptest::prelude::*;

/// The obvious implementation.
#[derive(Clone, Default)]
struct Model(BTreeMap<u64, u64>);

impl Model {
    fn runs_from(&self, from: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (&old, &new) in self.0.range(from..) {
            match runs.last_mut() {
                Some(run)
                    if old - run.old.get() == run.len
                        && new.checked_sub(run.new.get()) == Some(run.len) =>
                {
                    run.len += 1;
                }
                _ => runs.push(Run::from(exception(old, new))),
            }
        }
        runs
    }

    fn exceptions(&self) -> Vec<Exception> {
        self.0.iter().map(|(&old, &new)| exception(old, new)).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    /// As many exceptions as the last number says, consecutive on both devices.
    InsertRun(u64, u64, u64),
    Remove(u64),
    RemoveRange(u64, u64),
    Clear,
}

fn exception(old: u64, new: u64) -> Exception {
    Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
}

fn insert(table: &mut Table, model: &mut Model, old: u64, new: u64) {
    let told = table.insert(exception(old, new));
    let want = match model.0.get(&old) {
        Some(&existing) => Err(Duplicate {
            old: OriginChunk::new(old),
            existing: CowChunk::new(existing),
            refused: CowChunk::new(new),
        }),
        None => Ok(()),
    };
    assert_eq!(told, want, "insert {old} -> {new}");
    model.0.entry(old).or_insert(new);
}

fn take(table: &mut Table, model: &mut Model, step: &Step) {
    match *step {
        Step::Insert(old, new) => insert(table, model, old, new),
        Step::InsertRun(old, new, len) => {
            for i in 0..len {
                if let (Some(old), Some(new)) = (old.checked_add(i), new.checked_add(i)) {
                    insert(table, model, old, new);
                }
            }
        }
        Step::Remove(old) => {
            let told = table.remove(OriginChunk::new(old)).map(CowChunk::get);
            assert_eq!(told, model.0.remove(&old), "remove {old}");
        }
        Step::RemoveRange(old, len) => {
            let told = table.remove_range(OriginChunk::new(old), len);
            let before = model.0.len();
            model.0.retain(|&key, _| key < old || key - old >= len);
            assert_eq!(told, (before - model.0.len()) as u64, "remove {len} from {old}");
        }
        Step::Clear => {
            table.clear();
            model.0.clear();
        }
    }
}

/// Everything the table can be asked, at the numbers around every bound of a run.
fn compare(table: &Table, model: &Model) {
    let runs = model.runs_from(0);
    assert_eq!(table.iter().collect::<Vec<_>>(), runs);
    assert_eq!((table.len(), table.runs()), (model.0.len() as u64, runs.len() as u64));
    assert_eq!(table.is_empty(), model.0.is_empty());
    let bounds = runs.iter().flat_map(|run| [run.old.get(), run.old.get() + (run.len - 1)]);
    let near = bounds.flat_map(|at| [at.checked_sub(1), Some(at), at.checked_add(1)]);
    for at in near.flatten().chain([0, u64::MAX]) {
        let chunk = OriginChunk::new(at);
        let want = model.0.get(&at).copied();
        assert_eq!(table.get(chunk).map(CowChunk::get), want, "get {at}");
        let ended = runs.partition_point(|run| run.old.get() + (run.len - 1) < at);
        let next = runs.get(ended).map(|run| {
            let skip = at.saturating_sub(run.old.get());
            Run { old: run.old.plus(skip), new: run.new.plus(skip), len: run.len - skip }
        });
        assert_eq!(table.next_run(chunk), next, "next run from {at}");
        assert_eq!(table.run_at(chunk), next.filter(|run| run.old == chunk), "run at {at}");
    }
    let middle = runs.get(runs.len() / 2).map_or(0, |run| run.old.get());
    let from: Vec<_> = table.runs_from(OriginChunk::new(middle)).collect();
    assert_eq!(from, model.runs_from(middle));
}

/// Numbers that meet often, lie at either end of what 64 bits hold, or are spread over all of it.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..60u64,
        2 => (0..20u64).prop_map(|n| u64::MAX - n),
        1 => (0..20u64).prop_map(|n| (1 << 32) - 10 + n),
        1 => any::<u64>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (number(), number()).prop_map(|(old, new)| Step::Insert(old, new)),
        // Old and new advance alike, so that single exceptions join runs from either side.
        40 => (0..200u64, 0..3u64).prop_map(|(old, band)| Step::Insert(old, old + band * 1000)),
        10 => (0..20u64).prop_map(|n| Step::Insert(u64::MAX - n, u64::MAX - n)),
        10 => (number(), number(), 1..20u64).prop_map(|(old, new, n)| Step::InsertRun(old, new, n)),
        20 => number().prop_map(Step::Remove),
        8 => (number(), 0..30u64).prop_map(|(old, len)| Step::RemoveRange(old, len)),
        1 => (number(), number()).prop_map(|(old, len)| Step::RemoveRange(old, len)),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_does_what_an_ordered_map_does(steps in vec(step(), 1..100)) {
        let (mut table, mut model) = (Table::new(), Model::default());
        for step in &steps {
            take(&mut table, &mut model, step);
            compare(&table, &model);
        }
    }

    #[test]
    fn bulk_build_equals_insertion_one_by_one(
        steps in vec(step(), 1..200),
        seed in any::<u64>(),
    ) {
        let (mut table, mut model) = (Table::new(), Model::default());
        for step in &steps {
            take(&mut table, &mut model, step);
        }
        let mut shuffled = model.exceptions();
        shuffled.sort_by_key(|exception| exception.old.get().wrapping_mul(seed | 1));
        let mut built = Table::from_exceptions(shuffled).expect("a map has no duplicates");
        compare(&built, &model);
        prop_assert!(built.iter().eq(table.iter()));
        for step in &steps {
            take(&mut built, &mut model, step);
        }
        compare(&built, &model);
    }

    #[test]
    fn bulk_build_reports_the_lowest_duplicate(
        old in vec(0..5000u64, 2..400),
        again in any::<prop::sample::Index>(),
    ) {
        let numbered = (2..).zip(&old);
        let mut exceptions: Vec<_> = numbered.map(|(new, &old)| exception(old, new)).collect();
        exceptions.push(exception(*again.get(&old), 1));
        let told = Table::from_exceptions(exceptions.clone()).expect_err("one comes twice");
        exceptions.sort_by_key(|exception| (exception.old, exception.new));
        let pair = exceptions.windows(2).find(|pair| pair[0].old == pair[1].old).expect("a pair");
        let want = Duplicate { old: pair[0].old, existing: pair[0].new, refused: pair[1].new };
        prop_assert_eq!(told, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Some thousand runs of 1 to 64 and holes cut into them: many leaves split and fuse.
    #[test]
    fn many_runs_do_what_an_ordered_map_does(
        starts in vec((0..1u64 << 17, 1..64u64), 500..1500),
        holes in vec((0..1u64 << 17, 1..3000u64), 1..60),
    ) {
        let (mut table, mut model) = (Table::new(), Model::default());
        let mut new = 2;
        for old in starts.into_iter().flat_map(|(old, len)| old..old + len) {
            if !model.0.contains_key(&old) {
                insert(&mut table, &mut model, old, new);
                new += 1;
            }
        }
        compare(&table, &model);
        for (old, len) in holes {
            take(&mut table, &mut model, &Step::RemoveRange(old, len));
        }
        compare(&table, &model);
    }
}

/// A million isolated chunks at random among 2^32, in COW chunks as a store with 4 KiB chunks gives
/// them out.
fn random_million() -> Vec<Exception> {
    let layout = Layout::new(ChunkSize::from_sectors(8).expect("4 KiB"));
    // Odd factors and shifts can be undone, so no chunk comes twice.
    let scatter = |index: u32| {
        let mut n = index.wrapping_mul(0x9e37_79b1);
        for factor in [0x85eb_ca6b_u32, 0xc2b2_ae35] {
            n = (n ^ (n >> 15)).wrapping_mul(factor);
        }
        n ^ (n >> 13)
    };
    (0..1_000_000)
        .map(|index: u32| Exception {
            old: OriginChunk::new(scatter(index).into()),
            new: layout.lock_step_chunk(index.into()),
        })
        .collect()
}

#[test]
fn a_random_exception_costs_at_most_eight_bytes() {
    let exceptions = random_million();
    let built = Table::from_exceptions(exceptions.clone()).expect("no duplicates");
    let mut grown = Table::new();
    for &exception in &exceptions {
        grown.insert(exception).expect("no duplicates");
    }
    for (table, how) in [(&built, "built at once"), (&grown, "one by one")] {
        assert_eq!(table.len(), 1_000_000);
        let bytes = table.memory_bytes();
        assert!(bytes <= 8_000_000, "{bytes} bytes for 1000000 exceptions, {how}");
    }
    assert!(built.iter().eq(grown.iter()));
    assert!(exceptions.iter().all(|exception| grown.get(exception.old) == Some(exception.new)));
}

#[test]
fn a_run_costs_the_same_whatever_its_length() {
    let mut table = Table::new();
    for chunk in 0..100_000 {
        table.insert(exception(chunk, chunk + 2)).expect("ascending");
    }
    assert_eq!((table.len(), table.runs()), (100_000, 1));
    let bytes = table.memory_bytes();
    assert!(bytes < 4096, "{bytes} bytes for one run");
}

#[test]
fn a_duplicate_is_refused_and_named() {
    let mut table = Table::new();
    table.insert(exception(7, 2)).expect("first");
    let told = table.insert(exception(7, 4)).expect_err("second");
    assert_eq!(told.to_string(), "origin chunk 7 has two exceptions: COW chunks 2 and 4");
    assert_eq!(table.get(OriginChunk::new(7)), Some(CowChunk::new(2)));
}

/// Exceptions never continue each other past 2^64 - 1, on either device and in either direction.
#[test]
fn the_largest_numbers_are_chunks_like_any_other() {
    let max = u64::MAX;
    let cases: [(&[(u64, u64)], u64); 4] = [
        (&[(5, max), (6, max)], 2),
        (&[(5, max), (6, 0)], 2),
        (&[(0, 0), (max, max), (max - 1, max - 1)], 2),
        (&[(max, 7), (0, 8), (max - 1, 6)], 2),
    ];
    for (exceptions, runs) in cases {
        let (mut table, mut model) = (Table::new(), Model::default());
        for &(old, new) in exceptions {
            insert(&mut table, &mut model, old, new);
        }
        compare(&table, &model);
        assert_eq!(table.runs(), runs, "{exceptions:?}");
        let built = Table::from_exceptions(model.exceptions()).expect("no duplicates");
        compare(&built, &model);
        assert_eq!(
            table.remove_range(OriginChunk::new(1), max),
            exceptions.len() as u64 - u64::from(model.0.contains_key(&0))
        );
    }
}
