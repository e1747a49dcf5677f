//! No room below a COW device: its file has not all its blocks, and the file system is full. That is a full
//! store, with the same rules for origin writes, wherever in the store it happens.

mod common;

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use common::live::{data, empty_cow, origin, read_all};
use dmsnap::device::{Allocation, Buffer, Device};
use dmsnap::ops;
use dmsnap::volume::{OnFull, SnapshotOptions, State, View, Volume};
use dmsnap_sim::{Disk, Power, run};

const SECTORS: u64 = 100;

/// A disk of which only the first bytes have blocks.
struct Thin {
    disk: Rc<Disk>,
    allocated: Rc<Cell<u64>>,
}

impl Thin {
    fn room(&self, end: u64) -> io::Result<()> {
        match end <= self.allocated.get() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Device for Thin {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.disk.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.room(at + data.len() as u64)?;
        self.disk.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.room(at + len)?;
        self.disk.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.disk.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.disk.flush().await
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(at).await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.disk.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.disk.block_bytes()
    }
}

/// One world for each sector at which the blocks end: data chunks, and the areas at chunks 34 and 67. The
/// snapshot's own writes have used some of them.
fn each_end(
    rule: OnFull,
    check: impl Fn(&Rc<Volume<Rc<Disk>, Thin>>, &Rc<Disk>, &Cell<u64>, &str),
) {
    for own in [0, 20, 40] {
        for end in 2..SECTORS + 10 {
            let power = Power::steady();
            let disk = empty_cow(1, 200, &power);
            let allocated = Rc::new(Cell::new(end * 512));
            let thin = Thin { disk: disk.clone(), allocated: allocated.clone() };
            let volume = Rc::new(Volume::new(origin(SECTORS, &power)).expect("a size"));
            let options = SnapshotOptions { on_full: rule, ..SnapshotOptions::default() };
            let snapshot = run(volume.open("s", thin, options)).expect("opens");
            let view = View::snapshot(&volume, &snapshot);
            for sector in 0..own {
                // Some of it published, some not.
                let _ = run(view.write(sector * 512, data(1000 + sector, 1)));
                if sector == 10 {
                    let _ = run(view.flush());
                }
            }
            check(&volume, &disk, &allocated, &format!("{own} written, blocks for {end}"));
        }
    }
}

/// The origin write fails, changes nothing and drops nothing; with room it succeeds, and everything can be
/// made durable.
#[test]
fn an_origin_write_fails_and_the_snapshot_lives_on() {
    let refused = Cell::new(0);
    each_end(OnFull::Fail, |volume, disk, allocated, told| {
        let snapshot = volume.snapshot("s").expect("there");
        let (view, o) = (View::snapshot(volume, &snapshot), View::origin(volume));
        let before = read_all(&view);
        match run(o.write(0, data(5000, SECTORS))) {
            Ok(()) => assert_eq!(read_all(&o), data(5000, SECTORS).to_vec(), "{told}"),
            Err(error) => {
                refused.set(refused.get() + 1);
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{told}");
                assert_eq!(read_all(&o), data(0, SECTORS).to_vec(), "{told}");
            }
        }
        assert_ne!(snapshot.state(), State::Invalid, "{told}");
        assert!(read_all(&view) == before, "{told}");
        // A power cut now finds a store in order.
        for content in disk.reboots(7) {
            let found = Disk::new(content, 512, &Power::steady());
            let report = run(ops::check(&found, None::<&Disk>, |_| {})).expect("readable");
            assert!(report.sound, "{told}");
        }
        allocated.set(u64::MAX);
        run(o.write(0, data(5000, SECTORS))).expect(told);
        run(volume.flush_all()).expect(told);
        assert!(read_all(&view) == before, "{told}");
        let again = Rc::new(Disk::new(disk.content(), 512, &Power::steady()));
        let reopened =
            Rc::new(Volume::<_, Rc<Disk>>::new(volume.origin_device().clone()).expect("a size"));
        let snapshot = run(reopened.open("s", again, SnapshotOptions::default())).expect(told);
        assert!(read_all(&View::snapshot(&reopened, &snapshot)) == before, "{told}");
    });
    assert!(refused.get() > 250, "only {} were refused", refused.get());
}

/// Where the rule is to drop it, it is dropped, durably, and the write goes on.
#[test]
fn an_origin_write_drops_the_snapshot_where_that_is_the_rule() {
    let dropped = Cell::new(0);
    each_end(OnFull::Invalidate, |volume, disk, _, told| {
        let snapshot = volume.snapshot("s").expect("there");
        let o = View::origin(volume);
        run(o.write(0, data(5000, SECTORS))).expect(told);
        run(o.flush()).expect(told);
        assert_eq!(read_all(&o), data(5000, SECTORS).to_vec(), "{told}");
        let valid = run(ops::info(&**disk)).expect(told).valid;
        assert_eq!(valid, snapshot.state() != State::Invalid, "{told}");
        dropped.set(dropped.get() + u32::from(!valid));
    });
    assert!(dropped.get() > 250, "only {} were dropped", dropped.get());
}
