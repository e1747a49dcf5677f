//! A snapshot that is longer than its origin: zeroes follow what the origin has.

use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Device, DynDevice, Memory};
use dmsnap::format::{ChunkSize, StoreId, Tag};
use dmsnap::ops::{self, ExportOptions, MergeOptions, Silent};
use dmsnap::store::{format, write_tag};
use dmsnap::volume::{Layer, SnapshotOptions, View, VolumeError};
use dmsnap_sim::run;

use crate::common::live::{AnySnapshot, AnyVolume, any_volume, read_all};

const CHUNK: u64 = 4096;

/// It ends two sectors into a chunk.
const ORIGIN: u64 = 3 * CHUNK + 1024;

/// Where a snapshot may end: in the origin's last chunk, with it, in a later one.
const ENDS: [u64; 4] = [ORIGIN + 512, 4 * CHUNK, 6 * CHUNK + 512, 8 * CHUNK];

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

fn chunk_size() -> ChunkSize {
    ChunkSize::from_sectors(8).expect("legal")
}

/// Not zero anywhere.
fn content() -> Vec<u8> {
    (0..ORIGIN).map(|n| u8::try_from(n / 512 + 1).expect("small")).collect()
}

struct World {
    origin: Rc<Memory>,
    cow: Rc<Memory>,
    volume: Rc<AnyVolume>,
    snapshot: Rc<AnySnapshot>,
    /// What the snapshot shows.
    shown: Vec<u8>,
}

fn options(len: u64) -> SnapshotOptions {
    SnapshotOptions { len_bytes: Some(len), ..SnapshotOptions::default() }
}

impl World {
    /// Chunks of the COW device hold something: what is not written shows.
    fn new(len: u64) -> Self {
        let origin = Rc::new(Memory::from(content()));
        let cow = Rc::new(Memory::from([0xEE; 4096].repeat(64)));
        run(format(&cow, chunk_size())).expect("formats");
        Self::open(origin, cow, len)
    }

    fn open(origin: Rc<Memory>, cow: Rc<Memory>, len: u64) -> Self {
        let volume = any_volume(origin.clone());
        let snapshot = run(volume.open("s", DynDevice::new(cow.clone()), options(len)));
        let snapshot = snapshot.expect("added");
        let mut shown = content();
        shown.resize(index(len), 0);
        Self { origin, cow, volume, snapshot, shown }
    }

    fn view(&self) -> View<DynDevice, DynDevice> {
        View::snapshot(&self.volume, &self.snapshot)
    }

    fn write(&mut self, at: u64, len: u64, byte: u8) {
        let data: Bytes = vec![byte; index(len)].into();
        run(self.view().write(at, data)).expect("written");
        self.shown[index(at)..index(at + len)].fill(byte);
    }

    /// Live, from the store alone, and once it is opened again.
    #[track_caller]
    fn assert_shown(&self, what: &str) {
        let len = self.shown.len() as u64;
        assert!(read_all(&self.view()) == self.shown, "{what}: live");
        run(self.volume.flush_all()).expect("flushed");
        let told = ExportOptions { len_bytes: Some(len), ..ExportOptions::default() };
        let image = Memory::zeroed(self.shown.len());
        run(ops::export(&self.cow, &self.origin, &image, told, &Silent)).expect("exports");
        assert!(image.content() == self.shown, "{what}: exported");
        let mut findings = Vec::new();
        let checked = ops::check_sized(&self.cow, Some(&self.origin), Some(len), |it| {
            findings.push(it.to_string());
        });
        assert!(run(checked).expect("readable").sound, "{what}: {findings:?}");
        let compared = ops::compare(&self.cow, &self.origin, &image, told, &Silent);
        assert!(run(compared).expect("compared").same, "{what}: compared");
        let cow = Rc::new(Memory::from(self.cow.content()));
        let again = Self::open(Rc::new(Memory::from(self.origin.content())), cow, len);
        assert!(read_all(&again.view()) == self.shown, "{what}: opened again");
    }
}

#[test]
fn zeroes_follow_the_origin() {
    for len in ENDS {
        let world = World::new(len);
        world.assert_shown("untouched");
        let view = world.view();
        assert_eq!(view.len_bytes().expect("a size"), len);
        let layers = run(view.layers(0..len, 16)).expect("told");
        assert_eq!(layers, [(ORIGIN, Layer::Origin), (len - ORIGIN, Layer::Hole)]);
        assert!(run(view.next_data(ORIGIN)).expect("told").is_none());
        run(view.read(len - 512, 1024)).expect_err("past the end");
        assert_eq!(View::origin(&world.volume).len_bytes().expect("a size"), ORIGIN);
    }
}

