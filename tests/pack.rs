//! The metadata of a store, packed and unpacked.

use dmsnap::device::Memory;
use dmsnap::format::{ChunkSize, Layout, RawHeader};
use dmsnap::ops::{self, Error, PackError, PackOptions, Packed};
use dmsnap_sim::{Disk, Power, run};
use zerocopy::IntoBytes;

use crate::common::{World, bytes, scattered};
use crate::kernel_stores::kernel_stores;

const RAW: PackOptions = PackOptions { raw: true, chunk_size: None };

fn pack(content: &[u8], options: PackOptions) -> Result<(Vec<u8>, Packed), Error> {
    let mut packed = Vec::new();
    let cow = Memory::from(content.to_vec());
    let told = run(ops::pack(&cow, &mut packed, options))?;
    assert_eq!(told.pack_bytes, packed.len() as u64);
    let (head, read) = ops::read_pack(&mut &packed[..]).expect("what was written can be read");
    assert_eq!(head.cow_bytes, content.len() as u64);
    assert_eq!((read.exceptions, read.raw_bytes), (told.exceptions, told.raw_bytes));
    Ok((packed, told))
}

fn unpacked(pack: &[u8], onto: Vec<u8>) -> Vec<u8> {
    let cow = Memory::from(onto);
    let told = run(ops::unpack(&mut &pack[..], &cow, false)).expect("unpacks");
    assert_eq!(told.cow_bytes, cow.content().len() as u64);
    cow.content()
}

/// The header's chunk as far as it is kept, and every area up to the one in which the list ends.
fn metadata(content: &[u8]) -> Vec<std::ops::Range<usize>> {
    let header = RawHeader::from_prefix(content).expect("long").validate().expect("a store");
    let layout = Layout::new(header.chunk_size);
    let chunk = bytes(header.chunk_size.bytes());
    let mut ranges: Vec<_> = std::iter::once(0..chunk.min(4096)).collect();
    let mut index = 0;
    loop {
        let at = bytes(layout.slot_byte(index).expect("small"));
        if at >= content.len() - content.len() % chunk {
            return ranges;
        }
        if layout.position(index).1 == 0 {
            ranges.push(at..at + chunk);
        }
        if content[at + 8..at + 16] == [0; 8] {
            return ranges;
        }
        index += 1;
    }
}

fn told_of(content: &[u8]) -> String {
    let cow = Memory::from(content.to_vec());
    let mut told = String::new();
    let mut findings = Vec::new();
    told += &format!("{:?}\n", run(ops::info(&cow)).map_err(|error| error.to_string()));
    let checked = run(ops::check(&cow, None::<&Memory>, |it| findings.push(it.to_string())));
    told += &format!("{checked:?}\n{findings:?}\n");
    let dumped = run(ops::dump(&cow, |run| {
        told += &format!("{run:?}\n");
        Ok(())
    }));
    told + &format!("{:?}", dumped.map_err(|error| error.to_string()))
}

/// On an empty device the metadata lies where it lay, and nothing else does; on its own device, after its
/// metadata was overwritten, everything is as before.
fn assert_comes_back(content: &[u8], told: &str) {
    let (pack, _) = pack(content, PackOptions::default()).unwrap_or_else(|e| panic!("{told}: {e}"));
    let fresh = unpacked(&pack, vec![0; content.len()]);
    let mut expected = vec![0; content.len()];
    let mut spoilt = content.to_vec();
    for range in metadata(content) {
        expected[range.clone()].copy_from_slice(&content[range.clone()]);
        spoilt[range].fill(0x99);
    }
    assert!(fresh == expected, "{told}: other bytes on an empty device");
    assert_eq!(told_of(&fresh), told_of(content), "{told}");
    let restored = unpacked(&pack, spoilt);
    assert!(restored == content, "{told}: not as before on its own device");
}

#[test]
fn every_kernel_store_comes_back_from_its_pack() {
    let (mut packs, mut stores) = (0, 0);
    for store in kernel_stores() {
        assert_comes_back(&store.content, &store.name);
        packs += pack(&store.content, PackOptions::default()).expect("packs").0.len();
        stores += store.content.len();
    }
    println!("{packs} bytes for {stores}");
    assert!(packs < stores / 200, "{packs} bytes for {stores}");
}

fn world() -> World {
    World::new(1, 200, 400).with_exceptions(&scattered(70, 400, 3))
}

