//! An opening of a store for writing relies on every exception that is read, also after a power cut.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, DynDevice, Memory};
use dmsnap::ops::{self, MergeOptions};
use dmsnap::store::{Persistent, Strays};
use dmsnap::volume::{SnapshotOptions, View};
use dmsnap_sim::{Disk, Power, run};

use crate::common::World;
use crate::common::live::{AnyView, AnyVolume, SECTOR, any_volume, data, read_all};

#[test]
fn what_an_opening_has_read_is_durable() {
    let before = World::new(1, 120, 100).with_exceptions(&[3, 5]);
    let mut after = before.clone();
    after.put_slot(2, 7, after.layout.lock_step_chunk(2).get());
    let disk = Disk::new(before.cow, 512, &Power::steady());
    // Somebody was killed between the slots and their flush.
    run(disk.write(512, Bytes::copy_from_slice(&after.cow[512..1024]))).expect("written");
    let exceptions =
        |content: Vec<u8>| run(ops::info(&Memory::from(content))).expect("a store").exceptions;
    let mut found: Vec<_> = disk.reboots(1).map(&exceptions).collect();
    found.sort_unstable();
    assert_eq!(found, [2, 3], "nobody knows yet");
    let mut seen = 0;
    run(Persistent::open(&disk, None, Strays::Refuse, |_| seen += 1)).expect("opens");
    assert_eq!(seen, 3);
    assert!(disk.reboots(1).all(|content| exceptions(content) == 3));
}

/// A file as Linux has it: reads see its pages, and a flush that fails leaves those that could not be
/// written as they are, as if they had been. It outlives the processes that open it.
#[derive(Clone)]
struct Pages {
    medium: Rc<RefCell<Vec<u8>>>,
    seen: Rc<RefCell<Vec<u8>>>,
    dirty: Rc<RefCell<Vec<bool>>>,
    /// After this many more flushes nothing reaches the medium.
    good: Rc<Cell<Option<u32>>>,
}

impl Pages {
    fn new(content: &[u8]) -> Self {
        Self {
            medium: Rc::new(content.to_vec().into()),
            seen: Rc::new(content.to_vec().into()),
            dirty: Rc::new(vec![false; content.len()].into()),
            good: Rc::default(),
        }
    }

    /// What the medium has, or should have: what waits to be written is not given up.
    fn without_cache(&self) -> Vec<u8> {
        let (medium, seen, dirty) = (self.medium.borrow(), self.seen.borrow(), self.dirty.borrow());
        let bytes = medium.iter().zip(seen.iter()).zip(dirty.iter());
        bytes.map(|((medium, seen), dirty)| if *dirty { *seen } else { *medium }).collect()
    }

    fn write_back(&self) -> io::Result<()> {
        let seen = self.seen.borrow();
        let fails = self.good.get() == Some(0);
        for (at, dirty) in self.dirty.borrow_mut().iter_mut().enumerate() {
            if std::mem::take(dirty) && !fails {
                self.medium.borrow_mut()[at] = seen[at];
            }
        }
        self.good.set(self.good.get().map(|left| left.saturating_sub(1)));
        match fails {
            true => Err(io::Error::other("the disk is away for a moment")),
            false => Ok(()),
        }
    }

    /// Another process has the device now, or after a power cut what the medium has.
    fn content_of_the_medium(&self) -> Vec<u8> {
        self.medium.borrow().clone()
    }
}

impl Device for Pages {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let at = usize::try_from(at).expect("small");
        Ok(Buffer::copy_of(&self.seen.borrow()[at..at + len]))
    }

    /// As direct reads do, it leaves the cache as it is.
    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let at = usize::try_from(at).expect("small");
        Ok(Buffer::copy_of(&self.without_cache()[at..at + len]))
    }

    async fn forget_cached(&self) -> io::Result<()> {
        let found = self.without_cache();
        self.seen.replace(found);
        Ok(())
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        let at = usize::try_from(at).expect("small");
        self.seen.borrow_mut()[at..at + data.len()].copy_from_slice(&data);
        self.dirty.borrow_mut()[at..at + data.len()].fill(true);
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        self.write(at, vec![0; usize::try_from(len).expect("small")].into()).await
    }

    async fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        self.write_back()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.seen.borrow().len() as u64)
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

