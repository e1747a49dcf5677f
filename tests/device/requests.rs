use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;
use dmsnap::device::{Allocation, Caching, Device, File, Mode};
use proptest::prelude::*;

use crate::device::scratch::{Scratch, open, pattern, placed, run, run_polling};

const WAYS: [Caching; 2] = [Caching::Direct, Caching::Buffered];

/// Positions, lengths and places in memory: aligned to 4096, to 512, to nothing.
const POSITIONS: [u64; 7] = [0, 512, 4096, 5120, 65_536, 1, 70_001];
const LENS: [usize; 8] = [4096, 512, 65_536, 3 << 20, 1, 511, 4097, 12_345];
const PLACES: [usize; 4] = [0, 512, 8, 3];

/// Longer than every request of these tables, and no multiple of 512.
const FILE_BYTES: usize = (4 << 20) + 777;

/// Fails unless the file holds `expected`, as another reader sees it.
fn assert_holds(path: &Path, expected: &[u8], told: &str) {
    let found = fs::read(path).expect("the file is readable");
    assert_eq!(found.len(), expected.len(), "{told}: another length");
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("{told}: byte {at} is {}, not {}", found[at], expected[at]);
    }
}

async fn assert_reads(file: &File, at: u64, expected: &[u8], told: &str) {
    let found = file.read(at, expected.len()).await;
    let found = found.unwrap_or_else(|error| panic!("{told}: {error}"));
    assert!(found[..] == *expected, "{told}: other bytes came back");
}

/// Writes every combination of the tables, reads it back through both ways.
async fn round_trips(scratch: &Scratch) {
    for caching in WAYS {
        let mut model = pattern(1, FILE_BYTES);
        let path = scratch.file("image", &model);
        let file = open(&path, Mode::Write, caching).await;
        let other = open(&path, Mode::Look, Caching::Buffered).await;
        let mut seed = 2;
        for at in POSITIONS {
            for (len, place) in LENS.into_iter().flat_map(|len| PLACES.map(|it| (len, it))) {
                let told = format!("{caching:?}: {len} bytes at {at}, memory at {place}");
                let data = pattern(seed, len);
                seed += 1;
                let range = usize::try_from(at).expect("small")..;
                model[range][..len].copy_from_slice(&data);
                let written = file.write(at, placed(&data, place)).await;
                written.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_reads(&file, at, &data, &told).await;
                assert_reads(&other, at, &data, &told).await;
            }
        }
        assert_holds(&path, &model, &format!("{caching:?}: at the end"));
        assert_reads(&file, 0, &model, "the whole file").await;
    }
}

#[test]
fn what_is_written_is_read_at_every_alignment() {
    run(round_trips(&Scratch::new()));
}

#[test]
fn without_io_uring_too() {
    run_polling(round_trips(&Scratch::new()));
    run_polling(many_pieces(&Scratch::new()));
    run_polling(ends(&Scratch::new()));
    run_polling(many_at_once(&Scratch::new()));
}

/// The direct way must really be one, or the tests above test the page cache twice.
#[test]
fn direct_is_direct_where_the_file_system_can() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[0; 8192]);
    let mut options = fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), flags);
    let can = options.open(&path).is_ok();
    run(async {
        assert_eq!(open(&path, Mode::Read, Caching::Direct).await.is_direct(), can);
        assert!(!open(&path, Mode::Read, Caching::Buffered).await.is_direct());
    });
}

/// More pieces than the kernel takes in one request; of one length, of many, some of them empty.
async fn many_pieces(scratch: &Scratch) {
    for caching in WAYS {
        for at in [0, 4096, 513] {
            let lens = [vec![4096; 1500], (0..2500).map(|n| n * 37 % 1025).collect()];
            for lens in lens {
                let path = scratch.file("image", &[]);
                let file = open(&path, Mode::Write, caching).await;
                let len: usize = lens.iter().sum();
                let data = pattern(len as u64, len);
                let mut rest = Bytes::from(data.clone());
                let pieces = lens.iter().map(|&len| placed(&rest.split_to(len), 0)).collect();
                file.write_vectored(at, pieces).await.expect("the pieces can be written");
                let hole = vec![0; usize::try_from(at).expect("small")];
                let told = format!("{caching:?}: {} pieces at {at}", lens.len());
                assert_holds(&path, &[hole, data].concat(), &told);
            }
        }
    }
}

#[test]
fn a_vectored_write_takes_any_number_of_pieces() {
    run(many_pieces(&Scratch::new()));
}

/// Files that end anywhere: the last byte is read, and zeroes to the end of its sector, but nothing after that.
async fn ends(scratch: &Scratch) {
    for caching in WAYS {
        for len in [0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 10_000] {
            let content = pattern(9, len);
            let path = scratch.file("image", &content);
            let file = open(&path, Mode::Read, caching).await;
            assert_reads(&file, 0, &content, &format!("{caching:?}: all {len} bytes")).await;
            for at in [0, len / 2, len] {
                for over in [1, 512, 4096] {
                    let read = file.read(at as u64, len - at + over).await;
                    let told = format!("{caching:?}: {over} too many from {at} of {len}");
                    if len + over <= len.next_multiple_of(512) {
                        let read = read.expect("the last sector is whole");
                        assert!(read[..len - at] == content[at..], "{told}");
                        assert!(read[len - at..].iter().all(|byte| *byte == 0), "{told}");
                        continue;
                    }
                    let kind = read.err().map(|error| error.kind());
                    assert_eq!(kind, Some(ErrorKind::UnexpectedEof), "{told}");
                }
            }
            let nothing = file.read(len as u64, 0).await.expect("nothing is always there");
            assert!(nothing.is_empty());
        }
    }
}