/// Every write of whole sectors, of one to nine of them, and the zeroing of the same.
#[test]
fn what_is_written_anywhere_is_read_and_its_neighbours_stay() {
    for len in ENDS {
        for start in 0..len / 512 {
            for sectors in [1, 2, 8, 9] {
                let (at, bytes) = (start * 512, sectors * 512);
                if at + bytes > len {
                    continue;
                }
                let mut world = World::new(len);
                world.write(at, bytes, 0x77);
                world.assert_shown(&format!("{len}: {bytes} bytes at {at}"));
                run(world.view().write_zeroes(at, bytes, Allocation::MayPunch)).expect("zeroed");
                world.shown[index(at)..index(at + bytes)].fill(0);
                assert!(read_all(&world.view()) == world.shown, "zeroed {bytes} bytes at {at}");
            }
        }
    }
}

/// The old data of the origin's last chunk is kept with the zeroes after it.
#[test]
fn an_origin_write_keeps_what_the_snapshot_shows() {
    for len in ENDS {
        for at in (0..ORIGIN).step_by(512) {
            let world = World::new(len);
            let origin = View::origin(&world.volume);
            run(origin.write(at, vec![0x55; 512].into())).expect("written");
            run(origin.write(ORIGIN, vec![0x55; 512].into())).expect_err("past its end");
            world.assert_shown(&format!("{len}: an origin write at {at}"));
            assert_eq!(world.origin.content().len() as u64, ORIGIN);
        }
    }
}

#[test]
fn discards_past_the_origin_do_not_reach_it() {
    let origin = Rc::new(Memory::from(content()));
    let cow = Rc::new(Memory::zeroed(64 * 4096));
    run(format(&cow, chunk_size())).expect("formats");
    let volume = any_volume(origin.clone());
    let options =
        SnapshotOptions { discard_zeroes: true, discard_passdown: true, ..options(8 * CHUNK) };
    let opened = volume.open("s", DynDevice::new(cow), options);
    let view = View::snapshot(&volume, &run(opened).expect("added"));
    run(view.write(5 * CHUNK, vec![7; 4096].into())).expect("written");
    for (at, len) in [(4 * CHUNK, 4 * CHUNK), (2 * CHUNK, 3 * CHUNK), (0, 8 * CHUNK)] {
        run(view.discard(at, len)).expect("discarded");
    }
    assert!(run(view.read(5 * CHUNK, 4096)).expect("read").iter().all(|byte| *byte == 0));
    assert_eq!(origin.content().len() as u64, ORIGIN);
}

#[test]
fn a_longer_snapshot_is_merged_only_if_the_origin_has_room_for_all_it_holds() {
    let mut world = World::new(8 * CHUNK);
    let merge = |world: &World| {
        let tag = Tag::new(StoreId::new([3; 16]).expect("not zero"));
        let tag = Tag { snapshot_bytes: 8 * CHUNK, ..tag };
        run(write_tag(&world.cow, chunk_size(), &tag)).expect("written");
        run(ops::merge(&world.cow, &world.origin, MergeOptions::default(), &Silent))
    };
    world.write(CHUNK, 512, 0x77);
    let refused = run(world.volume.start_merge(&world.snapshot)).expect_err("longer");
    assert!(matches!(refused, VolumeError::SizeTooLarge { .. }), "{refused}");
    run(world.volume.flush_all()).expect("flushed");
    assert!(merge(&world).expect("all of it has a place").finished);
    assert!(world.origin.content() == world.shown[..index(ORIGIN)]);

    for at in [3 * CHUNK, 7 * CHUNK] {
        let mut world = World::new(8 * CHUNK);
        world.write(at, 512, 0x77);
        run(world.volume.flush_all()).expect("flushed");
        let before = world.origin.content();
        let refused = merge(&world).expect_err("it would be cut off");
        assert!(matches!(refused, ops::Error::OriginTooSmall { .. }), "{refused}");
        assert!(world.origin.content() == before);
    }
}

#[test]
fn a_store_remembers_the_size_of_what_it_shows() {
    for len in [8 * CHUNK, 2 * CHUNK + 512] {
        let origin = Rc::new(Memory::from(content()));
        let cow = Rc::new(Memory::zeroed(64 * 4096));
        let tag = Tag::new(StoreId::new([3; 16]).expect("not zero"));
        let tag = Tag { snapshot_bytes: len, ..tag };
        run(ops::create_tagged(&cow, chunk_size(), tag, false)).expect("made");
        let owner = run(ops::info(&cow)).expect("read").owner.expect("it has a tag");
        assert_eq!(owner.snapshot_bytes, len);
        let mut shown = content();
        shown.resize(index(len), 0);
        let image = Memory::zeroed(shown.len());
        let exported = ops::export(&cow, &origin, &image, ExportOptions::default(), &Silent);
        assert_eq!(run(exported).expect("exports").image_bytes, len);
        assert!(image.content() == shown);
        let volume = any_volume(origin.clone());
        let opened = volume.open("s", DynDevice::new(cow), SnapshotOptions::default());
        let snapshot = run(opened).expect("added");
        assert_eq!(snapshot.len_bytes(), len);
        assert!(read_all(&View::snapshot(&volume, &snapshot)) == shown);
    }
}
