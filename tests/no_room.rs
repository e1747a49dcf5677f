//! No room below a COW device: its file has not all its blocks, and the file system is full. That is a full
//! store, with the same rules for origin writes, wherever in the store it happens.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::common::live::{AnyVolume, any_volume, data, empty_cow, origin, read_all};
use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, DynDevice, Memory};
use dmsnap::format::{ChunkSize, StoreId};
use dmsnap::ops;
use dmsnap::volume::{OnFull, SnapshotOptions, State, View};
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
/// snapshot's own writes have used some of them: how many is another number for each sector but near the areas, where all
/// are tried.
fn each_end(rule: OnFull, check: impl Fn(&Rc<AnyVolume>, &Rc<Disk>, &Cell<u64>, &str)) {
    let near_area = |end: u64| [1, 34, 67].iter().any(|area| end.abs_diff(*area) <= 2);
    for (n, own) in (0..).zip([0, 20, 40]) {
        for end in (2..SECTORS + 10).filter(|end| end % 3 == n || near_area(*end)) {
            let power = Power::steady();
            let disk = empty_cow(1, 200, &power);
            let allocated = Rc::new(Cell::new(end * 512));
            let thin = Thin { disk: disk.clone(), allocated: allocated.clone() };
            let volume = any_volume(origin(SECTORS, &power));
            let options = SnapshotOptions { on_full: rule, ..SnapshotOptions::default() };
            let opened = volume.open("s", DynDevice::new(thin), options);
            let snapshot = run(opened).expect("opens");
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
        let again = Disk::new(disk.content(), 512, &Power::steady());
        let now = read_all(volume.origin_device());
        let reopened = any_volume(Memory::from(now));
        let opened = reopened.open("s", DynDevice::new(again), SnapshotOptions::default());
        let snapshot = run(opened).expect(told);
        assert!(read_all(&View::snapshot(&reopened, &snapshot)) == before, "{told}");
    });
    assert!(refused.get() > 80, "only {} were refused", refused.get());
}

/// A merge begins with a tag: without room for it the merge is refused, and the store is as good as before.
#[test]
fn a_merge_that_finds_no_room_for_the_tag_is_refused_and_the_snapshot_lives_on() {
    let power = Power::steady();
    let (disk, cow) = (origin(SECTORS, &power), Disk::new(vec![0; 200 * 512], 512, &power));
    let id = StoreId::new([7; 16]).expect("not zero");
    let chunk_size = ChunkSize::from_sectors(1).expect("a size");
    run(ops::create_for(&cow, &disk, id, chunk_size, false)).expect("made");
    let (cow, allocated) = (Rc::new(cow), Rc::new(Cell::new(u64::MAX)));
    let thin = Thin { disk: cow, allocated: allocated.clone() };
    let volume = any_volume(disk);
    let opened = volume.open("s", DynDevice::new(thin), SnapshotOptions::default());
    let snapshot = run(opened).expect("opens");
    allocated.set(0);
    run(volume.start_merge(&snapshot)).expect_err("there is no room");
    allocated.set(u64::MAX);
    let (view, before) = (View::snapshot(&volume, &snapshot), data(0, SECTORS).to_vec());
    run(View::origin(&volume).write(0, data(5000, 8))).expect("written");
    run(volume.flush_all()).expect("flushed");
    assert_ne!(snapshot.state(), State::Invalid, "it was dropped, and its device was only full");
    assert!(read_all(&view) == before);
    run(volume.start_merge(&snapshot)).expect("there is room");
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
    assert!(dropped.get() > 80, "only {} were dropped", dropped.get());
}

/// A file system that writes everything to a new place, and has room for a number of further writes; what is given
/// back makes room. Or a COW device that is away, for which nothing can be done.
struct Elsewhere {
    disk: Rc<Disk>,
    room: Rc<Cell<u64>>,
    is_away: Rc<Cell<bool>>,
    /// Of the requests to grow, how far one makes it longer.
    step: u64,
}

