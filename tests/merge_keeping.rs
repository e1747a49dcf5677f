//! A merge that other snapshots of the origin do not notice, cut at any operation and run again.

use dmsnap::ops::{self, Error, Kept, MergeOptions, Merged, Other, Silent};
use dmsnap::volume::OnFull;
use dmsnap_sim::{Disk, Power, run};

use crate::common::{World, scattered};

const WINDOW_BYTES: u64 = 512 * 20;

/// What merges, and another snapshot of the same origin, with chunks of another size.
struct Pair {
    merging: World,
    other: World,
}

impl Pair {
    fn new(other_chunks: u64) -> Self {
        let merging = World::new(1, 120, 100).with_exceptions(&scattered(60, 100, 3));
        let other = World::new(4, other_chunks, 100).with_exceptions(&scattered(5, 25, 8));
        assert!(merging.origin == other.origin, "one origin");
        Self { merging, other }
    }

    fn disks(&self, power: &Power) -> [Disk; 3] {
        let contents = [&self.merging.cow, &self.merging.origin, &self.other.cow];
        contents.map(|content| Disk::new(content.clone(), 512, power))
    }
}

fn merge([cow, origin, other]: &[Disk; 3], on_full: OnFull) -> Result<(Merged, Vec<Kept>), Error> {
    let options = MergeOptions { window_bytes: WINDOW_BYTES, ..MergeOptions::default() };
    let others = vec![Other { name: "other".into(), cow: other, len_bytes: None }];
    run(ops::merge_keeping(cow, origin, others, options, on_full, &Silent))
}

fn shown(cow: &Disk, origin: &Disk) -> Vec<u8> {
    let output = Disk::new(vec![0; origin.content().len()], 512, &Power::steady());
    run(ops::export(cow, origin, &output, Default::default(), &Silent)).expect("exported");
    output.content()
}

#[test]
fn another_snapshot_shows_what_it_showed_after_every_cut() {
    let pair = Pair::new(40);
    let whole = pair.disks(&Power::steady());
    let (merged, kept) = merge(&whole, OnFull::Fail).expect("merges");
    assert!(merged.finished && merged.exceptions == 60 && merged.bytes == 60 * 512);
    assert!(kept.len() == 1 && kept[0].valid && kept[0].chunks > 5, "{kept:?}");
    assert!(whole[1].content() == pair.merging.snapshot);
    assert!(shown(&whole[2], &whole[1]) == pair.other.snapshot);

    let power = Power::steady();
    merge(&pair.disks(&power), OnFull::Fail).expect("merges");
    let mut reboots = 0;
    for cut in 0..power.operations() {
        let disks = pair.disks(&Power::cut_after(cut));
        merge(&disks, OnFull::Fail).expect_err("the power was cut");
        let contents = disks.each_ref().map(|disk| disk.reboots(cut).take(40).collect::<Vec<_>>());
        for n in 0..contents.iter().map(Vec::len).max().unwrap_or(0) {
            let told = format!("cut after {cut}, survivors {n}");
            let steady = Power::steady();
            let disks = contents
                .each_ref()
                .map(|content| Disk::new(content[n % content.len()].clone(), 512, &steady));
            let [cow, origin, other] = &disks;
            assert!(shown(other, origin) == pair.other.snapshot, "the other, {told}");
            assert!(shown(cow, origin) == pair.merging.snapshot, "what merges, {told}");
            merge(&disks, OnFull::Fail).unwrap_or_else(|error| panic!("{error}: {told}"));
            assert!(disks[1].content() == pair.merging.snapshot, "{told}");
            assert!(shown(&disks[2], &disks[1]) == pair.other.snapshot, "{told}");
            reboots += 1;
        }
    }
    assert!(reboots > 1_500, "the world has become too small: {reboots}");
}

/// It is told before, and the merge stops before it or drops it, as the caller says.
#[test]
fn another_snapshot_without_room_stops_the_merge_or_is_dropped() {
    let pair = Pair::new(16);
    let [cow, origin, other] = &pair.disks(&Power::steady());
    let options = MergeOptions { window_bytes: WINDOW_BYTES, ..MergeOptions::default() };
    let others = [Other { name: "other".into(), cow: other, len_bytes: None }];
    let (plan, kept) =
        run(ops::plan_merge_keeping(&cow, origin, &others, options)).expect("planned");
    assert!(plan.exceptions == 60 && !kept[0].valid, "{kept:?}");

    let disks = pair.disks(&Power::steady());
    let error = merge(&disks, OnFull::Fail).expect_err("no room");
    assert!(matches!(error, Error::Live(_)), "{error}");
    assert!(shown(&disks[2], &disks[1]) == pair.other.snapshot, "kept");
    assert!(shown(&disks[0], &disks[1]) == pair.merging.snapshot, "consistent together");

    let (merged, kept) = merge(&disks, OnFull::Invalidate).expect("merges");
    assert!(merged.finished && !kept[0].valid);
    assert!(disks[1].content() == pair.merging.snapshot);
    assert!(!run(ops::info(&disks[2])).expect("a store").valid, "it says so");
}
