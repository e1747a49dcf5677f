//! The laws of the store, one test each, on a disk whose power is cut after every operation and of
//! whose unflushed blocks every subset is tried as the one that survived.

mod builder; // a store made in one go
mod queue; // chunks given out, and published meanwhile

use dmsnap::device::Device;
use dmsnap::format::{
    ChunkSize, CowChunk, Exception, Extents, Layout, OriginChunk, RawException, RawHeader, Role,
};
use dmsnap::store::{
    Ledger, Persistent, Store, StoreError, Strays, format, read_exceptions, read_header,
    read_strays,
};
use dmsnap_sim::{Disk, Operation, Power, RequestFault, run};

use bytes::Bytes;

/// One sector: areas of 32 slots, so that boundaries are near.
const CHUNK: u64 = 512;
const E: u64 = 32;
const STALE: u8 = 0xAA;

fn layout() -> Layout {
    Layout::new(ChunkSize::from_sectors(1).expect("legal"))
}

/// What the copied data of origin chunk `old` looks like.
fn data_of(old: u64) -> Vec<u8> {
    (old + 1).to_le_bytes().repeat(64)
}

/// A kernel's image: `count` exceptions in lock-step, old chunk 1000 + index, everything else stale.
fn kernel_image(chunks: u64, count: u64) -> Vec<u8> {
    let mut image = vec![STALE; usize::try_from(chunks * CHUNK).expect("small")];
    image[..512].fill(0);
    let header = RawHeader::new(layout().chunk_size(), true);
    zerocopy_into(&mut image[..16], &header);
    let (last_area, _) = layout().position(count);
    for area in 0..=last_area {
        let at = byte_of_chunk(layout().area_location(area).get());
        image[at..at + 512].fill(0);
    }
    for index in 0..count {
        put_slot(&mut image, index, 1000 + index, layout().lock_step_chunk(index).get());
        let at = byte_of_chunk(layout().lock_step_chunk(index).get());
        image[at..at + 512].copy_from_slice(&data_of(1000 + index));
    }
    image
}

fn zerocopy_into<T: zerocopy::IntoBytes + zerocopy::Immutable>(to: &mut [u8], from: &T) {
    to.copy_from_slice(from.as_bytes());
}

fn byte_of_chunk(chunk: u64) -> usize {
    usize::try_from(chunk * CHUNK).expect("small")
}

fn put_slot(image: &mut [u8], index: u64, old: u64, new: u64) {
    let at = usize::try_from(layout().slot_byte(index).expect("small")).expect("small");
    let exception = Exception { old: OriginChunk::new(old), new: CowChunk::new(new) };
    zerocopy_into(&mut image[at..at + 16], &RawException::from(exception));
}

/// What a kernel finds on a disk: its exceptions, and how many slots after the terminator are not
/// zero. Panics, naming the cut, where a reader could not go on.
fn found(content: Vec<u8>, told: &str) -> (Vec<Exception>, u64) {
    let disk = Disk::new(content, 512, &Power::steady());
    let extents = Extents::new(layout(), disk.len_bytes().expect("size"), None);
    let mut all = Vec::new();
    let read = read_exceptions(&disk, extents, |_, exception| {
        all.push(exception);
        Ok::<_, StoreError>(())
    });
    let (count, end) = run(read).expect("readable");
    assert_eq!(end, dmsnap::store::End::Terminator, "no terminator: {told}");
    let mut strays = 0;
    run(read_strays(&disk, layout(), count, |_, _| strays += 1)).expect("readable");
    (all, strays)
}

fn open(disk: &Disk) -> Result<Persistent<&Disk>, StoreError> {
    run(Persistent::open(disk, None, Strays::Refuse, |_| {}))
}

/// Prepares, writes and commits exceptions for these origin chunks; nothing is published.
fn fill<D: Device>(store: &Persistent<&D>, olds: std::ops::Range<u64>) -> Result<(), StoreError> {
    for old in olds {
        let prepared = store.prepare()?;
        let at = prepared.chunk().get() * CHUNK;
        run(store.device().write(at, Bytes::from(data_of(old))))
            .map_err(|source| StoreError::Io { doing: "fill".into(), source })?;
        store.commit(prepared, OriginChunk::new(old));
    }
    Ok(())
}