impl Elsewhere {
    fn over(disk: &Rc<Disk>) -> Self {
        let room = Rc::new(Cell::new(u64::MAX));
        Self { disk: disk.clone(), room, is_away: Rc::default(), step: 0 }
    }

    fn place(&self) -> io::Result<()> {
        match (self.is_away.get(), self.room.get()) {
            (true, _) => Err(io::Error::other("away")),
            (_, 0) => Err(io::ErrorKind::StorageFull.into()),
            (_, room) => {
                self.room.set(room - 1);
                Ok(())
            }
        }
    }
}

impl Device for Elsewhere {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.disk.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.place()?;
        self.disk.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, how: Allocation) -> io::Result<()> {
        if how == Allocation::Keep {
            self.place()?;
        }
        self.disk.write_zeroes(at, len, how).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.room.set(self.room.get().saturating_add(len / 512));
        self.disk.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        match self.is_away.get() {
            true => Err(io::Error::other("away")),
            false => self.disk.flush().await,
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.disk.len_bytes()
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        let mut asked = false;
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            match std::mem::replace(&mut asked, true) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        match self.step {
            0 => Err(io::ErrorKind::StorageFull.into()),
            step => {
                let len = len_bytes.min(self.disk.len_bytes()? + step);
                self.disk.lengthen(usize::try_from(len).expect("small"));
                Ok(())
            }
        }
    }

    fn block_bytes(&self) -> u32 {
        self.disk.block_bytes()
    }
}

fn serve(cow: Elsewhere, options: SnapshotOptions) -> Rc<AnyVolume> {
    let volume = any_volume(origin(SECTORS, &Power::steady()));
    run(volume.open("s", DynDevice::new(cow), options)).expect("opens");
    volume
}

/// Whichever write finds no room, slots in place included, the origin write is refused and nothing is lost.
#[test]
fn no_room_for_a_write_in_place_is_a_full_store() {
    for room in 0..8 {
        let disk = empty_cow(1, 200, &Power::steady());
        let cow = Elsewhere::over(&disk);
        let left = cow.room.clone();
        let options = SnapshotOptions { on_full: OnFull::Fail, ..SnapshotOptions::default() };
        let volume = serve(cow, options);
        let (o, snapshot) = (View::origin(&volume), volume.snapshot("s").expect("there"));
        run(o.write(512 * 50, data(1, 40))).expect("room");
        left.set(room);
        let written = run(o.write(0, data(5000, 1)));
        let refused = written.err().map(|error| error.kind());
        assert_eq!(refused, (room < 2).then_some(io::ErrorKind::StorageFull), "room for {room}");
        assert_eq!(snapshot.state(), State::Active, "room for {room}");
        left.set(u64::MAX);
        run(o.write(0, data(5000, 1))).expect("room again");
        run(volume.flush_all()).expect("durable");
        assert_eq!(run(ops::info(&*disk)).expect("a store").exceptions, 41);
        assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), data(0, SECTORS).to_vec());
    }
}

/// A snapshot that is dropped for lack of room is marked: its own chunks make room for the mark.
#[test]
fn there_is_always_room_for_the_mark() {
    for (chunks, own) in [(200, 0), (200, 60), (100, 97)] {
        let disk = empty_cow(1, chunks, &Power::steady());
        let cow = Elsewhere::over(&disk);
        let left = cow.room.clone();
        let volume = serve(cow, SnapshotOptions::default());
        let (o, snapshot) = (View::origin(&volume), volume.snapshot("s").expect("there"));
        let view = View::snapshot(&volume, &snapshot);
        for sector in 0..own {
            let _full = run(view.write(sector * 512, data(1, 1)));
        }
        run(view.flush()).expect("durable");
        left.set(0);
        run(o.write(512 * 99, data(5000, 1))).expect("goes on");
        run(o.flush()).expect("durable");
        assert_eq!(snapshot.state(), State::Invalid);
        assert!(!snapshot.is_unmarked());
        assert!(!run(ops::info(&*disk)).expect("a header").valid, "{own} of its own");
    }
}

