use std::rc::Rc;

use dmsnap::device::{Device, DynDevice};
use dmsnap::ops::{DiffOptions, DiffSide, Silent, Which};
use dmsnap::volume::{SnapshotOptions, View, VolumeError};
use dmsnap_sim::{Disk, Power, run};
use proptest::prelude::*;

use super::{SECTOR, SECTORS, all, between, excepted, naive, pages_are_the_whole, sectors};
use crate::common::bytes;
use crate::common::live::{AnyVolume, add, any_volume, data, empty_cow, origin, read_all};

#[derive(Clone, Debug)]
enum Step {
    Origin(u64, u64),
    Snapshot(usize, u64, u64),
    /// What is there is written again.
    Same(usize, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SECTORS, 1_u64..10);
    prop_oneof![
        3 => range().prop_map(|(at, len)| Step::Origin(at, len)),
        3 => (0..2_usize, range()).prop_map(|(n, (at, len))| Step::Snapshot(n, at, len)),
        1 => (0..3_usize, range()).prop_map(|(n, (at, len))| Step::Same(n, at, len)),
    ]
}

const NAMES: [&str; 2] = ["a", "b"];

/// An origin and up to two snapshots of it.
struct History {
    origin: Rc<Disk>,
    cows: [Rc<Disk>; 2],
    volume: Rc<AnyVolume>,
    tag: u64,
}

impl History {
    fn new(chunks: [u32; 2]) -> Self {
        let origin = origin(SECTORS, &Power::steady());
        let cows = chunks.map(|chunk| empty_cow(chunk, 300, &Power::steady()));
        Self { volume: any_volume(origin.clone()), origin, cows, tag: 1 << 30 }
    }

    fn add(&self, n: usize) {
        add(&self.volume, NAMES[n], self.cows[n].clone(), SnapshotOptions::default());
    }

    fn view(&self, n: usize) -> View<DynDevice, DynDevice> {
        match NAMES.get(n).and_then(|name| self.volume.snapshot(name)) {
            Some(snapshot) => View::snapshot(&self.volume, &snapshot),
            None => View::origin(&self.volume),
        }
    }

    fn take(&mut self, step: &Step) {
        self.tag += 1000;
        let (n, at, len) = match *step {
            Step::Origin(at, len) => (2, at, len),
            Step::Snapshot(n, at, len) | Step::Same(n, at, len) => (n, at, len),
        };
        let (at, len) = (at * SECTOR, len.min(SECTORS - at) * SECTOR);
        let view = self.view(n);
        let data = match step {
            Step::Same(..) => run(view.read(at, bytes(len))).expect("read").freeze(),
            _ => data(self.tag, len / SECTOR),
        };
        run(view.write(at, data)).expect("written");
    }

    /// What the volume says of each pair is so, and says no more than the exceptions do.
    fn live(&self) {
        let end = SECTORS * SECTOR;
        let shown = [0, 1, 2].map(|n| read_all(&self.view(n)));
        let snapshots = NAMES.map(|name| self.volume.snapshot(name));
        let told = |found: Vec<(u64, bool)>| {
            let flags = found.into_iter().flat_map(|(len, is)| vec![is; bytes(len / SECTOR)]);
            flags.collect::<Vec<_>>()
        };
        let excepted = |n: usize| {
            let snapshot = snapshots[n].as_ref().expect("there");
            told(snapshot.changes(0..end, usize::MAX))
        };
        let agrees = |flags: &[bool], a: &[u8], b: &[u8]| {
            for (n, differs) in flags.iter().enumerate() {
                let at = n * 512..(n + 1) * 512;
                assert!(*differs || a[at.clone()] == b[at], "sector {n} is called the same");
            }
        };
        for n in [0, 1] {
            let Some(snapshot) = &snapshots[n] else { return };
            let flags = self.volume.changed_since(snapshot, 0..end, usize::MAX).expect("told");
            let flags = told(flags);
            agrees(&flags, &shown[n], &shown[2]);
            assert_eq!(flags, excepted(n));
        }
        let [Some(a), Some(b)] = &snapshots else { return };
        let flags = told(self.volume.different([a, b], 0..end, usize::MAX).expect("told"));
        agrees(&flags, &shown[0], &shown[1]);
        let both = excepted(0).into_iter().zip(excepted(1)).map(|(a, b)| a || b);
        assert_eq!(flags, both.collect::<Vec<_>>());
    }

