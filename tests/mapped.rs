//! A mapped device against a model that places every byte by itself.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Column, Device, Mapped, Memory, Segment, Shared};
use futures_executor::block_on;
use futures_util::future::{join, join3};
use proptest::prelude::*;

const SECTOR: u64 = 512;

/// Sectors of each device below.
const SECTORS: u64 = 200;

/// Memory that knows its holes: sectors of zeroes. Can be told to fail, and counts flushes.
#[derive(Debug)]
struct Holey {
    memory: Memory,
    flushes: Cell<u32>,
    failing: Cell<bool>,
    block_bytes: u32,
}

impl Holey {
    fn new(content: Vec<u8>, block_bytes: u32) -> Rc<Self> {
        let (flushes, failing) = (Cell::new(0), Cell::new(false));
        Rc::new(Self { memory: content.into(), flushes, failing, block_bytes })
    }

    fn works(&self) -> io::Result<()> {
        if self.failing.get() { Err(io::Error::other("told to fail")) } else { Ok(()) }
    }
}

/// Lets others run, as a device that works does.
async fn elsewhere() {
    let mut polled = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

impl Device for Holey {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        elsewhere().await;
        self.works()?;
        self.memory.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        elsewhere().await;
        self.works()?;
        self.memory.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.works()?;
        self.memory.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.works()?;
        self.memory.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        elsewhere().await;
        self.flushes.set(self.flushes.get() + 1);
        self.works()
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let content = self.memory.content();
        let is_hole: Vec<bool> =
            content.chunks(512).map(|sector| sector.iter().all(|byte| *byte == 0)).collect();
        let first = usize::try_from(at / SECTOR).expect("small");
        let Some(start) = (first..is_hole.len()).find(|n| !is_hole[*n]) else { return Ok(None) };
        let end = (start..is_hole.len()).find(|n| is_hole[*n]).unwrap_or(is_hole.len());
        Ok(Some(at.max(start as u64 * SECTOR)..end as u64 * SECTOR))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }
}

fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// Devices, segments on them, and for each byte of the mapped device its device and place.
#[derive(Debug)]
struct Setup {
    devices: Vec<Vec<u8>>,
    segments: Vec<Segment>,
    places: Vec<(usize, usize)>,
}

/// Widths in columns, sectors of a stripe and sectors of the whole: laid out on three devices so
/// that nothing overlaps, with gaps.
fn setup() -> impl Strategy<Value = Setup> {
    let shape = (1..4_usize, 1..6_u64, 1..40_u64, 0..3_u64, 0..3_usize);
    let holes = prop::collection::vec(any::<bool>(), 3 * usize::try_from(SECTORS).expect("small"));
    (prop::collection::vec(shape, 1..6), holes).prop_map(|(shapes, holes)| {
        let mut free = [0; 3];
        let (mut segments, mut places) = (Vec::new(), Vec::new());
        for (width, stripe, sectors, gap, turn) in shapes {
            let mut columns = Vec::new();
            for n in 0..width {
                let device = (n + turn) % 3;
                columns.push(Column { device, at: (free[device] + gap) * SECTOR });
                free[device] += gap + sectors;
            }
            let segment = Segment {
                len_bytes: sectors * SECTOR,
                stripe_bytes: stripe * SECTOR,
                columns: columns.clone(),
            };
            segments.push(segment);
            for sector in 0..sectors {
                let (mut column, mut at) = (0, sector);
                if width > 1 {
                    let (round, within) = (sector / stripe, sector % stripe);
                    column = usize::try_from(round).expect("small") % width;
                    at = round / width as u64 * stripe + within;
                }
                let Column { device, at: base } = columns[column];
                let byte = usize::try_from(base + at * SECTOR).expect("small");
                places.extend((byte..byte + 512).map(|byte| (device, byte)));
            }
        }
        let devices = holes.chunks(holes.len() / 3).enumerate().map(|(n, holes)| {
            let sector = |(at, hole): (usize, &bool)| {
                let word = low(at * 3 + n) | 1;
                if *hole { [0; 512] } else { [word; 512] }
            };
            holes.iter().enumerate().flat_map(sector).collect()
        });
        Setup { devices: devices.collect(), segments, places }
    })
}

impl Setup {
    fn mapped(&self) -> Mapped<Rc<Holey>> {
        let devices = self.devices.iter().map(|content| Holey::new(content.clone(), 512));
        Mapped::new(devices.collect(), self.segments.clone()).expect("a device")
    }

    fn content(&self) -> Vec<u8> {
        self.places.iter().map(|(device, byte)| self.devices[*device][*byte]).collect()
    }

    /// The devices after a change of `range` that puts what `byte` says.
    fn change(&mut self, range: Range<usize>, byte: impl Fn(usize) -> u8) {
        for at in range {
            let (device, place) = self.places[at];
            self.devices[device][place] = byte(at);
        }
    }
}

