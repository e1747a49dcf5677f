//! Whatever bytes a COW device holds: no task panics, reads or remembers more than the list of
//! exceptions is worth, or writes before it has refused. What a merge accepts, an export accepts,
//! and both end with the same content.

mod common;

use std::alloc::System;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use cap::Cap;
use dmsnap::device::{Allocation, Buffer, Device, Memory};
use dmsnap::format::{ChunkSize, Layout, RawHeader};
use dmsnap::ops::{self, Error, ExportOptions, MergeOptions, Severity, Silent};
use dmsnap::store::{Persistent, Strays};
use dmsnap_sim::run;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use common::{World, bytes, scattered};

/// All the memory that the tests of this file may take at a time, together.
const MOST_MEMORY: usize = 768 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST_MEMORY);

/// Counts what is asked of a device, and panics where that lies beyond its end.
struct Counting<D> {
    device: D,
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    largest_read: Cell<usize>,
}

impl<D: Device> Counting<D> {
    fn new(device: D) -> Self {
        Self {
            device,
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            largest_read: Cell::new(0),
        }
    }

    /// Bytes read since this was last asked.
    fn take_read(&self) -> u64 {
        self.read_bytes.take()
    }

    /// Up to the end of the last sector.
    fn inside(&self, at: u64, len: u64) {
        let end = self.device.len_bytes().expect("known").next_multiple_of(512);
        assert!(at.checked_add(len).is_some_and(|to| to <= end), "{at} + {len} of {end} bytes");
    }

    fn write_counts(&self, at: u64, len: u64) {
        self.inside(at, len);
        self.written_bytes.set(self.written_bytes.get() + len);
    }
}

impl<D: Device> Device for Counting<D> {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.inside(at, len as u64);
        self.read_bytes.set(self.read_bytes.get() + len as u64);
        self.largest_read.set(self.largest_read.get().max(len));
        self.device.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.write_counts(at, data.len() as u64);
        self.device.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.write_counts(at, len);
        self.device.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_counts(at, len);
        self.device.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.device.flush().await
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        self.device.next_data(at).await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.device.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.device.block_bytes()
    }
}

type Counted = Counting<Memory>;

/// What a check found.
struct Checked {
    /// Of damage.
    kinds: Vec<&'static str>,
    readable: bool,
}

/// Everything that only reads the store, each compared with the others and against what there is
/// to read.
fn inspect(cow: &Counted, origin: &Counted) -> Checked {
    let len = cow.len_bytes().expect("known");
    let info = run(ops::info(cow));
    // Header and areas, each of them once.
    let areas = info.as_ref().map_or(len, |info| {
        let chunk = u64::from(info.chunk_size_sectors) * 512;
        (len / (chunk * (chunk / 16 + 1)) + 1) * chunk
    });
    assert!(cow.take_read() <= areas + 1024, "info reads too much");
    let mut runs = 0;
    let dumped = run(ops::dump(cow, |run| {
        runs += run.len;
        Ok(())
    }));
    assert!(cow.take_read() <= areas + 1024, "dump reads too much");
    assert_eq!(info.is_ok(), dumped.is_ok(), "{info:?}, {dumped:?}");
    if let Ok(info) = &info {
        assert_eq!(runs, info.exceptions);
    }
    let mut kinds = Vec::new();
    let checked = run(ops::check(cow, Some(origin), |it| {
        if it.damage.severity() == Severity::Damage {
            kinds.push(it.damage.name());
        }
    }));
    // The list a second time where it repeats itself, and the last area to its end.
    assert!(cow.take_read() <= 3 * areas + 2048, "check reads too much");
    // What is not a store at all is an error, with an origin and without.
    let alone = run(ops::check(cow, None::<&Memory>, |_| {}));
    if let Ok(checked) = &checked {
        assert_eq!(alone.expect("readable").exceptions, checked.exceptions);
    }
    Checked { kinds, readable: checked.is_ok() }
}

