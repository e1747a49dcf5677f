//! A snapshot has its own size: its origin may have been made longer since.

use std::io::ErrorKind;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Device, DynDevice, Memory};
use dmsnap::format::ChunkSize;
use dmsnap::ops::{self, ExportOptions, MergeOptions, Silent};
use dmsnap::store::format;
use dmsnap::volume::{MergeState, SnapshotOptions, View};
use dmsnap_sim::run;

use crate::common::live::{AnySnapshot, AnyVolume, any_volume, read_all};

const CHUNK: u64 = 4096;

/// The snapshot ends two sectors into its last chunk, and the origin goes on past it.
const SNAPSHOT: u64 = 5 * CHUNK + 1024;
const ORIGIN: u64 = 9 * CHUNK;

struct World {
    origin: Rc<Memory>,
    cow: Rc<Memory>,
    volume: Rc<AnyVolume>,
    snapshot: Rc<AnySnapshot>,
    /// What the snapshot shows.
    shown: Vec<u8>,
}

fn options() -> SnapshotOptions {
    SnapshotOptions { len_bytes: Some(SNAPSHOT), ..SnapshotOptions::default() }
}

fn world() -> World {
    let content: Vec<u8> = (0..ORIGIN).map(|n| u8::try_from(n / 512 + 1).expect("small")).collect();
    let shown = content[..5 * 4096 + 1024].to_vec();
    let origin = Rc::new(Memory::from(content));
    let cow = Rc::new(Memory::zeroed(64 * 4096));
    run(format(&cow, ChunkSize::from_sectors(8).expect("legal"))).expect("formats");
    let volume = any_volume(origin.clone());
    let opened = volume.open("s", DynDevice::new(cow.clone()), options());
    let snapshot = run(opened).expect("added");
    World { origin, cow, volume, snapshot, shown }
}

fn filled(byte: u8, len: usize) -> Bytes {
    vec![byte; len].into()
}

/// Kernels go by where a write begins: past the snapshot's end nothing is kept, not even in its last chunk.
#[test]
fn origin_writes_past_the_end_are_not_kept() {
    let World { volume, snapshot, shown, cow, .. } = world();
    let (origin, view) = (View::origin(&volume), View::snapshot(&volume, &snapshot));
    assert_eq!((view.len_bytes().expect("a size"), snapshot.len_bytes()), (SNAPSHOT, SNAPSHOT));
    for at in [SNAPSHOT, 6 * CHUNK, ORIGIN - 512] {
        run(origin.write(at, filled(0xEE, 512))).expect("written");
    }
    run(origin.discard(7 * CHUNK, CHUNK)).expect("discarded");
    assert_eq!(snapshot.exceptions(), 0);
    assert_eq!(cow.content()[4096..8192], [0; 4096]);
    // One that begins before the end keeps what lies in it.
    run(origin.write(SNAPSHOT - 512, filled(0xDD, 4096))).expect("written");
    assert_eq!(snapshot.exceptions(), 1);
    assert_eq!(read_all(&view), shown);
    let past = run(view.read(SNAPSHOT - 512, 1024)).expect_err("past the end");
    assert_eq!(past.kind(), ErrorKind::UnexpectedEof);
    assert!(run(view.write(SNAPSHOT, filled(1, 512))).is_err());
    assert!(run(view.layers(0..SNAPSHOT + 512, 9)).is_err());
    assert_eq!(run(view.next_data(SNAPSHOT)).expect("answers"), None);
}

/// What is not the snapshot's has changed, for all that it knows.
#[test]
fn what_lies_past_the_end_is_told_as_changed() {
    let World { volume, snapshot, .. } = world();
    let told = volume.changed_since(&snapshot, 0..ORIGIN, 9).expect("it tells");
    assert_eq!(told, [(SNAPSHOT, false), (ORIGIN - SNAPSHOT, true)]);
}