/// Every cut of `act` on a disk with `image`, every surviving subset: hands each content to `hold`.
/// Returns how many there were.
fn every_cut(
    image: &[u8],
    act: impl Fn(&Disk) -> Result<(), StoreError>,
    mut hold: impl FnMut(Vec<u8>, &str),
) -> usize {
    let whole = Power::steady();
    act(&Disk::new(image.to_vec(), 512, &whole)).expect("works with power");
    let mut reboots = 0;
    for cut in 0..=whole.operations() {
        let disk = Disk::new(image.to_vec(), 512, &Power::cut_after(cut));
        let ended = act(&disk);
        assert_eq!(ended.is_ok(), cut == whole.operations());
        for (n, content) in disk.reboots(cut + 1).enumerate() {
            reboots += 1;
            hold(content, &format!("cut after {cut} operations, survivors {n}"));
        }
    }
    reboots
}

/// The exceptions are a first part of 1000, 1001, ..., at least `least`, each with its data, and
/// nothing lies after the terminator.
#[allow(clippy::needless_pass_by_value, reason = "each content is made for one look")]
fn assert_prefix(content: Vec<u8>, least: u64, told: &str) -> u64 {
    let (exceptions, strays) = found(content.clone(), told);
    assert!(exceptions.len() as u64 >= least, "lost published exceptions: {told}");
    assert_eq!(strays, 0, "strays: {told}");
    for (index, exception) in (0..).zip(&exceptions) {
        assert_eq!(exception.old.get(), 1000 + index, "{told}");
        let at = byte_of_chunk(exception.new.get());
        let data = &content[at..at + 512];
        assert!(data == data_of(exception.old.get()), "slot {index} without its data: {told}");
    }
    exceptions.len() as u64
}

/// Law 1, and law 4: from one slot to three areas at a time, across area boundaries.
#[test]
fn law_1_an_exception_is_published_only_after_its_data_is_durable() {
    let mut reboots = 0;
    for before in [0, 1, E - 2, E - 1, E, 2 * E - 1] {
        for more in [1, 2, 3, E + 2] {
            let act = |disk: &Disk| {
                let store = open(disk)?;
                fill(&store, 1000 + before..1000 + before + more)?;
                run(store.publish()).map(|_| ())
            };
            reboots += every_cut(&kernel_image(140, before), act, |content, told| {
                let told = format!("{before} and {more} more: {told}");
                assert_prefix(content, before, &told);
            });
        }
    }
    println!("{reboots} reboots");
    assert!(reboots > 10_000, "the worlds have become too small: {reboots}");
}

/// Law 2: however many areas a publish spans, it costs two flushes where the first area's change
/// lies in one block; and only what changed is written.
#[test]
fn law_2_publishing_costs_two_flushes_however_many_exceptions() {
    for (before, more, areas) in [(0, 1, 0), (5, 20, 0), (31, 1, 1), (10, 100, 3), (0, 64, 2)] {
        let disk = Disk::new(kernel_image(200, before), 512, &Power::steady());
        let store = open(&disk).expect("sound");
        fill(&store, 1000 + before..1000 + before + more).expect("room");
        let earlier = disk.log().len();
        run(store.publish()).expect("published");
        let log = &disk.log()[earlier..];
        let flushes = log.iter().filter(|it| **it == Operation::Flush).count();
        assert_eq!(flushes, 2, "{before} and {more} more");
        assert_eq!(log.len() as u64, 2 + 1 + areas, "{before} and {more} more: {log:?}");
        assert_eq!(log.last(), Some(&Operation::Flush));
    }
}

/// Law 2 (c), where a chunk has several untorn units: lowest first, a flush between.
#[test]
fn law_2_several_units_of_one_area_are_written_lowest_first() {
    let size = ChunkSize::from_sectors(8).expect("legal");
    let disk = Disk::new(vec![0; 300 * 4096], 512, &Power::steady());
    run(format(&disk, size)).expect("formatted");
    let store = run(Persistent::open(&disk, None, Strays::Refuse, |_| {})).expect("sound");
    for old in 0..70 {
        let prepared = store.prepare().expect("room");
        store.commit(prepared, OriginChunk::new(old));
    }
    let earlier = disk.log().len();
    run(store.publish()).expect("published");
    let unit = |n: u64| Operation::Write(4096 + n * 512..4096 + (n + 1) * 512);
    let flush = || Operation::Flush;
    let expected = [flush(), unit(0), flush(), unit(1), flush(), unit(2), flush()];
    assert_eq!(disk.log()[earlier..], expected);
}