fn open_volume(origin: &Pages, cow: &Pages) -> (Rc<AnyVolume>, AnyView) {
    let volume = any_volume(origin.clone());
    let opened = volume.open("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    let snapshot = run(opened).expect("opens");
    let view = View::snapshot(&volume, &snapshot);
    (volume, view)
}

/// The content of the snapshot as the two media have it.
fn after_a_power_cut(origin: &Pages, cow: &Pages) -> Vec<u8> {
    let [origin, cow] = [origin, cow].map(|it| Pages::new(&it.content_of_the_medium()));
    read_all(&open_volume(&origin, &cow).1)
}

fn exceptions_that_a_failed_flush_lost() -> Result<(), String> {
    let world = World::new(1, 120, 100).with_exceptions(&[3, 5]);
    let (origin, cow) = (Pages::new(&world.origin), Pages::new(&world.cow));
    let (_first, view) = open_volume(&origin, &cow);
    run(view.write(7 * SECTOR, data(700, 1))).expect("written");
    // The data comes to the medium, the slot does not.
    cow.good.set(Some(1));
    run(view.flush()).expect_err("the disk is away");
    cow.good.set(None);
    assert_ne!(cow.seen, cow.medium, "the slot is in the cache");
    // The server is started anew. Whatever it says the snapshot is, it stays that.
    let (second, view) = open_volume(&origin, &cow);
    let told = read_all(&view);
    run(view.flush()).expect("the disk is well");
    let o = View::origin(&second);
    run(o.write(7 * SECTOR, data(9000, 1))).expect("written");
    run(o.flush()).expect("flushed");
    match after_a_power_cut(&origin, &cow) == told {
        true => Ok(()),
        false => Err("the snapshot shows something else after a power cut".into()),
    }
}

/// A merge's clear fails; the next merge finds what the medium has, and not an empty store.
fn a_clear_that_a_failed_flush_lost() -> Result<(), String> {
    let world = World::new(1, 120, 100).with_exceptions(&[3, 5]);
    let (origin, cow) = (Pages::new(&world.origin), Pages::new(&world.cow));
    // The opening's flush succeeds, that of the clear does not.
    cow.good.set(Some(1));
    let options = MergeOptions::default();
    let merged = run(ops::merge(cow.clone(), origin.clone(), options, &ops::Silent));
    merged.expect_err("the disk is away");
    cow.good.set(None);
    assert_ne!(cow.seen, cow.medium, "cleared in the cache");
    let merged = run(ops::merge(cow.clone(), origin.clone(), options, &ops::Silent));
    assert!(merged.expect("merges").finished);
    let left = run(ops::info(&Memory::from(cow.content_of_the_medium()))).expect("a store");
    assert_eq!(origin.content_of_the_medium(), world.snapshot);
    match left.exceptions {
        0 => Ok(()),
        left => Err(format!("merged, and {left} exceptions come back with a power cut")),
    }
}

/// A new snapshot shows what the origin's medium has, not what a failed flush left in its cache.
fn an_origin_write_that_a_failed_flush_lost() -> Result<(), String> {
    let world = World::new(1, 120, 100);
    let (origin, cow) = (Pages::new(&world.origin), Pages::new(&world.cow));
    run(origin.write(0, data(500, 1))).expect("written");
    origin.good.set(Some(0));
    run(origin.flush()).expect_err("the disk is away");
    origin.good.set(None);
    let (_volume, view) = open_volume(&origin, &cow);
    match read_all(&view) == after_a_power_cut(&origin, &cow) {
        true => Ok(()),
        false => Err("the snapshot shows something else after a power cut".into()),
    }
}

const LAWS: [fn() -> Result<(), String>; 3] = [
    exceptions_that_a_failed_flush_lost,
    a_clear_that_a_failed_flush_lost,
    an_origin_write_that_a_failed_flush_lost,
];

#[test]
fn an_opening_believes_the_medium_and_not_the_cache() {
    for law in LAWS {
        law().expect("kept");
    }
}

#[cfg(feature = "planted")]
#[test]
fn an_opening_that_believes_the_cache_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    plant(Some(Planted::BelieveCache));
    let kept: Vec<_> = LAWS.iter().map(|law| law().is_ok()).collect();
    plant(None);
    assert_eq!(kept, [false; 3]);
}

/// An origin that is served before it has a snapshot shows what its medium has.
#[test]
fn an_origin_alone_shows_the_medium_and_not_the_cache() {
    let world = World::new(1, 120, 100);
    let origin = Pages::new(&world.origin);
    run(origin.write(0, data(500, 1))).expect("written");
    origin.good.set(Some(0));
    run(origin.flush()).expect_err("the disk is away");
    origin.good.set(None);
    let volume = any_volume(origin.clone());
    run(volume.forget_cached()).expect("forgotten");
    assert_eq!(read_all(&View::origin(&volume)), origin.content_of_the_medium());
}