/// Live and offline: a merge touches nothing past the snapshot's end, although the last chunk holds more.
#[test]
fn a_merge_ends_where_the_snapshot_does() {
    for live in [true, false] {
        let World { origin, cow, volume, snapshot, mut shown } = world();
        let (under, view) = (View::origin(&volume), View::snapshot(&volume, &snapshot));
        run(view.write(SNAPSHOT - 1024, filled(0xAA, 1024))).expect("the last part");
        run(view.write(CHUNK, filled(0xBB, 4096))).expect("a whole chunk");
        shown[5 * 4096..].fill(0xAA);
        shown[4096..8192].fill(0xBB);
        run(under.write(SNAPSHOT, filled(0xCC, 3072))).expect("the rest of the last chunk");
        run(view.flush()).expect("flushed");
        assert_eq!(read_all(&view), shown);
        let mut expected = origin.content();
        expected[..shown.len()].copy_from_slice(&shown);
        if live {
            run(volume.start_merge(&snapshot)).expect("starts");
            assert_eq!(read_all(&under), expected, "one device, and the rest of the origin");
            run(under.write(SNAPSHOT - 512, filled(0x11, 1024))).expect("over the end");
            expected[5 * 4096 + 512..][..1024].fill(0x11);
            assert_eq!(read_all(&under), expected);
            let state = run(volume.run_merge(1 << 20, &Silent)).expect("merges");
            assert_eq!(state, MergeState::Finished);
            assert_eq!(read_all(&under), expected);
        } else {
            drop((under, view));
            let told = MergeOptions { len_bytes: Some(SNAPSHOT), ..MergeOptions::default() };
            let merged = run(ops::merge(&cow, &origin, told, &Silent)).expect("merges");
            assert_eq!((merged.finished, merged.bytes), (true, 4096 + 1024));
        }
        assert_eq!(origin.content(), expected, "live: {live}");
    }
}

/// An export is as long as the snapshot, and what lies past that is damage.
#[test]
fn exports_and_checks_go_by_the_snapshots_size() {
    let World { origin, cow, volume, snapshot, shown } = world();
    run(View::origin(&volume).write(0, filled(0x99, 8192))).expect("written");
    run(volume.flush_all()).expect("flushed");
    assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), shown);
    let image = Memory::zeroed(shown.len());
    let told = ExportOptions { len_bytes: Some(SNAPSHOT), ..ExportOptions::default() };
    let exported = run(ops::export(&cow, &origin, &image, told, &Silent)).expect("exports");
    assert_eq!((exported.image_bytes, image.content()), (SNAPSHOT, shown));
    let mut findings = Vec::new();
    let check = |len, findings: &mut Vec<String>| {
        let told =
            ops::check_sized(&cow, Some(&origin), Some(len), |it| findings.push(it.to_string()));
        run(told).expect("readable").sound
    };
    assert!(check(SNAPSHOT, &mut findings), "{findings:?}");
    assert!(!check(CHUNK, &mut findings), "an exception past the snapshot's end");
}

#[test]
fn a_size_that_nothing_can_have_is_refused() {
    let World { origin, cow, volume, .. } = world();
    for len in [SNAPSHOT + 1, u64::MAX - 511] {
        let options = SnapshotOptions { len_bytes: Some(len), ..SnapshotOptions::default() };
        let refused =
            run(volume.open("t", DynDevice::new(cow.clone()), options)).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
    }
    {
        let len = SNAPSHOT + 1;
        let told = MergeOptions { len_bytes: Some(len), ..MergeOptions::default() };
        assert!(run(ops::merge(&cow, &origin, told, &Silent)).is_err());
        let told = ExportOptions { len_bytes: Some(len), ..ExportOptions::default() };
        let image = Memory::zeroed(1 << 20);
        assert!(run(ops::export(&cow, &origin, &image, told, &Silent)).is_err());
        assert!(run(ops::check_sized(&cow, Some(&origin), Some(len), |_| {})).is_err());
    }
}

/// Nothing of an origin whose length is not a multiple of 512 is lost: its last sector is filled with zeroes.
#[test]
fn the_last_sector_of_an_origin_is_whole() {
    let content: Vec<u8> =
        (0..130_000_u32).map(|n| u8::try_from(n % 251 + 1).expect("small")).collect();
    let mut whole = content.clone();
    whole.resize(130_048, 0);
    let origin = Rc::new(Memory::from(content));
    let cow = Rc::new(Memory::zeroed(64 * 4096));
    run(format(&cow, ChunkSize::from_sectors(8).expect("legal"))).expect("formats");
    let image = Memory::zeroed(130_048);
    let exported = run(ops::export(&cow, &origin, &image, ExportOptions::default(), &Silent));
    assert_eq!(exported.expect("exports").image_bytes, 130_048);
    assert_eq!(image.content(), whole);

    let volume = any_volume(origin.clone());
    let opened = volume.open("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    let snapshot = run(opened).expect("added");
    let (under, view) = (View::origin(&volume), View::snapshot(&volume, &snapshot));
    assert_eq!((read_all(&under), read_all(&view)), (whole.clone(), whole.clone()));
    assert_eq!(origin.content().len(), 130_000, "nobody wrote");
    run(under.write(129_536, filled(0x55, 512))).expect("the last sector");
    assert_eq!(read_all(&view), whole);
    run(view.flush()).expect("flushed");
    drop((under, view));
    let merged = run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).expect("merges");
    assert!(merged.finished);
    assert_eq!(origin.content(), whole);
}