/// Law 3: what lies after the terminator is durably gone before the first new exception, so that
/// no later reader, a kernel included, brings it to life.
#[test]
fn law_3_strays_are_scrubbed_before_the_first_new_exception() {
    let mut image = kernel_image(100, 3);
    put_slot(&mut image, 4, 77, 6);
    put_slot(&mut image, 5, 78, 7);
    put_slot(&mut image, 31, 79, 33);
    let act = |disk: &Disk| {
        let store = open(disk)?;
        fill(&store, 1003..1006)?;
        run(store.publish()).map(|_| ())
    };
    let reboots = every_cut(&image, act, |content, told| {
        let (exceptions, strays) = found(content, told);
        let olds: Vec<_> = exceptions.iter().map(|exception| exception.old.get()).collect();
        assert!([1000, 1001, 1002, 1003, 1004, 1005].starts_with(&olds), "{olds:?}: {told}");
        assert!(olds.len() == 3 || strays == 0, "strays after new exceptions: {told}");
    });
    assert!(reboots >= 8);
    // Reading alone changes nothing.
    let disk = Disk::new(image.clone(), 512, &Power::steady());
    run(read_header(&disk)).expect("a store");
    assert_eq!(disk.content(), image);
}

/// Law 4: on every size of device, what was given out can be published and read again, and there
/// is room for exactly as many exceptions as the format can hold.
#[test]
fn law_4_the_last_chunk_is_not_given_out_where_its_area_has_no_successor() {
    for chunks in 2..=4 * (E + 1) + 2 {
        let disk = Disk::new(kernel_image(chunks.max(2), 0), 512, &Power::steady());
        let store = open(&disk).expect("sound");
        let mut given = 0;
        while let Ok(prepared) = store.prepare() {
            store.commit(prepared, OriginChunk::new(1000 + given));
            given += 1;
        }
        assert_eq!(given, layout().capacity(chunks), "{chunks} chunks");
        assert!(matches!(store.prepare(), Err(StoreError::Full)));
        run(store.publish()).expect("published");
        let (exceptions, _) = found(disk.content(), &format!("{chunks} chunks"));
        assert_eq!(exceptions.len() as u64, given);
        assert!(open(&disk).is_ok(), "{chunks} chunks: cannot be opened again");
    }
}

/// Law 4: the areas after a cleared one keep their old slots, and must not be reached again when
/// the area before them fills up anew.
#[test]
fn law_4_old_slots_behind_a_cleared_area_stay_out_of_reach() {
    let image = {
        let disk = Disk::new(kernel_image(140, 3 * E), 512, &Power::steady());
        run(open(&disk).expect("sound").clear(2 * E + 2)).expect("cleared");
        disk.content()
    };
    let kept = E - 2;
    let act = |disk: &Disk| {
        let store = open(disk)?;
        for old in 1000 + kept..1000 + kept + 5 {
            fill(&store, old..old + 1)?;
            run(store.publish())?;
        }
        Ok(())
    };
    every_cut(&image, act, |content, told| {
        let count = assert_prefix(content, kept, told);
        assert!(count <= kept + 5, "{count} exceptions: {told}");
    });
}

/// Law 5: neither after loading (a full last area leaves the next area's chunk as the first free
/// one) nor on allocation.
#[test]
fn law_5_metadata_chunks_are_never_given_out() {
    for before in 0..=3 * E {
        let disk = Disk::new(kernel_image(200, before), 512, &Power::steady());
        let store = open(&disk).expect("sound");
        for _ in 0..3 * E {
            let Ok(prepared) = store.prepare() else { break };
            assert_eq!(layout().role(prepared.chunk()), Role::Data, "after {before}");
            store.commit(prepared, OriginChunk::new(0));
        }
    }
}

/// Law 6: so that every kernel computes the same next free chunk.
#[test]
fn law_6_chunks_are_given_out_in_lock_step_with_slots() {
    let disk = Disk::new(kernel_image(200, 7), 512, &Power::steady());
    let store = open(&disk).expect("sound");
    for index in 7..150 {
        let prepared = store.prepare().expect("room");
        assert_eq!(prepared.chunk(), layout().lock_step_chunk(index));
        store.commit(prepared, OriginChunk::new(index));
    }
    // The last chunk given out comes back if it is not needed after all.
    let prepared = store.prepare().expect("room");
    let chunk = prepared.chunk();
    store.abandon(prepared);
    let again = store.prepare().expect("room");
    assert_eq!(again.chunk(), chunk);
    store.abandon(again);
    // A chunk whose copy failed is passed over: the slots close up.
    let lost = store.prepare().expect("room");
    let kept = store.prepare().expect("room");
    let (lost_chunk, kept_chunk) = (lost.chunk(), kept.chunk());
    store.commit(kept, OriginChunk::new(5000));
    store.abandon(lost);
    run(store.publish()).expect("published");
    let (exceptions, strays) = found(disk.content(), "after an abandoned chunk");
    assert_eq!((exceptions.len(), strays), (151, 0));
    assert_eq!(exceptions[150].new, kept_chunk);
    assert!(exceptions.iter().all(|exception| exception.new != lost_chunk));
}