/// A COW device that is away when its snapshot is dropped is marked when it comes back. Until then the origin
/// keeps what a reader of the store would take from it, and the volume does not end well.
fn a_mark_is_tried_until_it_is_there() {
    let disk = empty_cow(1, 200, &Power::steady());
    let cow = Elsewhere::over(&disk);
    let is_away = cow.is_away.clone();
    let volume = serve(cow, SnapshotOptions::default());
    let (o, snapshot) = (View::origin(&volume), volume.snapshot("s").expect("there"));
    is_away.set(true);
    let error = run(o.write(0, data(5000, 1))).expect_err("neither old data nor mark");
    assert!(error.to_string().starts_with("snapshot s: its COW device takes neither"), "{error}");
    assert!(snapshot.state() == State::Invalid && snapshot.is_unmarked());
    let error = run(volume.flush_all()).expect_err("a store is valid and wrong");
    assert!(error.to_string().starts_with("s: cannot mark"), "{error}");
    run(volume.mark_dropped()).expect_err("still away");
    run(o.write(0, data(5000, 1))).expect_err("still no mark");
    is_away.set(false);
    run(volume.mark_dropped()).expect("it is back");
    run(o.write(0, data(5000, 1))).expect("goes on without the snapshot");
    assert!(!snapshot.is_unmarked());
    assert!(!run(ops::info(&*disk)).expect("a header").valid);
    run(volume.flush_all()).expect("all is well");
}

#[test]
fn a_dropped_snapshot_is_marked_when_its_device_comes_back() {
    a_mark_is_tried_until_it_is_there();
}

fn growth(step: u64) -> (Rc<AnyVolume>, SnapshotOptions) {
    let disk = empty_cow(1, 4, &Power::steady());
    let cow = Elsewhere { step, ..Elsewhere::over(&disk) };
    let options = SnapshotOptions {
        on_full: OnFull::Fail,
        max_bytes: Some(200 * 512),
        ..SnapshotOptions::default()
    };
    (serve(cow, options.clone()), options)
}

fn no_room_to_grow_is_a_full_store() {
    let (volume, _) = growth(0);
    let (o, snapshot) = (View::origin(&volume), volume.snapshot("s").expect("there"));
    let refused = run(o.write(0, data(5000, 4))).expect_err("there is no room");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(snapshot.state(), State::Active);
}

#[test]
fn a_store_that_finds_no_room_to_grow_is_full() {
    no_room_to_grow_is_a_full_store();
}

/// Writers who find the store full at once all have it grown, and take what the others got.
#[test]
fn a_store_grows_as_long_as_it_may() {
    for step in [512, 1024, 16 << 20] {
        let (volume, _) = growth(step);
        let o = View::origin(&volume);
        let writes = (0..64).map(|n| o.write(n * 512, data(5000 + n, 1)));
        let ended = run(futures_util::future::join_all(writes));
        assert!(ended.iter().all(Result::is_ok), "in steps of {step}: {ended:?}");
        let snapshot = volume.snapshot("s").expect("there");
        assert_eq!(read_all(&View::snapshot(&volume, &snapshot)), data(0, SECTORS).to_vec());
    }
}

#[cfg(feature = "planted")]
#[test]
fn what_breaks_these_laws_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    let laws: [(_, fn()); 2] = [
        (Planted::MarkedOnce, a_mark_is_tried_until_it_is_there),
        (Planted::GrowthFails, no_room_to_grow_is_a_full_store),
    ];
    for (law, check) in laws {
        plant(Some(law));
        let kept = std::panic::catch_unwind(check).is_ok();
        plant(None);
        assert!(!kept, "{law:?}");
    }
}