/// What everything makes of one COW device and one origin. Returns true if a merge accepts them.
fn judge(cow: Vec<u8>, origin: Vec<u8>, window_bytes: u64) -> bool {
    let (cow, origin) = (Counting::new(Memory::from(cow)), Counting::new(Memory::from(origin)));
    let before = (cow.device.content(), origin.device.content());
    let written = || cow.written_bytes.get() + origin.written_bytes.get();
    let Checked { kinds, readable } = inspect(&cow, &origin);

    let image = Memory::zeroed(before.1.len().next_multiple_of(512));
    let exported = run(ops::export(&cow, &origin, &image, ExportOptions::default(), &Silent));
    let largest = cow.largest_read.get().max(origin.largest_read.get());
    assert!(largest <= 1 << 20, "a read of {largest} bytes");
    // Both ways to move a window.
    let long_run_bytes = if (window_bytes / 512).is_multiple_of(2) { 0 } else { u64::MAX };
    let options = MergeOptions { window_bytes, long_run_bytes, ..MergeOptions::default() };
    let planned = run(ops::plan_merge(&cow, &origin, options));
    assert_eq!(written(), 0, "written by a reader");

    let merged = run(ops::merge(&cow, &origin, options, &Silent));
    match (&planned, &merged) {
        (Ok(planned), Ok(merged)) => {
            assert_eq!((planned.exceptions, planned.bytes), (merged.exceptions, merged.bytes));
            assert_eq!(planned.windows, merged.windows);
        }
        (Err(planned), Err(merged)) => assert_eq!(planned.to_string(), merged.to_string()),
        _ => panic!("planned {planned:?}, merged {merged:?}"),
    }
    match &merged {
        Ok(merged) => {
            let exported = exported.expect("a merge accepted it");
            assert_eq!(exported.exceptions, merged.exceptions);
            // The rest of the origin's last sector reads as zeroes, unless it was written.
            let mut content = origin.device.content();
            content.resize(image.content().len(), 0);
            assert!(content == image.content(), "export and merge differ");
            let after = run(ops::check(&cow, None::<&Memory>, |_| {})).expect("readable");
            assert!(after.sound && after.exceptions == Some(0), "{after:?}");
        }
        Err(error) => {
            assert_eq!(written(), 0, "{error}");
            assert!((cow.device.content(), origin.device.content()) == before, "{error}");
            // These two an export may show: it wipes nothing.
            let shown = matches!(error, Error::OriginIsStore | Error::FrontZeroed { .. });
            assert!(exported.is_err() || shown, "{error}");
        }
    }
    // A check finds what a merge refuses, and nothing else but what a merge wipes.
    let wiped = ["stray-slots"];
    let refusable = kinds.iter().any(|kind| !wiped.contains(kind)) || !readable;
    assert_eq!(merged.is_err(), refusable, "{kinds:?}, {merged:?}");
    merged.is_ok()
}

/// What the header and the slots up to the terminator take, in whole pieces of 64 KiB.
fn list_bytes(exceptions: u64) -> u64 {
    2048 + ((exceptions + 1) * 16).next_multiple_of(64 << 10)
}

/// Reads that were under way when the terminator was found: 64 pieces of 64 KiB.
const MOST_AHEAD: u64 = 64 * (64 << 10);

/// Numbers that mean something, near the bounds of something, or nothing at all.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0_u64..130,
        2 => (0_u32..64).prop_map(|bit| 1 << bit),
        2 => (0_u32..64).prop_map(|bit| (1 << bit) - 1),
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

