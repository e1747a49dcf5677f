use std::cell::Cell;

use dmsnap::device::{Device, Memory};
use dmsnap::format::{ChunkSize, StoreId};
use dmsnap::ops::{self, Diff, DiffOptions, DiffPage, DiffSide, Error, Silent, Which};
use dmsnap_sim::{Disk, Power, run};

use super::{SECTOR, SECTORS, all, between, memory, pages_are_the_whole, world};
use crate::common::bytes;
use crate::common::live::{data, origin};

fn refused(cow: &Memory, origin: &Memory, options: DiffOptions) -> Error {
    let listed = futures_executor::block_on(DiffSide::listed(cow, Some(origin), options));
    let readable = DiffSide::readable((cow, Which::Cow), origin, options);
    let readable = futures_executor::block_on(readable).map(|_| ()).expect_err("refused");
    let listed = listed.map(|_| ()).expect_err("refused");
    assert_eq!(listed.to_string(), readable.to_string());
    listed
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let world = world(&[3, 20]);
    let (cow, origin) = (memory(&world.cow), memory(&world.origin));
    let options = DiffOptions::default();
    let nothing = Memory::zeroed(1 << 16);
    assert!(matches!(refused(&nothing, &origin, options), Error::Header(_)));
    assert!(matches!(refused(&origin, &cow, options), Error::Swapped));
    // Of another origin, which is smaller than what the store has exceptions for.
    let short = memory(&world.origin[..16 * 2048]);
    assert!(matches!(refused(&cow, &short, options), Error::Damaged(_)));
    let cut = DiffOptions { len_bytes: Some(SECTORS * SECTOR + 100), ..options };
    assert!(matches!(refused(&cow, &origin, cut), Error::PartSectors { .. }));
    let mut dropped = world.clone();
    dropped.invalidate();
    assert!(matches!(refused(&memory(&dropped.cow), &origin, options), Error::Invalid));

    let side = futures_executor::block_on(DiffSide::listed(&cow, Some(&origin), options));
    let diff = between(
        side.expect("a side"),
        futures_executor::block_on(DiffSide::origin(&origin)).expect("a side"),
    );
    let end = SECTORS * SECTOR;
    let from = |from| {
        let page = DiffPage { from, most: None };
        futures_executor::block_on(diff.each(page, &Silent, |_| Ok(())))
    };
    assert_eq!(from(end).expect("nothing is left").ranges, 0);
    let past = from(end + 1).expect_err("past the end");
    assert!(
        matches!(past, Error::PastEnd { from, len_bytes } if from == end + 1 && len_bytes == end)
    );
}

#[test]
fn an_origin_that_was_written_past_its_store_is_refused_unless_told() {
    let origin = origin(SECTORS, &Power::steady());
    let size = ChunkSize::from_sectors(1).expect("legal");
    let len = ops::size_for(SECTORS * SECTOR, size, 100);
    let cow = Disk::new(vec![0; bytes(len)], 512, &Power::steady());
    let id = StoreId::new([7; 16]).expect("not zero");
    run(ops::create_for(&cow, &*origin, id, size, false)).expect("made");
    // Without the origin its size is known from the stores.
    let alone = |cow| run(DiffSide::<Disk, Disk>::listed(cow, None, DiffOptions::default()));
    let [a, b] = [alone(&cow), alone(&cow)].map(|side| side.expect("a side"));
    assert_eq!(between(a, b).len_bytes(), Some(SECTORS * SECTOR));
    // Another store of another origin, and neither origin is there.
    let other = Disk::new(data(5, SECTORS).to_vec(), 512, &Power::steady());
    let second = Disk::new(vec![0; bytes(len)], 512, &Power::steady());
    let id = StoreId::new([8; 16]).expect("not zero");
    run(ops::create_for(&second, &other, id, size, false)).expect("made");
    let sides = [&cow, &second].map(|cow| alone(cow).expect("a side"));
    let [a, b] = sides;
    let refused = Diff::new(a, b).map(|_| ());
    assert!(matches!(refused, Err(Error::TwoOrigins { .. })), "{refused:?}");
    run(origin.write(0, data(1 << 50, 1))).expect("written");
    let side = |ignore_fence| {
        let options = DiffOptions { ignore_fence, ..DiffOptions::default() };
        run(DiffSide::listed(&cow, Some(&*origin), options)).map(|_| ())
    };
    assert!(matches!(side(false), Err(Error::OriginChanged(_))));
    side(true).expect("goes on");
}

#[test]
fn what_only_the_longer_snapshot_has_is_a_difference() {
    let (short, long) = (world(&[2, 9]), world(&[2, 20]));
    let origin = memory(&short.origin);
    let cows = [memory(&short.cow), memory(&long.cow)];
    let len_bytes = Some(40 * SECTOR);
    for by_content in [false, true] {
        let side = |n: usize, len_bytes: Option<u64>| {
            let options = DiffOptions { len_bytes, ..DiffOptions::default() };
            let cow = (&cows[n], Which::Cow);
            let side = async {
                match by_content {
                    true => DiffSide::readable(cow, &origin, options).await,
                    false => DiffSide::listed(cow.0, Some(&origin), options).await,
                }
            };
            futures_executor::block_on(side).expect("a side")
        };
        let diff = between(side(0, len_bytes), side(1, None));
        assert_eq!(diff.len_bytes(), Some(SECTORS * SECTOR));
        let chunk = |n: u64| n * 2048..(n + 1) * 2048;
        // Both hold the same in chunk 2; chunk 9 touches what only the longer one has.
        let rest = 40 * SECTOR..SECTORS * SECTOR;
        let expected = [chunk(2), 36 * SECTOR..rest.end];
        let expected = &expected[usize::from(by_content)..];
        assert_eq!(all(&diff), expected, "{by_content}");
        pages_are_the_whole(&diff, SECTORS * SECTOR);
    }
}

#[test]
fn the_caller_ends_it_and_so_does_a_stop() {
    let world = world(&[3, 9, 20]);
    let (cow, origin) = (memory(&world.cow), memory(&world.origin));
    let side = DiffSide::readable((&cow, Which::Cow), &origin, DiffOptions::default());
    let side = futures_executor::block_on(side).expect("a side");
    let diff =
        between(side, futures_executor::block_on(DiffSide::origin(&origin)).expect("a side"));
    let told = Cell::new(0);
    let ended = diff.each(DiffPage::default(), &Silent, |_| {
        told.set(told.get() + 1);
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let ended = futures_executor::block_on(ended).expect_err("ended");
    assert!(matches!(ended, Error::Consumer(_)) && told.get() == 1, "{ended}");
    struct Stop;
    impl ops::Observer for Stop {
        fn stop_requested(&self) -> bool {
            true
        }
    }
    let stopped = diff.each(DiffPage::default(), &Stop, |_| Ok(()));
    let stopped = futures_executor::block_on(stopped).expect_err("stopped");
    assert!(matches!(stopped, Error::Stopped));
}
