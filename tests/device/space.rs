use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use dmsnap::device::{Allocation, Caching, Device, Mode};
use rustix::fs::FallocateFlags;

use crate::device::scratch::{Scratch, open, pattern, placed, run};

/// Every file system's blocks are at most this long.
const BLOCK: u64 = 64 << 10;

/// Of the files here.
const LEN: u64 = 64 * BLOCK;

/// Bytes that a file takes up on its disk.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).expect("the file is there").blocks() * 512
}

/// Whether the file system of `path` can do this to a range, asked without the code under test.
fn can(path: &Path, flags: FallocateFlags) -> bool {
    let file = fs::OpenOptions::new().write(true).open(path).expect("writable");
    let done = rustix::fs::fallocate(&file, flags | FallocateFlags::KEEP_SIZE, 0, BLOCK);
    if let Err(error) = done {
        eprintln!("SKIPPED a part: this file system cannot {flags:?}: {error}");
    }
    done.is_ok()
}

/// Aligned to blocks, to sectors, to nothing; within one block and across many.
fn ranges() -> [Range<u64>; 8] {
    [
        0..LEN,
        BLOCK..3 * BLOCK,
        512..1024,
        4096..4097,
        BLOCK - 1..BLOCK + 1,
        BLOCK + 511..9 * BLOCK + 513,
        7..LEN - 7,
        LEN - 1..LEN,
    ]
}

#[test]
fn zeroed_bytes_are_zero_and_their_neighbours_untouched() {
    let scratch = Scratch::new();
    run(async {
        for caching in [Caching::Direct, Caching::Buffered] {
            for allocation in [Allocation::MayPunch, Allocation::Keep] {
                for range in ranges() {
                    let told = format!("{caching:?}, {allocation:?}, {range:?}");
                    let mut model = pattern(5, usize::try_from(LEN).expect("small"));
                    let path = scratch.file("image", &model);
                    let file = open(&path, Mode::Write, caching).await;
                    let len = range.end - range.start;
                    file.write_zeroes(range.start, len, allocation).await.expect(&told);
                    let within = |n| usize::try_from(n).expect("small");
                    model[within(range.start)..within(range.end)].fill(0);
                    assert!(fs::read(&path).expect("readable") == model, "{told}");
                    let read = file.read(0, model.len()).await.expect("readable");
                    assert!(read[..] == model, "{told}: read through the device");
                }
            }
        }
    });
}

#[test]
fn zeroes_may_become_a_hole_or_keep_their_place() {
    let scratch = Scratch::new();
    run(async {
        for (allocation, flags) in [
            (Allocation::MayPunch, FallocateFlags::PUNCH_HOLE),
            (Allocation::Keep, FallocateFlags::ZERO_RANGE),
        ] {
            let path = scratch.file("image", &pattern(5, usize::try_from(LEN).expect("small")));
            let file = open(&path, Mode::Write, Caching::Direct).await;
            file.flush().await.expect("durable");
            let before = allocated(&path);
            assert!(before >= LEN);
            file.write_zeroes(BLOCK, LEN / 2, allocation).await.expect("zeroed");
            file.flush().await.expect("durable");
            let after = allocated(&path);
            match allocation {
                Allocation::Keep => assert_eq!(after, before),
                Allocation::MayPunch => {
                    let gone = if can(&path, flags) { LEN / 2 } else { 0 };
                    assert_eq!(after, before - gone);
                }
            }
        }
        // A hole becomes a place to write to.
        let path = scratch.hole("hole", LEN);
        if can(&path, FallocateFlags::ZERO_RANGE) {
            let file = open(&path, Mode::Write, Caching::Direct).await;
            file.write_zeroes(0, LEN, Allocation::Keep).await.expect("zeroed");
            assert!(allocated(&path) >= LEN, "{} bytes", allocated(&path));
        }
    });
}

#[test]
fn zeroes_never_make_a_file_longer() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[7; 5000]);
    run(async {
        let file = open(&path, Mode::Write, Caching::Direct).await;
        for allocation in [Allocation::MayPunch, Allocation::Keep] {
            for (at, len) in [(0, 5121), (5119, 2), (1 << 20, 4096), (u64::MAX, 2)] {
                let refused = file.write_zeroes(at, len, allocation).await;
                let kind = refused.err().map(|error| error.kind());
                assert_eq!(kind, Some(ErrorKind::UnexpectedEof), "{len} at {at}");
            }
            file.write_zeroes(5000, 0, allocation).await.expect("nothing is always possible");
        }
    });
    assert_eq!(fs::read(&path).expect("readable"), [7; 5000]);
}

#[test]
fn a_discard_gives_the_place_back_and_harms_no_neighbour() {
    let scratch = Scratch::new();
    let model = pattern(6, usize::try_from(LEN).expect("small"));
    let path = scratch.file("image", &model);
    run(async {
        let file = open(&path, Mode::Write, Caching::Direct).await;
        file.flush().await.expect("durable");
        let before = allocated(&path);
        match file.discard(4 * BLOCK, 8 * BLOCK).await {
            Ok(()) => assert_eq!(allocated(&path), before - 8 * BLOCK),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        }
        file.discard(BLOCK, 0).await.expect("nothing is always possible");
    });
    let found = fs::read(&path).expect("readable");
    let [from, to] = [4 * BLOCK, 12 * BLOCK].map(|n| usize::try_from(n).expect("small"));
    assert!(found[..from] == model[..from] && found[to..] == model[to..]);
    assert_eq!(found.len(), model.len());
}