/// One thing that goes wrong with an image.
#[derive(Clone, Debug)]
enum Mutation {
    Slot(u64, u64, u64),
    Swap(u64, u64),
    Copy(u64, u64),
    Byte(usize, u8),
    Zero(usize, usize),
    Fill(usize, usize, u8),
    ChunkSize(u32),
    Valid(u32),
    Cut(usize),
    Grow(usize),
    Origin(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = || 0_u64..110;
    prop_oneof![
        6 => (index(), number(), number()).prop_map(|(i, old, new)| Mutation::Slot(i, old, new)),
        3 => (index(), index()).prop_map(|(a, b)| Mutation::Swap(a, b)),
        2 => (index(), index()).prop_map(|(a, b)| Mutation::Copy(a, b)),
        2 => (0_usize..70_000, any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        2 => (0_usize..130, 1_usize..9).prop_map(|(at, len)| Mutation::Zero(at, len)),
        1 => (0_usize..130, 1_usize..9, any::<u8>())
            .prop_map(|(at, len, byte)| Mutation::Fill(at, len, byte)),
        1 => prop_oneof![(0_u32..32).prop_map(|bit| 1 << bit), any::<u32>()]
            .prop_map(Mutation::ChunkSize),
        1 => (0_u32..4).prop_map(Mutation::Valid),
        2 => (0_usize..70_000).prop_map(Mutation::Cut),
        1 => (0_usize..9_000).prop_map(Mutation::Grow),
        1 => (0_usize..70_000).prop_map(Mutation::Origin),
    ]
}

impl Mutation {
    fn apply(self, world: &mut World) {
        let slots = world.layout.slot_byte(0).expect("small");
        let at = |layout: Layout, index| bytes(layout.slot_byte(index).unwrap_or(slots));
        let len = world.cow.len();
        let sectors = |from: usize, count: usize| {
            let from = (from * 512).min(len);
            from..(from + count * 512).min(len)
        };
        match self {
            Self::Slot(index, old, new) => {
                let at = at(world.layout, index);
                if at + 16 <= len {
                    world.put_slot(index, old, new);
                }
            }
            Self::Swap(a, b) => {
                let (a, b) = (at(world.layout, a), at(world.layout, b));
                for n in 0..16 {
                    if a.max(b) + n < len {
                        world.cow.swap(a + n, b + n);
                    }
                }
            }
            Self::Copy(a, b) => {
                let (a, b) = (at(world.layout, a), at(world.layout, b));
                if a.max(b) + 16 <= len {
                    world.cow.copy_within(a..a + 16, b);
                }
            }
            Self::Byte(at, byte) => {
                if let Some(found) = world.cow.get_mut(at) {
                    *found = byte;
                }
            }
            Self::Zero(from, count) => world.cow[sectors(from, count)].fill(0),
            Self::Fill(from, count, byte) => world.cow[sectors(from, count)].fill(byte),
            Self::ChunkSize(sectors) => put(&mut world.cow, 12, sectors),
            Self::Valid(valid) => put(&mut world.cow, 4, valid),
            Self::Cut(to) => world.cow.truncate(to),
            Self::Grow(by) => world.cow.resize(len + by, 0x11),
            Self::Origin(to) => world.origin.truncate(to),
        }
    }
}

fn put(cow: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = cow.get_mut(at..at + 4) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

/// A sound store, and how it goes wrong.
fn spoilt() -> impl Strategy<Value = (World, Vec<Mutation>)> {
    let shape = (prop_oneof![Just((1, 120)), Just((2, 60)), Just((8, 16))], any::<u64>());
    let world = shape.prop_flat_map(|((sectors, chunks), seed)| {
        let layout = Layout::new(ChunkSize::from_sectors(sectors).expect("legal"));
        let origin_chunks = chunks - 10;
        let most = layout.capacity(chunks).min(origin_chunks);
        (0..=most, 0..u64::from(sectors)).prop_map(move |(count, cut)| {
            let olds = scattered(count, origin_chunks, seed);
            World::new(sectors, chunks, origin_chunks * u64::from(sectors) - cut)
                .with_exceptions(&olds)
        })
    });
    (world, prop::collection::vec(mutation(), 0..5))
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cow, origin) = (self.cow.len(), self.origin.len());
        write!(f, "World({:?}, {cow} bytes, origin {origin} bytes)", self.layout)
    }
}

/// Of this many cases, seeds are drawn anew each time; a failure is printed with its smallest case.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

thread_local! {
    static ACCEPTED: Cell<u32> = const { Cell::new(0) };
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn arbitrary_bytes(
        head in prop_oneof![
            Just(Vec::new()),
            (0_u32..23, 0_u32..3).prop_map(|(shift, valid)| {
                let mut raw = [*b"SnAp", [0; 4], [1, 0, 0, 0], [0; 4]].concat();
                put(&mut raw, 4, valid);
                put(&mut raw, 12, 1 << shift);
                raw
            }),
        ],
        body in prop::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..6000),
        origin in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let mut cow = body;
        let len = head.len().min(cow.len());
        cow[..len].copy_from_slice(&head[..len]);
        judge(cow, origin, 4096);
    }
}