/// Law 6: holes that others left are used only when there is no other room.
#[test]
fn law_6_holes_are_the_last_resort() {
    let mut image = kernel_image(20, 2);
    put_slot(&mut image, 2, 1002, 10);
    let disk = Disk::new(image, 512, &Power::steady());
    let store = open(&disk).expect("sound");
    let mut given = Vec::new();
    while let Ok(prepared) = store.prepare() {
        given.push(prepared.chunk().get());
        store.commit(prepared, OriginChunk::new(2000));
    }
    let expected: Vec<_> = (11..20).chain(4..10).collect();
    assert_eq!(given, expected);
}

/// Law 7: whatever is cleared, a crash leaves at least what was to stay, as a list without gap.
#[test]
fn law_7_clearing_goes_from_the_newest_back_and_leaves_no_gap() {
    let mut reboots = 0;
    for before in [1, 5, E, E + 1, 2 * E, 3 * E - 1, 3 * E] {
        for count in [1, 2, E - 1, E, E + 1, 2 * E + 3, 3 * E] {
            let count = count.min(before);
            let act = |disk: &Disk| {
                let store = open(disk)?;
                run(store.clear(count))
            };
            reboots += every_cut(&kernel_image(140, before), act, |content, told| {
                let told = format!("{count} of {before} cleared: {told}");
                assert_prefix(content, before - count, &told);
            });
            let disk = Disk::new(kernel_image(140, before), 512, &Power::steady());
            act(&disk).expect("cleared");
            assert_eq!(disk.counts().writes, 1, "{count} of {before}: one area only");
            assert_eq!(assert_prefix(disk.content(), 0, "cleared"), before - count);
        }
    }
    println!("{reboots} reboots");
}

/// Law 7 with chunks of several untorn units: highest first, a flush between.
#[test]
fn law_7_several_units_of_one_area_are_cleared_highest_first() {
    let size = ChunkSize::from_sectors(8).expect("legal");
    let disk = Disk::new(vec![0; 600 * 4096], 512, &Power::steady());
    run(format(&disk, size)).expect("formatted");
    let store = run(Persistent::open(&disk, None, Strays::Refuse, |_| {})).expect("sound");
    for old in 0..300 {
        let prepared = store.prepare().expect("room");
        store.commit(prepared, OriginChunk::new(old));
    }
    run(store.publish()).expect("published");
    let earlier = disk.log().len();
    run(store.clear(300 - 170)).expect("cleared");
    let unit = |n: u64| Operation::Write(4096 + n * 512..4096 + (n + 1) * 512);
    let flush = || Operation::Flush;
    let expected = [unit(7), flush(), unit(6), flush(), unit(5), flush()];
    assert_eq!(disk.log()[earlier..], expected);
    assert_eq!(store.published(), 170);
}

/// Law 7: memory follows the disk, not the other way round.
#[test]
fn law_7_a_failed_clear_changes_nothing_in_memory() {
    let power = Power::steady();
    let disk = Disk::new(kernel_image(100, 40), 512, &power);
    let store = open(&disk).expect("sound");
    power.fail(power.operations(), RequestFault::Fails);
    assert!(run(store.clear(3)).is_err());
    assert_eq!(store.published(), 40);
    // Opened anew, the same exceptions are there to be merged: none has become (0, 0).
    let reopened = open(&disk).expect("sound");
    let newest = run(reopened.read_range(37..40)).expect("readable");
    assert_eq!(newest.iter().map(|it| it.old.get()).collect::<Vec<_>>(), [1037, 1038, 1039]);
}

/// Law 8: the mark is durable when the call returns, and final.
#[test]
fn law_8_an_invalid_store_stays_invalid() {
    let disk = Disk::new(kernel_image(100, 3), 512, &Power::steady());
    let store = open(&disk).expect("sound");
    run(store.invalidate()).expect("marked");
    let opened = Operation::Flush;
    assert_eq!(disk.log(), [opened, Operation::Write(0..512), Operation::Flush]);
    assert!(matches!(store.prepare(), Err(StoreError::Invalid)));
    assert!(matches!(run(store.publish()), Err(StoreError::Invalid)));
    assert!(matches!(run(store.clear(1)), Err(StoreError::Invalid)));
    assert!(matches!(open(&disk), Err(StoreError::Invalid)));
    assert!(!run(read_header(&disk)).expect("still a store").valid);
    // The exceptions are still there, for those who look.
    assert_eq!(found(disk.content(), "invalid").0.len(), 3);
}

