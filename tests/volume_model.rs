//! A live volume against a naive model: an array of sectors for the origin and one for each
//! snapshot. Requests run at the same time, take effect at any moment before they complete, and the
//! power goes at any operation; afterwards every sector must hold what the flushes promised.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::Silent;
use dmsnap::device::{Allocation, Device, DynDevice};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::store::{AnyStore, Persistent, Strays, Transient, format};
use dmsnap::volume::{MergeState, SnapshotOptions, View};
use dmsnap_sim::{Disk, Power, run};
use futures_util::future::{join, join_all, join3};

use crate::common::live::{AnyView, AnyVolume, any_volume};

/// More operations than opening up to three stores and adding their snapshots takes.
const OPENING: u64 = 12;

/// What each sector may hold after a power cut, and what it holds now (last).
#[derive(Clone)]
struct Sectors(Vec<Vec<u64>>);

impl Sectors {
    fn new(now: impl IntoIterator<Item = u64>) -> Self {
        Self(now.into_iter().map(|tag| vec![tag]).collect())
    }

    fn now(&self, sector: usize) -> u64 {
        *self.0[sector].last().expect("never empty")
    }

    fn write(&mut self, sector: usize, tag: u64) {
        self.0[sector].push(tag);
    }

    /// What was there `before` the flush was asked for is durable.
    fn flushed(&mut self, before: &[u64]) {
        for (values, durable) in self.0.iter_mut().zip(before) {
            let at = values.iter().rposition(|value| value == durable).unwrap_or(0);
            values.drain(..at);
        }
    }

