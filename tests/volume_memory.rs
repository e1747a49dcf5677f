//! What a volume copies by itself takes a bounded amount of memory, whatever the size of chunks and however
//! many requests ask for it at once.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::copy::Silent;
use dmsnap::device::{Allocation, Buffer, Device, DynDevice, Memory};
use dmsnap::format::ChunkSize;
use dmsnap::store::format;
use dmsnap::volume::{SnapshotOptions, View};
use dmsnap_sim::run;
use futures_util::future::join_all;

use crate::common::live::{AnyView, AnyVolume, any_volume};

const MIB: u64 = 1 << 20;

/// The most that one request of a device may ask for.
const REQUEST_BYTES: u64 = MIB;

/// What all devices of a test have to do at a time.
#[derive(Default)]
struct Meter {
    now: Cell<u64>,
    most: Cell<u64>,
    largest: Cell<u64>,
}

/// A device whose requests take a while, and are counted.
#[derive(Clone)]
struct Metered {
    inner: Rc<Memory>,
    meter: Rc<Meter>,
}

impl Metered {
    fn new(content: Vec<u8>, meter: &Rc<Meter>) -> Self {
        Self { inner: Rc::new(content.into()), meter: meter.clone() }
    }

    async fn during(&self, len: u64) {
        let meter = &self.meter;
        meter.now.set(meter.now.get() + len);
        meter.most.set(meter.most.get().max(meter.now.get()));
        meter.largest.set(meter.largest.get().max(len));
        for _ in 0..3 {
            let mut asked = false;
            poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        meter.now.set(meter.now.get() - len);
    }
}

impl Device for Metered {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.during(len as u64).await;
        self.inner.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.during(data.len() as u64).await;
        self.inner.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.inner.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.inner.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.inner.flush().await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

/// Sectors that differ.
fn content(bytes: u64) -> Vec<u8> {
    (0..bytes / 512).flat_map(|n| (n * 7 + 1).to_le_bytes().repeat(64)).collect()
}

struct Served {
    meter: Rc<Meter>,
    origin: Rc<Memory>,
    cow: Rc<Memory>,
    volume: Rc<AnyVolume>,
    view: AnyView,
}

fn served(origin_bytes: u64, chunk_bytes: u64) -> Served {
    let meter = Rc::new(Meter::default());
    let cow = Metered::new(vec![0; index(2 * origin_bytes + 4 * chunk_bytes)], &meter);
    let sectors = u32::try_from(chunk_bytes / 512).expect("small");
    run(format(&cow, ChunkSize::from_sectors(sectors).expect("legal"))).expect("formatted");
    let origin = Metered::new(content(origin_bytes), &meter);
    let volume = any_volume(origin.clone());
    let opened = volume.open("s", DynDevice::new(cow.clone()), SnapshotOptions::default());
    let snapshot = run(opened).expect("opened");
    let view = View::snapshot(&volume, &snapshot);
    meter.most.set(0);
    meter.largest.set(0);
    Served { meter, origin: origin.inner, cow: cow.inner, volume, view }
}

impl Served {
    #[track_caller]
    fn assert_bounded(&self, most: u64) {
        let Meter { most: found, largest, .. } = &*self.meter;
        assert!(found.get() > 0, "nothing was asked of a device");
        assert!(largest.get() <= REQUEST_BYTES, "a request of {} bytes", largest.get());
        assert!(found.get() <= most, "{} bytes at a time, more than {most}", found.get());
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        // In parts: this is about what the volume asks for, not about what the test does.
        let parts = (range.start..range.end).step_by(index(REQUEST_BYTES));
        parts
            .flat_map(|at| {
                let len = index(REQUEST_BYTES.min(range.end - at));
                run(self.view.read(at, len)).expect("read").to_vec()
            })
            .collect()
    }
}

#[test]
fn writes_of_a_sector_into_large_chunks_copy_them_in_pieces() {
    let served = served(32 * MIB, 4 * MIB);
    served.volume.limit_copying(6 * MIB);
    let mut expected = content(32 * MIB);
    let writes: Vec<u64> = (0..8).map(|n| n * 4 * MIB + n * 300 * 512).collect();
    for at in &writes {
        expected[index(*at)..index(at + 512)].fill(9);
    }
    let sector = Bytes::from(vec![9; 512]);
    let written = writes.iter().map(|at| served.view.write(*at, sector.clone()));
    run(join_all(written)).into_iter().collect::<io::Result<Vec<_>>>().expect("written");
    served.assert_bounded(6 * MIB);
    assert!(served.read(0..32 * MIB) == expected, "another content");
    assert_eq!(run(served.view.read(4096, 512)).expect("read")[..], expected[4096..4608]);
}

/// The chunk is seen when it is whole, and not before.
#[test]
fn a_large_chunk_that_cannot_be_written_whole_is_not_seen() {
    let served = served(8 * MIB, 4 * MIB);
    // Room for the header, an area and the first half of a chunk.
    served.cow.resize(index(10 * MIB));
    let whole = served.read(0..8 * MIB);
    run(served.view.write(4096, Bytes::from(vec![9; 512]))).expect_err("the device ends");
    assert_eq!(served.volume.snapshot("s").expect("there").exceptions(), 0);
    assert!(served.read(0..8 * MIB) == whole, "half of a chunk is seen");
}

#[test]
fn old_data_for_many_origin_writes_at_once_is_bounded() {
    let served = served(64 * MIB, 2 * MIB);
    served.volume.limit_copying(8 * MIB);
    let old = content(64 * MIB);
    let origin = View::origin(&served.volume);
    let sector = Bytes::from(vec![9; 512]);
    let writes = (0..32).map(|n| origin.write(n * 2 * MIB + 512, sector.clone()));
    run(join_all(writes)).into_iter().collect::<io::Result<Vec<_>>>().expect("written");
    served.assert_bounded(8 * MIB);
    assert!(served.read(0..64 * MIB) == old, "the snapshot has changed");
}

#[test]
fn reads_that_are_put_together_are_bounded() {
    let served = served(16 * MIB, 4096);
    let chunk = Bytes::from(vec![9; 4096]);
    let mut expected = content(16 * MIB);
    for n in 0..2048_u64 {
        let at = n * 2 * 4096;
        run(served.view.write(at, chunk.clone())).expect("written");
        expected[index(at)..index(at + 4096)].fill(9);
    }
    served.volume.limit_copying(2 * MIB);
    served.meter.most.set(0);
    let reads = (0..4).map(|_| served.view.read(0, index(16 * MIB)));
    for read in run(join_all(reads)) {
        assert!(read.expect("read")[..] == expected[..], "another content");
    }
    served.assert_bounded(2 * MIB);
}

#[test]
fn a_merge_of_large_chunks_moves_them_in_pieces() {
    let served = served(16 * MIB, 4 * MIB);
    let mut expected = content(16 * MIB);
    for at in [512, 9 * MIB] {
        run(served.view.write(at, Bytes::from(vec![9; 4096]))).expect("written");
        expected[index(at)..index(at + 4096)].fill(9);
    }
    served.meter.most.set(0);
    let snapshot = served.volume.snapshot("s").expect("there");
    run(served.volume.start_merge(&snapshot)).expect("started");
    run(served.volume.run_merge(64 * MIB, &Silent)).expect("merged");
    served.assert_bounded(8 * MIB);
    assert!(served.origin.content() == expected, "another content");
}