fn assert_devices(mapped: &Mapped<Rc<Holey>>, expected: &[Vec<u8>]) {
    for (n, (device, expected)) in mapped.devices().iter().zip(expected).enumerate() {
        assert!(device.memory.content() == *expected, "device {n} has other bytes");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Read(usize, usize),
    Write(usize, usize, u8),
    WriteVectored(usize, Vec<usize>, u8),
    Zeroes(usize, usize),
    Discard(usize, usize),
}

fn act() -> impl Strategy<Value = Act> {
    // Some lie on no bounds at all.
    let at = prop_oneof![0..40_000_usize, (0..80_usize).prop_map(|n| n * 512)];
    let len = prop_oneof![0..30_000_usize, (0..40_usize).prop_map(|n| n * 512)];
    prop_oneof![
        (at.clone(), len.clone()).prop_map(|(at, len)| Act::Read(at, len)),
        (at.clone(), len.clone(), 1..=255_u8).prop_map(|(at, len, b)| Act::Write(at, len, b)),
        (at.clone(), prop::collection::vec(0..5000_usize, 0..6), 1..=255_u8)
            .prop_map(|(at, lens, b)| Act::WriteVectored(at, lens, b)),
        (at.clone(), len.clone()).prop_map(|(at, len)| Act::Zeroes(at, len)),
        (at, len).prop_map(|(at, len)| Act::Discard(at, len)),
    ]
}

async fn play(mapped: &Mapped<Rc<Holey>>, setup: &mut Setup, act: Act) {
    let total = setup.places.len();
    let pattern = |b: u8| move |at: usize| low(at).wrapping_mul(b) | 1;
    let outcome = |at: usize, len: usize, result: io::Result<()>| {
        let fits = at + len <= total;
        let kind = result.err().map(|error| error.kind());
        assert_eq!(kind, (!fits).then_some(io::ErrorKind::UnexpectedEof), "{at}+{len} of {total}");
        fits
    };
    match act {
        Act::Read(at, len) => {
            let read = mapped.read(at as u64, len).await;
            if let Ok(read) = &read {
                assert!(read[..] == setup.content()[at..at + len], "read {at}+{len}");
            }
            outcome(at, len, read.map(drop));
        }
        Act::Write(at, len, b) => {
            let data: Vec<u8> = (at..at + len).map(pattern(b)).collect();
            if outcome(at, len, mapped.write(at as u64, data.into()).await) {
                setup.change(at..at + len, pattern(b));
            }
        }
        Act::WriteVectored(at, lens, b) => {
            let len = lens.iter().sum();
            let mut data: Bytes = (at..at + len).map(pattern(b)).collect::<Vec<u8>>().into();
            let pieces = lens.iter().map(|len| data.split_to(*len)).collect();
            if outcome(at, len, mapped.write_vectored(at as u64, pieces).await) {
                setup.change(at..at + len, pattern(b));
            }
        }
        Act::Zeroes(at, len) => {
            let zeroed = mapped.write_zeroes(at as u64, len as u64, Allocation::Keep).await;
            if outcome(at, len, zeroed) {
                setup.change(at..at + len, |_| 0);
            }
        }
        Act::Discard(at, len) => {
            // Memory zeroes what is discarded.
            if outcome(at, len, mapped.discard(at as u64, len as u64).await) {
                setup.change(at..at + len, |_| 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_byte_goes_where_it_belongs_and_no_other_changes(
        mut setup in setup(),
        acts in prop::collection::vec(act(), 1..20),
    ) {
        block_on(async {
            let mapped = setup.mapped();
            prop_assert_eq!(mapped.len_bytes().expect("a length"), setup.places.len() as u64);
            for act in acts {
                play(&mapped, &mut setup, act).await;
            }
            assert_devices(&mapped, &setup.devices);
            let all = mapped.read(0, setup.places.len()).await.expect("read");
            prop_assert!(all[..] == setup.content());
            Ok(())
        })?;
    }

    /// What is told apart by `next_data` is not zero, and what it leaves out is.
    #[test]
    fn holes_are_those_of_the_devices_below(setup in setup()) {
        block_on(async {
            let mapped = setup.mapped();
            let content = setup.content();
            let mut at = 0;
            while let Some(data) = mapped.next_data(at).await.expect("holes") {
                prop_assert!(at <= data.start && data.start < data.end, "{data:?} from {at}");
                let [before, start, end] = [at, data.start, data.end]
                    .map(|byte| usize::try_from(byte).expect("small"));
                prop_assert!(content[before..start].iter().all(|byte| *byte == 0));
                prop_assert!(content[start..end].iter().all(|byte| *byte != 0));
                at = data.end;
            }
            let rest = usize::try_from(at).expect("small");
            prop_assert!(content[rest..].iter().all(|byte| *byte == 0));
            Ok(())
        })?;
    }
}

fn zeroed(block_bytes: u32) -> Rc<Holey> {
    Holey::new(vec![0; usize::try_from(SECTORS * SECTOR).expect("small")], block_bytes)
}

#[test]
fn a_flush_flushes_all_devices_also_beside_one_that_fails() {
    block_on(async {
        let devices: Vec<_> = (0..3).map(|_| zeroed(512)).collect();
        devices[0].failing.set(true);
        let segments = (0..3).map(|n| Segment::linear(n, 0, 1024)).collect();
        let mapped = Mapped::new(devices.clone(), segments).expect("a device");
        mapped.flush().await.expect_err("one fails");
        assert_eq!(devices.iter().map(|it| it.flushes.get()).collect::<Vec<_>>(), [1, 1, 1]);
        let data = Bytes::from(vec![7; 3072]);
        mapped.write(0, data).await.expect_err("one fails");
        for device in &devices[1..] {
            assert_eq!(device.memory.content()[..1024], [7; 1024], "the others are driven on");
        }
    });
}

#[test]
fn a_block_is_no_larger_than_what_begins_at_one() {
    let block = |devices: [u32; 2], segments: Vec<Segment>| {
        let devices = devices.map(zeroed).to_vec();
        Mapped::new(devices, segments).expect("a device").block_bytes()
    };
    let linear = |at| Segment::linear(0, at, 8192);
    let striped = |stripe_bytes| {
        let columns = vec![Column { device: 0, at: 8192 }, Column { device: 1, at: 0 }];
        Segment { len_bytes: 16_384, stripe_bytes, columns }
    };
    assert_eq!(block([4096, 4096], vec![linear(8192)]), 4096);
    assert_eq!(block([4096, 512], vec![linear(8192)]), 512, "the least of all");
    assert_eq!(block([4096, 4096], vec![linear(63 * 512)]), 512, "as old partitions begin");
    assert_eq!(block([4096, 4096], vec![linear(2048)]), 2048);
    assert_eq!(block([4096, 4096], vec![striped(4096)]), 4096);
    assert_eq!(block([4096, 4096], vec![striped(2048)]), 2048);
    let odd = Segment::linear(0, 0, 512 * 3);
    assert_eq!(block([4096, 4096], vec![odd.clone(), linear(8192)]), 512);
    assert_eq!(block([4096, 4096], vec![linear(8192), odd]), 4096);
}

#[test]
fn what_is_no_device_is_refused_by_name() {
    let refused = |segment: Segment| {
        Mapped::new(vec![zeroed(512)], vec![segment]).expect_err("refused").to_string()
    };
    let [one, two] = [0, 1].map(|device| Column { device, at: 0 });
    let striped = |len_bytes, stripe_bytes, columns: &[Column]| Segment {
        len_bytes,
        stripe_bytes,
        columns: columns.to_vec(),
    };
    assert_eq!(
        refused(Segment::linear(0, 512, SECTORS * SECTOR)),
        "segment 0 ends at byte 102912 of device 0, which has 102400"
    );
    assert_eq!(refused(Segment::linear(1, 0, 512)), "segment 0 lies on no device");
    assert_eq!(refused(striped(1024, 512, &[])), "segment 0 lies on no device");
    assert_eq!(refused(striped(1024, 512, &[one, two])), "segment 0 lies on no device");
    let unaligned = "segment 0 does not lie on whole sectors";
    assert_eq!(refused(striped(1024, 0, &[one, one])), unaligned);
    assert_eq!(refused(striped(1000, 512, &[one])), unaligned);
    assert_eq!(refused(Segment::linear(0, 1, 512)), unaligned);
    assert_eq!(refused(Segment::linear(0, 0, 0)), unaligned);
    let long = Segment::linear(0, u64::MAX - 511, 1024);
    assert!(refused(long).starts_with("segment 0 ends at byte"));
}

/// The system tells the first who asks that writes were lost, and nobody else.
#[test]
fn a_failed_flush_is_everybodys() {
    block_on(async {
        let below = zeroed(512);
        let shared = Rc::new(Shared::new(below.clone()));
        let [origin, cow] =
            [0, 8192].map(|at| Mapped::window(shared.clone(), at, 8192).expect("a device"));
        origin.flush().await.expect("nothing fails yet");
        below.failing.set(true);
        let both = join(origin.flush(), cow.flush()).await;
        assert!(both.0.is_err() && both.1.is_err(), "{both:?}");
        below.failing.set(false);
        origin.flush().await.expect_err("what is on the medium is unknown");
        cow.flush().await.expect_err("its writes may have been lost as well");
    });
}

#[test]
fn flushes_that_wait_together_are_one() {
    block_on(async {
        let below = zeroed(512);
        let shared = Shared::new(below.clone());
        let order = RefCell::new(Vec::new());
        let flush = async |name: &'static str| {
            shared.flush().await.expect("flush");
            order.borrow_mut().push((name, below.flushes.get()));
        };
        join3(flush("first"), flush("second"), flush("third")).await;
        // The first was begun before the others asked: it may have missed their writes.
        assert_eq!(order.into_inner(), [("first", 1), ("second", 2), ("third", 2)]);
    });
}

#[test]
fn a_flush_that_is_given_up_is_none() {
    block_on(async {
        let shared = Shared::new(zeroed(512));
        let mut flush = Box::pin(shared.flush());
        let polled = futures_util::poll!(flush.as_mut());
        assert!(polled.is_pending());
        drop(flush);
        shared.flush().await.expect_err("nobody knows how that one ended");
    });
}