/// All that `next_data` finds, from the first byte on.
async fn stretches(file: &impl Device) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    while let Some(data) =
        file.next_data(found.last().map_or(0, |last| last.end)).await.expect("asked")
    {
        assert!(data.start < data.end, "an empty stretch: {data:?}");
        found.push(data);
    }
    found
}

#[test]
fn data_is_found_between_holes() {
    let scratch = Scratch::new();
    let path = scratch.hole("image", LEN);
    let std = fs::OpenOptions::new().write(true).open(&path).expect("writable");
    let data = [2 * BLOCK..3 * BLOCK, 10 * BLOCK..20 * BLOCK, 63 * BLOCK..LEN];
    run(async {
        for caching in [Caching::Direct, Caching::Buffered] {
            let file = open(&path, Mode::Look, caching).await;
            if caching == Caching::Direct {
                assert_eq!(stretches(&file).await, [], "a file all hole");
                assert_eq!(file.next_data(5).await.expect("asked"), None);
            }
            for range in &data {
                let bytes =
                    pattern(range.start, usize::try_from(range.end - range.start).unwrap_or(0));
                std.write_all_at(&bytes, range.start).expect("written");
            }
            assert_eq!(stretches(&file).await, data, "{caching:?}");
            let [_, middle, last] = &data;
            let inside = middle.start + 5;
            assert_eq!(file.next_data(inside).await.expect("asked"), Some(inside..middle.end));
            assert_eq!(file.next_data(middle.end).await.expect("asked"), Some(last.clone()));
            for at in [LEN, LEN + 1, 1 << 40] {
                assert_eq!(file.next_data(at).await.expect("asked"), None, "at {at}");
            }
        }
        let full = scratch.file("full", &pattern(1, 70_001));
        let file = open(&full, Mode::Look, Caching::Direct).await;
        assert_eq!(file.next_data(0).await.expect("asked"), Some(0..70_001), "a file all data");
        assert_eq!(file.next_data(70_001).await.expect("asked"), None);
        let empty = scratch.file("empty", &[]);
        let file = open(&empty, Mode::Look, Caching::Direct).await;
        assert_eq!(stretches(&file).await, [], "an empty file");
    });
}

#[test]
fn the_length_follows_the_file() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[1; 1000]);
    run(async {
        let file = open(&path, Mode::Write, Caching::Direct).await;
        assert_eq!(file.len_bytes().expect("asked"), 1000);
        let std = fs::OpenOptions::new().write(true).open(&path).expect("writable");
        for len in [1 << 20, 77, 8192] {
            std.set_len(len).expect("resized by somebody else");
            assert_eq!(file.len_bytes().expect("asked"), len);
        }
        for len in [1 << 20, 4096, 0, 12_345] {
            file.set_len(len).await.expect("resized");
            assert_eq!(file.len_bytes().expect("asked"), len);
            assert_eq!(fs::metadata(&path).expect("there").len(), len);
        }
        assert!(file.read(0, 12_345).await.expect("readable").iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_flush_covers_writes_zeroes_and_growth() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[]);
    run(async {
        let file = open(&path, Mode::Write, Caching::Direct).await;
        file.set_len(LEN).await.expect("resized");
        file.write(0, placed(&pattern(1, 8192), 0)).await.expect("written");
        file.write(8191, placed(&pattern(2, 4097), 1)).await.expect("written");
        file.write_zeroes(4096, 4096, Allocation::Keep).await.expect("zeroed");
        file.flush().await.expect("durable");
        let looker = open(&path, Mode::Look, Caching::Direct).await;
        assert_eq!(looker.len_bytes().expect("asked"), LEN);
        assert!(looker.flush().await.is_ok(), "a reader may flush");
    });
    let found = fs::read(&path).expect("readable");
    assert!(found[..4096] == pattern(1, 8192)[..4096]);
    assert!(found[4096..8192].iter().all(|byte| *byte == 0));
    assert!(found[8192..12_288] == pattern(2, 4097)[1..]);
}

#[test]
fn a_block_is_a_power_of_two_between_a_sector_and_a_page() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[0; 4096]);
    run(async {
        for caching in [Caching::Direct, Caching::Buffered] {
            let block = open(&path, Mode::Read, caching).await.block_bytes();
            assert!(block.is_power_of_two() && (512..=4096).contains(&block), "{block}");
        }
    });
}

/// A file grows and never shrinks, also if two ask for it at once; what was there stays.
#[test]
fn a_file_grows_and_never_shrinks() {
    let scratch = Scratch::new();
    run(async {
        for caching in [Caching::Direct, Caching::Buffered] {
            let path = scratch.file("grows", &pattern(3, 10_000));
            let file = open(&path, Mode::Write, caching).await;
            let (more, less) = (file.grow(1 << 20), file.grow(1 << 19));
            let (more, less) = futures_util::future::join(more, less).await;
            more.and(less).expect("grown");
            assert_eq!(file.len_bytes().expect("a size"), 1 << 20);
            file.grow(1).await.expect("long enough");
            let found = fs::read(&path).expect("readable");
            assert!(found.len() == 1 << 20 && found.starts_with(&pattern(3, 10_000)));
            assert!(found[10_000..].iter().all(|byte| *byte == 0));
        }
    });
}