/// Law 8: a crash while a store is made leaves no store or an empty one, whatever lay there before.
#[test]
fn law_8_creation_never_shows_what_lay_there_before() {
    let mut old_store = kernel_image(100, 40);
    let mut garbage = vec![STALE; 100 * 512];
    garbage[..512].fill(0);
    for image in [&mut old_store, &mut garbage] {
        let was_store = image.starts_with(b"SnAp");
        let act = |disk: &Disk| run(format(disk, layout().chunk_size()));
        let mut empty = 0;
        every_cut(image, act, |content, told| {
            let disk = Disk::new(content.clone(), 512, &Power::steady());
            match run(read_header(&disk)) {
                Err(StoreError::Header(dmsnap::format::HeaderError::Blank)) => {}
                Ok(header) => {
                    assert!(header.valid);
                    let count = found(content, told).0.len();
                    empty += usize::from(count == 0);
                    assert!(count == 0 || (was_store && count == 40), "{count}: {told}");
                }
                other => panic!("{other:?}: {told}"),
            }
        });
        assert!(empty > 0);
    }
}

/// Law 9: after a failed write or flush of metadata nothing more is written through this store.
#[test]
fn law_9_a_failed_write_or_flush_ends_the_use_of_the_store() {
    for fault in [RequestFault::Fails, RequestFault::DropsWrites] {
        for operation in 0.. {
            let power = Power::steady();
            let disk = Disk::new(kernel_image(140, 31), 512, &power);
            let store = open(&disk).expect("sound");
            fill(&store, 1031..1040).expect("room");
            power.fail(power.operations() + operation, fault);
            if run(store.publish()).is_ok() {
                assert_eq!(operation, 4, "area 1, flush, area 0, flush");
                break;
            }
            let before = disk.log().len();
            assert!(matches!(store.prepare(), Err(StoreError::Broken)));
            assert!(matches!(run(store.publish()), Err(StoreError::Broken)));
            assert!(matches!(run(store.clear(1)), Err(StoreError::Broken)));
            assert_eq!(disk.log().len(), before, "written after a failure");
            assert_prefix(disk.content(), 31, "after a failure");
        }
    }
}

/// Law 10: nothing that contradicts the devices or repeats itself is opened for writing.
#[test]
fn law_10_nothing_read_from_the_disk_is_trusted() {
    let origin_bytes = Some(2000 * CHUNK);
    for (what, old, new) in [
        ("a metadata chunk", 5, 34),
        ("the first area", 5, 1),
        ("beyond the device", 5, 100),
        ("beyond everything", 5, u64::MAX),
        ("a run length in the upper bits", 5, 1 << 56 | 5),
        ("beyond the origin", 2000, 5),
        ("far beyond the origin", u64::MAX, 5),
        ("the same origin chunk twice", 1001, 5),
        ("the same COW chunk twice", 5, 3),
    ] {
        let mut image = kernel_image(100, 3);
        put_slot(&mut image, 3, old, new);
        let disk = Disk::new(image.clone(), 512, &Power::steady());
        let opened = run(Persistent::open(&disk, origin_bytes, Strays::Refuse, |_| {}));
        assert!(matches!(opened, Err(StoreError::Fault { .. })), "{what} was believed");
        assert_eq!(disk.content(), image, "{what}: something was written");
    }
    // A list without end.
    let mut image = kernel_image(34, 31);
    put_slot(&mut image, 31, 1031, 33);
    let disk = Disk::new(image, 512, &Power::steady());
    assert!(matches!(open(&disk), Err(StoreError::NoTerminator { area: 1, .. })));
    // What a ledger remembers follows what it has seen, not what a number claims.
    let mut ledger = Ledger::new(Extents::new(layout(), u64::MAX, None));
    let far = Exception { old: OriginChunk::new(u64::MAX), new: CowChunk::new(u64::MAX >> 9) };
    assert!(ledger.admit(far).is_err());
}

/// The numbers of the status line follow the store through publishing and clearing.
#[test]
fn usage_is_what_the_kernel_would_print() {
    let disk = Disk::new(kernel_image(100, 0), 512, &Power::steady());
    let store = open(&disk).expect("sound");
    assert_eq!(store.usage().expect("usable").to_string(), "2/100 2");
    fill(&store, 0..33).expect("room");
    run(store.publish()).expect("published");
    assert_eq!(store.usage().expect("usable").to_string(), "36/100 3");
    run(store.clear(33)).expect("cleared");
    assert_eq!(store.usage().expect("usable").to_string(), "2/100 2");
}