    /// Without the volume, from the stores alone.
    fn offline(&self, chunks: [u32; 2]) {
        let shown = [0, 1, 2].map(|n| read_all(&self.view(n)));
        run(self.volume.flush_all()).expect("flushed");
        let origin = &*self.origin;
        let cows = [&*self.cows[0], &*self.cows[1]];
        let options = DiffOptions::default();
        let readable = |n: usize, which| {
            run(DiffSide::readable((cows[n], which), origin, options)).expect("a side")
        };
        let listed =
            |n: usize, origin| run(DiffSide::listed(cows[n], origin, options)).expect("a side");
        let of_origin = || futures_executor::block_on(DiffSide::origin(origin)).expect("a side");
        let smallest = u64::from(chunks[0].min(chunks[1])) * SECTOR;
        let own = |n: usize| u64::from(chunks[n]) * SECTOR;
        let changed = [0, 1].map(|n| excepted(cows[n], chunks[n].into(), SECTORS));
        let end = SECTORS * SECTOR;

        for n in [0, 1] {
            for diff in [
                between(readable(n, Which::Cow), of_origin()),
                between(of_origin(), readable(n, Which::Cow)),
            ] {
                assert!(diff.is_exact() && diff.granularity_bytes() == own(n));
                assert_eq!(all(&diff), naive(&shown[n], &shown[2], own(n)));
                pages_are_the_whole(&diff, end);
            }
            let diff = between(listed(n, Some(origin)), of_origin());
            assert_eq!(sectors(&all(&diff), SECTORS), changed[n]);
            pages_are_the_whole(&diff, end);
        }
        let diff = between(readable(0, Which::Cow), readable(1, Which::Second));
        assert_eq!((diff.granularity_bytes(), diff.len_bytes()), (smallest, Some(end)));
        assert_eq!(all(&diff), naive(&shown[0], &shown[1], smallest));
        pages_are_the_whole(&diff, end);
        let either: Vec<_> = changed[0].iter().zip(&changed[1]).map(|(a, b)| a | b).collect();
        let diff = between(listed(0, Some(origin)), listed(1, Some(origin)));
        assert!(!diff.is_exact());
        assert_eq!(sectors(&all(&diff), SECTORS), either);
        pages_are_the_whole(&diff, end);
        let without = between(listed(0, None), listed(1, None));
        assert_eq!(without.len_bytes(), None);
        assert_eq!(sectors(&all(&without), SECTORS), either);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn differences_are_those_of_the_contents_whatever_was_written(
        before in proptest::collection::vec(step(), 0..6),
        after in proptest::collection::vec(step(), 0..14),
        chunks in (0_u32..5, 0_u32..5),
    ) {
        let chunks = [1 << chunks.0, 1 << chunks.1];
        let mut history = History::new(chunks);
        history.add(0);
        for step in &before {
            history.take(step);
            history.live();
        }
        history.add(1);
        for step in &after {
            history.take(step);
            history.live();
        }
        history.offline(chunks);
    }
}

/// A writer of the origin has to wait in memory: the origin's clients see it, no snapshot does.
#[test]
fn what_waits_in_memory_differs_from_the_origin_and_not_between_snapshots() {
    let history = History::new([1, 2]);
    history.volume.allow_backlog(1 << 20);
    history.add(0);
    history.add(1);
    run(View::origin(&history.volume).write(8 * SECTOR, data(1 << 40, 2))).expect("accepted");
    let [a, b] = NAMES.map(|name| history.volume.snapshot(name).expect("there"));
    let end = SECTORS * SECTOR;
    let since = history.volume.changed_since(&a, 0..end, 9).expect("told");
    assert_eq!(since, [(8 * SECTOR, false), (2 * SECTOR, true), (end - 10 * SECTOR, false)]);
    assert_eq!(history.volume.different([&a, &b], 0..end, 9).expect("told"), [(end, false)]);
    assert!(read_all(&history.view(0)) == read_all(&history.view(1)));
}

/// A merge goes on while another snapshot is asked, and after it was given up.
#[test]
fn a_snapshot_whose_merge_was_begun_tells_nothing_and_others_go_on() {
    let history = History::new([1, 1]);
    history.add(0);
    history.add(1);
    let [a, b] = NAMES.map(|name| history.volume.snapshot(name).expect("there"));
    run(history.view(0).write(4 * SECTOR, data(1 << 40, 3))).expect("written");
    let end = SECTORS * SECTOR;
    let unknown = |found: Result<Vec<(u64, bool)>, VolumeError>| {
        assert!(matches!(found, Err(VolumeError::ChangesUnknown)), "{found:?}");
    };
    run(history.volume.start_merge(&a)).expect("begun");
    unknown(history.volume.different([&a, &b], 0..end, 9));
    unknown(history.volume.different([&b, &a], 0..end, 9));
    unknown(history.volume.changed_since(&a, 0..end, 9));
    // The origin shows what is about to be merged, and the other snapshot never will.
    let since = history.volume.changed_since(&b, 0..end, 9).expect("told");
    assert_eq!(since, [(4 * SECTOR, false), (3 * SECTOR, true), (end - 7 * SECTOR, false)]);
    run(history.volume.run_merge(1 << 20, &Silent)).expect("merged");
    let since = history.volume.changed_since(&b, 0..end, 9).expect("told");
    assert_eq!(since, [(4 * SECTOR, false), (3 * SECTOR, true), (end - 7 * SECTOR, false)]);
    unknown(history.volume.different([&a, &b], 0..end, 9));
    run(history.volume.invalidate(&b)).expect("dropped");
    unknown(history.volume.changed_since(&b, 0..end, 9));
}