#[test]
fn reading_past_the_end_is_an_error_and_up_to_it_is_not() {
    run(ends(&Scratch::new()));
}

/// More requests in flight than any queue is long.
async fn many_at_once(scratch: &Scratch) {
    const REQUESTS: usize = 3000;
    for caching in WAYS {
        let model = pattern(3, REQUESTS * 4096);
        let path = scratch.hole("image", model.len() as u64);
        let file = open(&path, Mode::Write, caching).await;
        let write = |n: usize| file.write(n as u64 * 4096, placed(&model[n * 4096..][..4096], 0));
        let written = futures_util::future::join_all((0..REQUESTS).map(write)).await;
        assert!(written.iter().all(Result::is_ok), "{caching:?}: {written:?}");
        let read = |n: usize| file.read(n as u64 * 4096, 4096);
        let read = futures_util::future::join_all((0..REQUESTS).map(read)).await;
        for (n, read) in read.into_iter().enumerate() {
            assert!(read.expect("readable")[..] == model[n * 4096..][..4096], "request {n}");
        }
        file.flush().await.expect("it can be made durable");
        assert_holds(&path, &model, "many at once");
    }
}

#[test]
fn thousands_of_requests_may_be_in_flight() {
    run(many_at_once(&Scratch::new()));
}

/// What a file may be asked to do.
#[derive(Clone, Debug)]
enum Request {
    Write { at: u64, len: usize, place: usize },
    Vectored { at: u64, lens: Vec<usize> },
    Zero { at: u64, len: usize, allocation: Allocation },
    Read { at: u64, len: usize },
    Flush,
}

const SMALL_BYTES: usize = (256 << 10) + 700;

/// Multiples of 4096, of 512, and anything, each as likely.
fn byte(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        (0..=most / 4096).prop_map(|n| n * 4096),
        (0..=most / 512).prop_map(|n| n * 512),
        0..=most,
    ]
}

/// A range inside the file.
fn range() -> impl Strategy<Value = (u64, usize)> {
    (byte(SMALL_BYTES), byte(SMALL_BYTES / 4))
        .prop_map(|(at, len)| (at as u64, len.min(SMALL_BYTES - at)))
}

fn request() -> impl Strategy<Value = Request> {
    let place = prop_oneof![Just(0), Just(512), 0..64usize];
    let allocation = prop_oneof![Just(Allocation::MayPunch), Just(Allocation::Keep)];
    let vectored = (byte(SMALL_BYTES / 2), prop::collection::vec(byte(16_384), 0..8));
    prop_oneof![
        4 => (range(), place).prop_map(|((at, len), place)| Request::Write { at, len, place }),
        2 => vectored.prop_map(|(at, lens)| Request::Vectored { at: at as u64, lens }),
        1 => (range(), allocation)
            .prop_map(|((at, len), allocation)| Request::Zero { at, len, allocation }),
        4 => range().prop_map(|(at, len)| Request::Read { at, len }),
        1 => Just(Request::Flush),
    ]
}

/// Does `request` to the file and to the model; `eyes` all see the same afterwards.
async fn perform(file: &File, eyes: &[File], model: &mut [u8], seed: u64, request: &Request) {
    let told = format!("{request:?}");
    let mut put = |at: u64, bytes: &[u8]| {
        model[usize::try_from(at).expect("small")..][..bytes.len()].copy_from_slice(bytes);
    };
    match request {
        &Request::Write { at, len, place } => {
            let data = pattern(seed, len);
            put(at, &data);
            file.write(at, placed(&data, place)).await.expect(&told);
        }
        Request::Vectored { at, lens } => {
            let data = pattern(seed, lens.iter().sum());
            put(*at, &data);
            let mut rest = Bytes::from(data);
            let pieces = lens.iter().map(|&len| placed(&rest.split_to(len), 0)).collect();
            file.write_vectored(*at, pieces).await.expect(&told);
        }
        &Request::Zero { at, len, allocation } => {
            put(at, &vec![0; len]);
            file.write_zeroes(at, len as u64, allocation).await.expect(&told);
        }
        &Request::Read { at, len } => {
            let expected = &model[usize::try_from(at).expect("small")..][..len];
            for eye in eyes.iter().chain([file]) {
                assert_reads(eye, at, expected, &told).await;
            }
        }
        Request::Flush => file.flush().await.expect(&told),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// One writes, three read: the same way and the other one, and a stranger at the end.
    #[test]
    fn any_mix_of_requests_leaves_what_the_model_says(
        direct in any::<bool>(),
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let scratch = Scratch::new();
        let mut model = pattern(0, SMALL_BYTES);
        let path = scratch.file("image", &model);
        run(async {
            let caching = if direct { Caching::Direct } else { Caching::Buffered };
            let file = open(&path, Mode::Write, caching).await;
            let mut eyes = Vec::new();
            for way in WAYS {
                eyes.push(open(&path, Mode::Look, way).await);
            }
            for (seed, request) in (1..).zip(&requests) {
                perform(&file, &eyes, &mut model, seed, request).await;
            }
        });
        assert_holds(&path, &model, "at the end");
    }
}