#[test]
fn a_damaged_store_comes_back_as_damaged_as_it_was() {
    let mut strays = world();
    for (index, old) in [(72, 1), (73, 2), (80, 3), (95, u64::MAX)] {
        strays.put_slot(index, old, 150);
    }
    assert_comes_back(&strays.cow, "strays");

    let mut terminator = world();
    terminator.put_slot(70, 77, 0);
    assert_comes_back(&terminator.cow, "a terminator with an origin chunk");

    let mut nonsense = world();
    for (index, old, new) in [(3, 5, 5), (4, 5, 5), (5, u64::MAX, u64::MAX), (6, 1 << 63, 1)] {
        nonsense.put_slot(index, old, new);
    }
    assert_comes_back(&nonsense.cow, "exceptions that cannot be");

    let mut front = world();
    let area = bytes(front.layout.slot_byte(64).expect("small"));
    front.cow.copy_within(area - 33 * 512 + 16..area - 32 * 512, area + 16);
    front.put_slot(64, 0, 0);
    assert_comes_back(&front.cow, "slots after a gap");

    let mut invalid = world();
    invalid.invalidate();
    invalid.cow[64..80].fill(7);
    assert_comes_back(&invalid.cow, "invalid, with bytes after the header");

    for count in [0, 31, 32, 33, 64] {
        let world = World::new(1, 100, 400).with_exceptions(&scattered(count, 400, 5));
        assert_comes_back(&world.cow, &format!("{count} exceptions"));
    }

    let mut endless = World::new(1, 70, 400).with_exceptions(&scattered(64, 400, 5));
    endless.cow.truncate(66 * 512 + 100);
    let (packed, told) = pack(&endless.cow, PackOptions::default()).expect("packs");
    assert_eq!((told.exceptions, told.has_end), (64, false));
    let back = unpacked(&packed, vec![0; endless.cow.len()]);
    assert_eq!(told_of(&back), told_of(&endless.cow));
}

#[test]
fn what_is_not_a_store_is_packed_only_as_it_is() {
    let mut lost = World::new(8, 300, 8 * 400).with_exceptions(&scattered(260, 400, 3));
    lost.cow[..16].fill(0x55);
    assert!(matches!(pack(&lost.cow, PackOptions::default()), Err(Error::Header(_))));
    let (packed, told) = pack(&lost.cow, RAW).expect("packs");
    // Both areas of this chunk size, whole; whatever else may look like one is small.
    assert!((8192..100_000).contains(&told.raw_bytes), "{told:?}");
    let back = unpacked(&packed, vec![0; lost.cow.len()]);
    for range in [0..4096, 4096..8192, 258 * 4096..259 * 4096] {
        assert!(back[range.clone()] == lost.cow[range.clone()], "{range:?}");
    }
    // The same with its chunk size.
    let chunk_size = ChunkSize::from_sectors(8).ok();
    let options = PackOptions { raw: false, chunk_size };
    let (packed, told) = pack(&lost.cow, options).expect("packs");
    assert_eq!((told.exceptions, told.has_end), (260, true));
    let mut back = unpacked(&packed, vec![0; lost.cow.len()]);
    assert_eq!(back[..4096], lost.cow[..4096]);
    back[..16].copy_from_slice(RawHeader::new(lost.layout.chunk_size(), true).as_bytes());
    assert_eq!(run(ops::info(&Memory::from(back))).expect("a store").exceptions, 260);

    for nothing in [vec![], vec![0; 100], vec![0; 1 << 20], vec![0xEE; 1 << 20]] {
        assert!(pack(&nothing, PackOptions::default()).is_err());
        let (packed, told) = pack(&nothing, RAW).expect("packs");
        assert_eq!((told.exceptions, told.raw_bytes), (0, 0));
        assert_eq!(unpacked(&packed, vec![0; nothing.len()])[..], {
            let mut expected = vec![0; nothing.len()];
            let len = nothing.len().min(4096);
            expected[..len].copy_from_slice(&nothing[..len]);
            expected
        });
    }
}