    fn all_now(&self) -> Vec<u64> {
        (0..self.0.len()).map(|sector| self.now(sector)).collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

#[derive(Clone, Debug)]
enum Request {
    Read,
    Write(u64),
    Zero,
    Flush,
}

fn bytes_of(tags: impl IntoIterator<Item = u64>) -> Bytes {
    tags.into_iter().flat_map(|tag| tag.to_le_bytes().repeat(64)).collect()
}

fn tags_of(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(512)
        .map(|sector| {
            assert!(sector.chunks(8).all(|word| word == &sector[..8]), "a torn sector");
            u64::from_le_bytes(sector[..8].try_into().expect("eight bytes"))
        })
        .collect()
}

struct World {
    seed: u64,
    random: Random,
    origin: Rc<Disk>,
    cows: Vec<(u32, Rc<Disk>)>,
    volume: Rc<AnyVolume>,
    /// Origin first, then the snapshots in order.
    model: Vec<Sectors>,
    merging: Option<usize>,
    next_tag: u64,
    backlog: u64,
}

/// What origin writes may wait in: nothing, room for a few of them, for all.
const BACKLOGS: [u64; 3] = [0, 30_000, 1 << 20];

fn open_all(origin: &Rc<Disk>, cows: &[(u32, Rc<Disk>)], backlog: u64) -> Rc<AnyVolume> {
    let volume = any_volume(origin.clone());
    volume.allow_backlog(backlog);
    for (n, (_, cow)) in cows.iter().enumerate() {
        run(add(&volume, n + 1, cow)).expect("opens");
    }
    volume
}

async fn add(volume: &AnyVolume, n: usize, cow: &Rc<Disk>) -> std::io::Result<()> {
    let mut exceptions = Vec::new();
    let store = Persistent::open(
        DynDevice::new(cow.clone()),
        Some(volume.len_bytes()),
        Strays::Refuse,
        |it| {
            exceptions.push(it);
        },
    );
    let store = store.await.map_err(std::io::Error::other)?;
    let options = SnapshotOptions::default();
    volume.add(&n.to_string(), AnyStore::Persistent(store), exceptions, options).await?;
    Ok(())
}

impl World {
    fn new(seed: u64, power: &Power, chunk_sectors: &[u32]) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let sectors = 60 + random.below(60);
        let origin = Rc::new(Disk::new(bytes_of(1..=sectors).to_vec(), 512, power));
        let cows: Vec<_> = chunk_sectors
            .iter()
            .map(|chunk| {
                let room = 3 * sectors + 20 * u64::from(*chunk) + random.below(16);
                let stale = bytes_of((0..room).map(|_| 0xAAAA_AAAA_AAAA_AAAA));
                let mut stale = stale.to_vec();
                stale[..512].fill(0);
                let cow = Rc::new(Disk::new(stale, 512, &Power::steady()));
                let size = ChunkSize::from_sectors(*chunk).expect("legal");
                run(format(&*cow, size)).expect("formats");
                (*chunk, Rc::new(Disk::new(cow.content(), 512, power)))
            })
            .collect();
        let backlog = BACKLOGS[usize::try_from(seed / 5 % 3).expect("small")];
        let volume = open_all(&origin, &cows, backlog);
        for (n, disk) in [&origin].into_iter().chain(cows.iter().map(|(_, cow)| cow)).enumerate() {
            disk.delay(seed ^ (n as u64 + 1) << 32);
        }
        let model = vec![Sectors::new(1..=sectors); 1 + cows.len()];
        Self {
            seed,
            random,
            origin,
            cows,
            volume,
            model,
            merging: None,
            next_tag: 1 << 32,
            backlog,
        }
    }

    fn view(&self, device: usize) -> AnyView {
        match device.checked_sub(1) {
            None => View::origin(&self.volume),
            Some(n) => View::snapshot(&self.volume, &self.volume.snapshots()[n]),
        }
    }

    /// Origin and merging snapshot share one model.
    fn model_of(&self, device: usize) -> usize {
        if device == 0 { self.merging.unwrap_or(0) } else { device }
    }

    /// Requests at the same time, of which none overlaps another one on its device.
    fn draw(&mut self, count: u64) -> Vec<(usize, Request, std::ops::Range<usize>)> {
        let sectors = self.model[0].0.len() as u64;
        let mut taken: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        let mut requests = Vec::new();
        for _ in 0..count {
            let device =
                usize::try_from(self.random.below(self.model.len() as u64)).expect("small");
            let start = self.random.below(sectors);
            let most = [1, 3, 8, 40][usize::try_from(self.random.below(4)).expect("small")];
            let len = 1 + self.random.below(most.min(sectors - start));
            let range = usize::try_from(start).expect("small")
                ..usize::try_from(start + len).expect("small");
            let model = self.model_of(device);
            let request = match self.random.below(10) {
                0..=2 => Request::Read,
                3..=7 => {
                    self.next_tag += 1000;
                    Request::Write(self.next_tag)
                }
                8 => Request::Zero,
                _ => Request::Flush,
            };
            let clash = taken.iter().any(|(other, others)| {
                *other == model && others.start < range.end && range.start < others.end
            });
            if matches!(request, Request::Flush) || !clash {
                if !matches!(request, Request::Flush) {
                    taken.push((model, range.clone()));
                }
                requests.push((device, request, range));
            }
        }
        requests
    }

    /// Runs a batch, during a part of the merge if there is one. False once the power is off.
    fn batch(&mut self, count: u64) -> bool {
        let requests = self.draw(count);
        let window = 512 * (1 + self.random.below(30));
        let pause_after = self.random.below(200);
        let writes_back = self.random.below(4) == 0;
        let before: Vec<Vec<u64>> = self.model.iter().map(Sectors::all_now).collect();
        let work = requests.iter().map(|(device, request, range)| {
            let view = self.view(*device);
            async move {
                let at = range.start as u64 * 512;
                match request {
                    Request::Read => view.read(at, range.len() * 512).await.map(Some),
                    Request::Write(tag) => {
                        let tags = (0..range.len() as u64).map(|n| tag + n);
                        view.write(at, bytes_of(tags)).await.map(|()| None)
                    }
                    Request::Zero => {
                        let len = range.len() as u64 * 512;
                        let may = Allocation::MayPunch;
                        view.write_zeroes(at, len, may).await.map(|()| None)
                    }
                    Request::Flush => view.flush().await.map(|()| None),
                }
            }
        });
        let merge = async {
            if self.merging.is_none() {
                return Ok(());
            }
            let running = self.volume.run_merge(window, &Silent);
            let pausing = async {
                for _ in 0..pause_after {
                    turn().await;
                }
                self.volume.pause_merge();
            };
            join(running, pausing).await.0.map(|_| ())
        };
        let write_back = async {
            turn().await;
            if writes_back {
                let _told_to_the_next_flush = self.volume.write_back().await;
            }
        };
        let (ended, merged, ()) = run(join3(join_all(work), merge, write_back));
        let mut on = merged.is_ok();
        for ((device, request, range), ended) in requests.iter().zip(ended) {
            let model = self.model_of(*device);
            match request {
                Request::Write(tag) => range
                    .clone()
                    .zip(*tag..)
                    .for_each(|(sector, tag)| self.model[model].write(sector, tag)),
                Request::Zero => {
                    range.clone().for_each(|sector| self.model[model].write(sector, 0));
                }
                Request::Flush if ended.is_ok() => self.model[model].flushed(&before[model]),
                Request::Flush => {}
                Request::Read => {
                    if let Ok(Some(found)) = &ended {
                        let expected = &before[model][range.clone()];
                        let told = format!("seed {}, device {device}, {range:?}", self.seed);
                        assert_eq!(tags_of(found), expected, "a wrong read: {told}");
                    }
                }
            }
            on &= ended.is_ok();
        }
        on
    }

    fn start_merge(&mut self) -> bool {
        let n = 1 + usize::try_from(self.random.below(self.cows.len() as u64)).expect("small");
        let snapshot = self.volume.snapshots()[n - 1].clone();
        let before = self.model[n].all_now();
        if run(self.volume.start_merge(&snapshot)).is_err() {
            return false;
        }
        self.model[n].flushed(&before);
        self.merging = Some(n);
        true
    }

    /// Every device reads as the model says.
    fn verify(&self) {
        for device in 0..self.model.len() {
            let model = &self.model[self.model_of(device)];
            let found = run(self.view(device).read(0, model.0.len() * 512)).expect("readable");
            let told = format!("seed {}, device {device}", self.seed);
            assert_eq!(tags_of(&found), model.all_now(), "wrong content: {told}");
        }
    }

    /// After the power cut: one of the contents each disk can have, opened anew.
    fn reboot(&mut self) {
        let steady = Power::steady();
        let mut again = |disk: &Disk| {
            let mut reboots = disk.reboots(self.random.below(u64::MAX));
            let pick = self.random.below(reboots.choices() as u64);
            let pick = usize::try_from(pick).expect("small");
            let content = reboots.nth(pick).expect("counted");
            Rc::new(Disk::new(content, 512, &steady))
        };
        let origin = again(&self.origin);
        let cows: Vec<_> = self.cows.iter().map(|(chunk, cow)| (*chunk, again(cow))).collect();
        for (_, cow) in &cows {
            let mut findings = Vec::new();
            let report = run(ops::check(&**cow, Some(&*origin), |it| findings.push(it)));
            let report = report.expect("readable");
            assert!(report.sound, "seed {}: {findings:?}", self.seed);
        }
        (self.origin, self.cows) = (origin, cows);
        self.volume = open_all(&self.origin, &self.cows, self.backlog);
        // A merge that was cut off leaves the origin alone as neither one nor the other.
        let merging = self.merging.take();
        for device in 0..self.model.len() {
            let sectors = self.model[device].0.len();
            let found = run(self.view(device).read(0, sectors * 512)).expect("readable");
            let found = tags_of(&found);
            if device > 0 || merging.is_none() {
                for (sector, tag) in found.iter().enumerate() {
                    let possible: BTreeSet<_> = self.model[device].0[sector].iter().collect();
                    assert!(
                        possible.contains(tag),
                        "seed {}: device {device}, sector {sector} holds {tag:#x} after the power \
                         cut, promised was one of {possible:x?}",
                        self.seed
                    );
                }
            }
            self.model[device] = Sectors::new(found);
        }
    }
}

async fn turn() {
    let mut polled = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut polled, true) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

fn live(seed: u64, power: &Power) -> World {
    let kinds: [&[u32]; 5] = [&[1], &[8], &[1, 8], &[4, 2, 16], &[1, 1, 1]];
    let kind = kinds[usize::try_from(seed % 5).expect("small")];
    let mut world = World::new(seed, power, kind);
    for round in 0..30 {
        if round == 12 && seed.is_multiple_of(3) && !world.start_merge() {
            break;
        }
        let count = 1 + world.random.below(8);
        if !world.batch(count) {
            break;
        }
    }
    world
}

#[test]
fn every_device_reads_as_the_model_says() {
    for seed in 1..=400 {
        let world = live(seed, &Power::steady());
        world.verify();
        if let Some((state, _)) = world.volume.merge_state() {
            assert_ne!(state, MergeState::Failed, "seed {seed}");
        }
    }
}

#[test]
fn a_power_cut_keeps_what_flushes_promised() {
    let (mut cuts, mut seed) = (0, 1_000);
    while cuts < 1_500 {
        seed += 1;
        let whole = Power::steady();
        let _ = live(seed, &whole);
        for _ in 0..3 {
            let cut = OPENING + Random((seed * 77 + cuts) | 1).below(whole.operations() - OPENING);
            let mut world = live(seed, &Power::cut_after(cut));
            world.reboot();
            // Life goes on.
            for _ in 0..4 {
                assert!(world.batch(5), "seed {seed}: no request may fail after the reboot");
            }
            world.verify();
            cuts += 1;
        }
    }
    println!("{cuts} power cuts");
}

#[test]
fn a_merge_under_load_ends_with_the_snapshot_on_the_origin() {
    for seed in 1..=60 {
        let mut world = live(seed * 3, &Power::steady());
        assert!(world.merging.is_some());
        for _ in 0..200 {
            if matches!(world.volume.merge_state(), Some((MergeState::Finished, _))) {
                break;
            }
            assert!(world.batch(4));
        }
        assert_eq!(world.volume.merge_state(), Some((MergeState::Finished, 0)), "seed {seed}");
        world.verify();
        // The bare disk below is the snapshot now.
        let merged = world.model[world.model_of(0)].all_now();
        assert_eq!(tags_of(&world.origin.content()), merged, "seed {seed}");
    }
}

/// A whole chunk is written without reading the origin; a part reads the old chunk once; an origin
/// write reads it once for three snapshots, and costs each of them two flushes.
#[test]
fn copies_are_as_few_as_can_be() {
    let mut world = World::new(7, &Power::steady(), &[8, 8, 4]);
    world.volume.allow_backlog(0);
    for disk in [&world.origin].into_iter().chain(world.cows.iter().map(|(_, cow)| cow)) {
        disk.delay(0);
    }
    let snapshot = world.view(1);
    let tags = |from: u64, count: u64| bytes_of((0..count).map(|n| from + n));
    let reads = |world: &World| (world.origin.counts().reads, world.origin.counts().read_bytes);
    let begin = reads(&world);
    run(snapshot.write(8 * 512, tags(1 << 40, 16))).expect("written");
    assert_eq!(reads(&world), begin, "whole chunks copy nothing");
    run(snapshot.write(33 * 512, tags(1 << 41, 1))).expect("written");
    assert_eq!(reads(&world), (begin.0 + 1, begin.1 + 4096), "a part copies its chunk once");
    let flushes: Vec<_> = world.cows.iter().map(|(_, cow)| cow.counts().flushes).collect();
    assert_eq!(world.cows[0].1.counts().writes, 2, "and no metadata yet");

    let begin = reads(&world);
    run(world.view(0).write(40 * 512, tags(1 << 42, 2))).expect("written");
    assert_eq!(reads(&world), (begin.0 + 1, begin.1 + 4096), "once for three snapshots");
    for ((_, cow), before) in world.cows.iter().zip(flushes) {
        assert_eq!(cow.counts().flushes - before, 2);
    }
    for sector in 40..42 {
        world.model[0].write(sector, (1 << 42) + sector as u64 - 40);
    }
    for (sector, tag) in (8..24).zip(1_u64 << 40..) {
        world.model[1].write(sector, tag);
    }
    world.model[1].write(33, 1 << 41);
    world.verify();
}

#[test]
fn a_transient_store_serves_and_cannot_merge() {
    let power = Power::steady();
    let origin = Rc::new(Disk::new(bytes_of(1..=64).to_vec(), 512, &power));
    let cow = Rc::new(Disk::new(vec![0; 100 * 512], 512, &power));
    let volume = any_volume(origin);
    let store = Transient::new(DynDevice::new(cow), ChunkSize::from_sectors(2).expect("legal"));
    let added = volume.add("t", AnyStore::Transient(store), Vec::new(), SnapshotOptions::default());
    let snapshot = run(added).expect("added");
    let view = View::snapshot(&volume, &snapshot);
    run(view.write(512, bytes_of([7, 8]))).expect("written");
    run(View::origin(&volume).write(5 * 512, bytes_of([9]))).expect("written");
    let found = run(view.read(0, 8 * 512)).expect("read");
    assert_eq!(tags_of(&found), [1, 7, 8, 4, 5, 6, 7, 8]);
    assert_eq!(volume.status(&snapshot), "6/100 0");
    assert!(run(volume.start_merge(&snapshot)).is_err());
}
