//! A repair in place ends with what a copy shows, and can be taken back at every moment.

use dmsnap::device::Memory;
use dmsnap::format::StoreId;
use dmsnap::ops::{self, Duplicates, Error, RepairOptions, RepairTarget, Repaired, Silent};
use dmsnap_sim::{Disk, Power, run};

use super::view::View;
use super::{agreed, assert_sound};
use crate::common::{World, scattered};

fn id() -> StoreId {
    StoreId::new([9; 16]).expect("not zero")
}

fn options(options: RepairOptions) -> RepairOptions {
    RepairOptions { target: RepairTarget::InPlace { can_grow: true }, ..options }
}

/// Repairs where it is, and holds the result against a copy. What was packed before brings the old metadata back.
pub(super) fn compare(
    cow: &[u8],
    origin: Option<&Memory>,
    copied: RepairOptions,
    made: &Result<(Vec<u8>, Repaired), Error>,
) {
    let device = Memory::from(cow.to_vec());
    let salvage =
        run(ops::salvage(&device, origin, options(copied), |_, _| {})).expect("as before");
    let mut pack = Vec::new();
    let (made, _) = match made {
        Ok(made) => made,
        Err(_) => {
            assert!(run(salvage.back_up(&mut pack)).is_err() && pack.is_empty(), "packed");
            assert!(run(salvage.in_place(id(), &Silent)).is_err(), "repaired");
            assert!(device.content() == cow, "a refused repair wrote");
            return;
        }
    };
    run(salvage.back_up(&mut pack)).expect("packed");
    let repaired = run(salvage.in_place(id(), &Silent)).expect("repaired");
    let sectors = salvage.plan().chunk_size_sectors.expect("known");
    assert_eq!(repaired.exceptions, salvage.plan().kept);
    let found = device.content();
    let origin = origin.map(Memory::content);
    assert_sound(&found, origin.as_deref(), "in place");
    let chunk = usize::try_from(sectors).expect("small") * 512;
    let len = origin.as_ref().map_or(20 * chunk, Vec::len);
    let blank = vec![0; len];
    let below = origin.as_deref().unwrap_or(&blank);
    let [here, there] = [&found, made].map(|it| View::of(it, chunk, len, Duplicates::First));
    for old in 0..len.div_ceil(chunk) as u64 {
        let shown = here.show(&found, below, chunk, old);
        assert!(shown == there.show(made, below, chunk, old), "chunk {old} in place");
    }

    drop(salvage);
    run(ops::unpack(&mut &pack[..], &device, true)).expect("unpacked");
    let back = device.content();
    assert_same_metadata(&back[..cow.len()], cow, chunk);
}

/// The old header's sector and areas are there again; data was never written over.
fn assert_same_metadata(back: &[u8], cow: &[u8], chunk: usize) {
    assert!(back[..512.min(cow.len())] == cow[..512.min(cow.len())], "another header");
    let stride = chunk / 16 + 1;
    let whole = cow.len() / chunk;
    for n in (1..whole).filter(|n| n % stride == 1) {
        let bytes = n * chunk..(n + 1) * chunk;
        assert!(back[bytes.clone()] == cow[bytes], "another area in chunk {n}");
    }
}

/// Power cuts in every step, with any subset of what was not flushed: the damaged store as it was, the sound one,
/// or none, and then the pack brings the damaged one back.
#[test]
fn a_repair_that_is_cut_off_leaves_a_store_or_what_the_backup_brings_back() {
    let mut world = World::new(1, 120, 200).with_exceptions(&scattered(70, 200, 5));
    world.put_slot(70, scattered(70, 200, 5)[3], 4);
    world.put_slot(3, 199, 5000);
    world.cow[512 + 32 * 16 - 16..512 + 32 * 16].fill(0);
    let asked = options(RepairOptions { duplicates: Some(Duplicates::First), ..agreed() });
    let begin = |disk: &Disk| {
        let origin = Memory::from(world.origin.clone());
        let salvage = run(ops::salvage(disk, Some(&origin), asked, |_, _| {})).expect("read");
        let mut pack = Vec::new();
        run(salvage.back_up(&mut pack)).expect("packed");
        (pack, run(salvage.in_place(id(), &Silent)))
    };
    let power = Power::steady();
    begin(&Disk::new(world.cow.clone(), 512, &power)).1.expect("repaired");
    let (mut old, mut begun, mut new) = (0, 0, 0);
    for cut in 0..power.operations() {
        let disk = Disk::new(world.cow.clone(), 512, &Power::cut_after(cut));
        let (pack, repaired) = begin(&disk);
        repaired.expect_err("the power was cut");
        for left in disk.reboots(cut).take(24) {
            let after = Memory::from(left.clone());
            match run(ops::info(&after)) {
                Ok(_) if left[..4096] == world.cow[..4096] => old += 1,
                Ok(_) => {
                    new += 1;
                    assert_sound(&left, Some(&world.origin), "cut off");
                }
                Err(Error::RepairBegun) => {
                    begun += 1;
                    let told = run(ops::salvage(&after, None::<&Memory>, asked, |_, _| {}));
                    assert!(matches!(told.err(), Some(Error::RepairBegun)));
                    run(ops::unpack(&mut &pack[..], &after, false)).expect("unpacked");
                    assert_same_metadata(&after.content(), &world.cow, 512);
                }
                Err(error) => panic!("cut {cut}: {error}"),
            }
        }
    }
    assert!(begun > 0 && old > 0 && new > 0, "{old} as before, {begun} begun, {new} repaired");
}