#[test]
fn mutated_stores() {
    let mut runner = proptest::test_runner::TestRunner::new(cases(4000));
    let ran = runner.run(&(spoilt(), 0_u64..40_000), |((mut world, mutations), window_bytes)| {
        for mutation in mutations {
            mutation.apply(&mut world);
        }
        let accepted = judge(world.cow, world.origin, window_bytes);
        ACCEPTED.set(ACCEPTED.get() + u32::from(accepted));
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    let accepted = ACCEPTED.get();
    println!("{accepted} of 4000 merged");
    assert!((800..3600).contains(&accepted), "the mutations are too mild or too wild: {accepted}");
}

/// A device of up to 2^63 bytes that holds a few sectors, and may repeat full areas that look
/// valid. Everything else reads as zeroes.
struct Vast {
    len_bytes: u64,
    sectors: RefCell<BTreeMap<u64, [u8; 512]>>,
    /// So many areas are full, in lock-step, each slot with an origin chunk of its own.
    full_areas: u64,
    layout: Layout,
}

impl Vast {
    fn new(len_bytes: u64, chunk_sectors: u32, full_areas: u64) -> Self {
        let chunk_size = ChunkSize::from_sectors(chunk_sectors).expect("legal");
        let mut header = [0; 512];
        header[..16].copy_from_slice(RawHeader::new(chunk_size, true).as_bytes());
        let sectors = RefCell::new(BTreeMap::from([(0, header)]));
        Self { len_bytes, sectors, full_areas, layout: Layout::new(chunk_size) }
    }

    fn with_slot(self, index: u64, old: u64, new: u64) -> Self {
        let at = self.layout.slot_byte(index).expect("on the device");
        let mut sector = self.sector(at / 512);
        let offset = bytes(at % 512);
        sector[offset..offset + 8].copy_from_slice(&old.to_le_bytes());
        sector[offset + 8..offset + 16].copy_from_slice(&new.to_le_bytes());
        self.sectors.borrow_mut().insert(at / 512, sector);
        self
    }

    fn sector(&self, number: u64) -> [u8; 512] {
        if let Some(sector) = self.sectors.borrow().get(&number) {
            return *sector;
        }
        let mut sector = [0; 512];
        let per_chunk = u64::from(self.layout.chunk_size().sectors());
        let chunk = number / per_chunk;
        let (area, place) =
            ((chunk.max(1) - 1) / self.layout.stride(), chunk % self.layout.stride());
        if place == 1 && area < self.full_areas {
            let first = area * self.layout.exceptions_per_area() + number % per_chunk * 32;
            for (index, slot) in (first..).zip(sector.chunks_exact_mut(16)) {
                slot[..8].copy_from_slice(&index.to_le_bytes());
                let new = self.layout.lock_step_chunk(index).get();
                slot[8..].copy_from_slice(&new.to_le_bytes());
            }
        }
        sector
    }
}

impl Device for Vast {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        assert!(at.is_multiple_of(512) && len.is_multiple_of(512), "{at} + {len}");
        let mut buffer = Buffer::zeroed(len);
        for (number, sector) in (at / 512..).zip(buffer.chunks_exact_mut(512)) {
            sector.copy_from_slice(&self.sector(number));
        }
        Ok(buffer)
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        for (number, sector) in (at / 512..).zip(data.chunks_exact(512)) {
            let sector = sector.try_into().expect("512 bytes");
            self.sectors.borrow_mut().insert(number, sector);
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        for number in at / 512..(at + len) / 512 {
            self.sectors.borrow_mut().insert(number, [0; 512]);
        }
        Ok(())
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(at, len, Allocation::MayPunch).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

/// Runs every reader; what it read has to do with the `exceptions`, not with the device.
fn assert_frugal(cow: Vast, exceptions: u64, told: &str) -> Counting<Vast> {
    let rest_of_area = cow.layout.chunk_size().bytes();
    let cow = Counting::new(cow);
    let enough = 2 * list_bytes(exceptions) + MOST_AHEAD;
    let info = run(ops::info(&cow)).expect(told);
    assert_eq!(info.exceptions, exceptions, "{told}");
    let read = cow.take_read();
    assert!(read <= enough, "{told}: info read {read} bytes");
    run(ops::dump(&cow, |_| Ok(()))).expect(told);
    let read = cow.take_read();
    assert!(read <= enough, "{told}: dump read {read} bytes");
    run(ops::check(&cow, None::<&Memory>, |_| {})).expect(told);
    let read = cow.take_read();
    assert!(read <= 2 * enough + rest_of_area, "{told}: check read {read} bytes");
    assert_eq!(cow.written_bytes.get(), 0, "{told}");
    assert!(cow.largest_read.get() <= 64 << 10, "{told}: {} bytes", cow.largest_read.get());
    cow
}

#[test]
fn a_vast_device_costs_what_its_list_is_worth() {
    for len_bytes in [1 << 63, (1 << 63) - 512, 1 << 50, (2 << 30) + 512] {
        for sectors in [1, 8, 1024, 1 << 17, 1 << 21] {
            let told = format!("{len_bytes} bytes, {sectors} sectors");
            // Behind a terminator a check looks at the rest of its area: up to 1 GiB of it.
            if sectors < 1 << 21 || len_bytes == 1 << 63 {
                assert_frugal(Vast::new(len_bytes, sectors, 0), 0, &told);
            }
        }
        for (sectors, areas) in [(1, 3000), (8, 300), (64, 20)] {
            let cow = Vast::new(len_bytes, sectors, areas);
            let count = areas * cow.layout.exceptions_per_area();
            assert_frugal(cow, count, &format!("{len_bytes} bytes, {areas} areas"));
        }
    }
}

/// One exception at the far end leaves more holes than any memory could hold.
#[test]
fn a_far_exception_takes_no_memory_for_the_holes_in_front_of_it() {
    let data = [0x5A; 512];
    for new in [(1 << 20) + 5, (1 << 40) + 5, (1 << 54) - 5] {
        let told = format!("exception 3 -> {new}");
        let cow = Vast::new(1 << 63, 1, 0).with_slot(0, 3, new);
        cow.sectors.borrow_mut().insert(new, data);
        let cow = assert_frugal(cow, 1, &told);
        let origin = Memory::zeroed(10 * 512);
        let image = Memory::zeroed(10 * 512);
        run(ops::export(&cow, &origin, &image, ExportOptions::default(), &Silent)).expect(&told);
        assert_eq!(image.content()[3 * 512..4 * 512], data, "{told}");
        {
            let store = run(Persistent::open(&cow, None, Strays::Refuse, |_| {})).expect(&told);
            assert_eq!(dmsnap::store::Store::prepare(&store).expect(&told).chunk().get(), new + 1);
        }
        cow.take_read();
        run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent)).expect(&told);
        assert!(origin.content() == image.content(), "{told}");
        assert!(cow.take_read() <= 4 * list_bytes(1) + MOST_AHEAD, "{told}");
    }
}

/// What a list repeats is not remembered more than once, and told only so far.
#[test]
fn a_vast_list_of_damage_takes_no_more_than_a_sound_one() {
    // Every slot names chunks of an origin that has none of them.
    let cow = Vast::new(1 << 63, 8, 200);
    let count = 200 * cow.layout.exceptions_per_area();
    let (cow, origin) = (Counting::new(cow), Memory::zeroed(4096));
    let mut found = 0;
    let report = run(ops::check(&cow, Some(&origin), |_| found += 1)).expect("readable");
    assert_eq!((report.damaged, report.exceptions), (count - 1, Some(count)));
    assert_eq!(found, count - 1);
    let enough = 2 * list_bytes(count) + MOST_AHEAD;
    assert!(cow.take_read() <= 2 * enough, "check");
    let merged = run(ops::merge(&cow, &origin, MergeOptions::default(), &Silent));
    assert!(matches!(merged, Err(Error::Damaged(_))));
    assert!(cow.take_read() <= MOST_AHEAD, "a merge reads on after the first fault");
    assert_eq!(cow.written_bytes.get(), 0);
}

/// A chunk size that the device cannot hold is no reason to ask for so much memory.
#[test]
fn a_huge_chunk_size_on_a_tiny_device() {
    for sectors in (0..32).map(|bit| 1_u32 << bit) {
        for len in [0, 100, 512, 1024, 1536, 4096, 8192, 1 << 20] {
            let mut cow = vec![0; len];
            let mut head = RawHeader::new(ChunkSize::MIN, true);
            head.chunk_size = sectors.into();
            let size = len.min(16);
            cow[..size].copy_from_slice(&head.as_bytes()[..size]);
            let chunk = u64::from(sectors) * 512;
            let accepted = judge(cow, vec![7; 4096], u64::MAX);
            let fits = len as u64 >= 2 * chunk && sectors <= 1 << 21;
            assert_eq!(accepted, fits, "{sectors} sectors on {len} bytes");
        }
    }
}