#[test]
fn a_pack_that_is_cut_off_or_has_a_flipped_bit_is_refused() {
    let mut world = world();
    world.put_slot(75, 3, 150);
    let (packed, _) = pack(&world.cow, PackOptions::default()).expect("packs");
    for len in 0..packed.len() {
        let error = ops::read_pack(&mut &packed[..len]).expect_err("cut off");
        let named = match error {
            PackError::CutOff { .. } => len >= 14,
            PackError::NotPack | PackError::Version => len < 14,
            _ => false,
        };
        assert!(named, "{len} bytes: {error}");
    }
    for bit in 0..packed.len() * 8 {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        ops::read_pack(&mut &flipped[..]).expect_err("damaged");
        if bit % 11 > 0 {
            continue;
        }
        // Unpacked all the same, it leaves no store.
        let cow = Memory::zeroed(world.cow.len());
        let error = run(ops::unpack(&mut &flipped[..], &cow, false)).expect_err("damaged");
        assert!(matches!(error, Error::Pack(_)), "bit {bit}: {error}");
        assert!(run(ops::info(&cow)).is_err(), "bit {bit}");
    }
    let more = [&packed[..], b"x"].concat();
    let error = ops::read_pack(&mut &more[..]).expect_err("more follows");
    assert!(error.to_string().ends_with("is the last, but more follows"), "{error}");
}

#[test]
fn what_would_be_lost_is_not_unpacked_over() {
    let world = world();
    let (packed, _) = pack(&world.cow, PackOptions::default()).expect("packs");
    let unpack = |content: &[u8], force| {
        let cow = Disk::new(content.to_vec(), 512, &Power::steady());
        let ended = run(ops::unpack(&mut &packed[..], &cow, force));
        assert!(ended.is_ok() || cow.content() == content, "something was written");
        ended
    };
    assert!(matches!(unpack(&world.cow, false), Err(Error::StoreExists)));
    unpack(&world.cow, true).expect("forced");
    let mut dropped = world.clone();
    dropped.invalidate();
    unpack(&dropped.cow, false).expect("nobody uses it");
    let mut ext4 = vec![0; world.cow.len()];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
    assert!(matches!(unpack(&ext4, false), Err(Error::Occupied { .. })));
    unpack(&ext4, true).expect("forced");
    match unpack(&world.cow[..world.cow.len() - 512], true) {
        Err(Error::CowTooSmall { cow_bytes, needed_bytes }) => {
            assert_eq!((cow_bytes, needed_bytes), (199 * 512, 200 * 512));
        }
        other => panic!("{other:?}"),
    }
}

/// After a cut there is no store, or the one of the pack; and the same call brings that.
#[test]
fn unpacking_cut_at_any_operation_leaves_no_store_or_the_whole_one() {
    let old = world();
    let (packed, _) = pack(&old.cow, PackOptions::default()).expect("packs");
    // A repair was under way: other areas, no header.
    let mut before = old.cow.clone();
    before[..16].fill(0);
    before[512..1024].fill(0x77);
    before[34 * 512..35 * 512].fill(0x77);
    let whole = Power::steady();
    let disk = Disk::new(before.clone(), 512, &whole);
    run(ops::unpack(&mut &packed[..], &disk, false)).expect("unpacks");
    assert!(disk.content() == old.cow);
    let (mut none, mut there) = (0, 0);
    for cut in 0..whole.operations() {
        let disk = Disk::new(before.clone(), 512, &Power::cut_after(cut));
        run(ops::unpack(&mut &packed[..], &disk, false)).expect_err("the power was cut");
        for content in disk.reboots(cut + 1) {
            let disk = Disk::new(content.clone(), 512, &Power::steady());
            match run(ops::info(&disk)) {
                Ok(_) => {
                    assert!(content == old.cow, "cut after {cut}: half a store");
                    there += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Header(_)), "cut after {cut}: {error}");
                    none += 1;
                }
            }
            run(ops::unpack(&mut &packed[..], &disk, true)).expect("unpacks");
            assert!(disk.content() == old.cow, "cut after {cut}: not brought back");
        }
    }
    assert!(none > 20 && there > 0, "{none} without a store, {there} with it");
}

/// A fifth of a million random exceptions of an origin of 4 TiB: less than 4 bytes each.
#[test]
fn a_pack_is_small() {
    let count = 200_000;
    let mut state = 1_u64;
    let mut olds: Vec<u64> = Vec::new();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        olds.push(state >> 34);
    }
    let chunks = Layout::new(ChunkSize::MIN).chunks_needed(count);
    let mut world = World::new(1, chunks, 0);
    world.cow[1024..].fill(0);
    for (index, old) in (0..).zip(&olds) {
        world.put_slot(index, *old, world.layout.lock_step_chunk(index).get());
    }
    let (packed, told) = pack(&world.cow, PackOptions::default()).expect("packs");
    assert_eq!(told.exceptions, count);
    assert!(packed.len() as u64 <= 4 * count, "{} bytes", packed.len());
}
