//! An origin that others have as well: nothing is acknowledged, kept or merged for a write that is refused.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, DynDevice};
use dmsnap::format::StoreId;
use dmsnap::volume::{SnapshotOptions, View};
use dmsnap_sim::{Disk, Power, run};

use crate::common::live::{AnyVolume, SECTOR, add, any_volume, data, empty_cow, origin, read_all};

const SECTORS: u64 = 64;

/// A disk that may be written while nobody else has it.
struct SharedDisk {
    disk: Rc<Disk>,
    others: Rc<Cell<bool>>,
}

impl SharedDisk {
    fn alone(&self) -> io::Result<()> {
        match self.others.get() {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        }
    }
}

impl Device for SharedDisk {
    async fn claim(&self) -> io::Result<()> {
        self.alone()
    }

    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.disk.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.alone()?;
        self.disk.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.alone()?;
        self.disk.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.alone()?;
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

/// A volume of such a disk with a snapshot `s`.
fn world(backlog_bytes: u64) -> (Rc<AnyVolume>, Rc<Disk>, Rc<Disk>, Rc<Cell<bool>>) {
    let power = Power::steady();
    let (disk, cow) = (origin(SECTORS, &power), empty_cow(1, 200, &power));
    let others = Rc::new(Cell::new(true));
    let shared = SharedDisk { disk: disk.clone(), others: others.clone() };
    let volume = any_volume(DynDevice::new(shared));
    volume.allow_backlog(backlog_bytes);
    add(&volume, "s", cow.clone(), SnapshotOptions::default());
    (volume, disk, cow, others)
}

fn is_refused(done: io::Result<()>) -> bool {
    done.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn a_write_that_is_refused_costs_nothing_and_changes_nothing() {
    for backlog_bytes in [0, 8 << 20] {
        let (volume, disk, cow, others) = world(backlog_bytes);
        let o = View::origin(&volume);
        let snapshot = volume.snapshot("s").expect("there");
        let before = (disk.content(), cow.content(), cow.counts());
        assert!(is_refused(run(o.write(3 * SECTOR, data(100, 1)))));
        assert!(is_refused(run(o.write(0, data(200, SECTORS)))));
        assert!(is_refused(run(o.write_zeroes(5 * SECTOR, SECTOR, Allocation::MayPunch))));
        assert!(is_refused(run(o.discard(7 * SECTOR, SECTOR))));
        let undo = ("u", DynDevice::new(empty_cow(1, 200, &Power::steady())));
        let ids = [1, 2].map(|n| StoreId::new([n; 16]).expect("not zero"));
        let added = run(volume.add_way_back(&snapshot, undo, ids, SnapshotOptions::default()));
        assert!(added.is_err() && volume.snapshot("u").is_none());
        let begun = run(volume.start_merge(&snapshot));
        assert!(begun.is_err() && volume.merge_state().is_none());
        run(volume.flush_all()).expect("there is nothing to write");
        let after = (disk.content(), cow.content(), cow.counts());
        assert_eq!((after.2.writes, &after.0), (before.2.writes, &before.0));
        assert!(after.1 == before.1, "old data was kept");
        assert!(read_all(&o) == before.0, "a write is shown that was refused");

        // The snapshot's own writes need no claim; and when the others are gone the origin is written.
        run(View::snapshot(&volume, &snapshot).write(0, data(300, 2))).expect("written");
        others.set(false);
        run(o.write(3 * SECTOR, data(100, 1))).expect("written");
        run(volume.flush_all()).expect("flushed");
        let mut expected = data(0, SECTORS).to_vec();
        expected[..2 * 512].copy_from_slice(&data(300, 2));
        assert!(read_all(&View::snapshot(&volume, &snapshot)) == expected);
        assert_eq!(disk.content()[3 * 512..][..512], data(100, 1)[..]);
        run(volume.start_merge(&snapshot)).expect("begun");
    }
}

#[cfg(feature = "planted")]
#[test]
fn a_write_that_is_acknowledged_unclaimed_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    plant(Some(Planted::WriteUnclaimed));
    let kept =
        std::panic::catch_unwind(a_write_that_is_refused_costs_nothing_and_changes_nothing).is_ok();
    plant(None);
    assert!(!kept);
}
