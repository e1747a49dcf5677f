use dmsnap::device::{Device, Memory};
use dmsnap::ops::{self, Silent};
use dmsnap_sim::run;

use super::{agreed, assert_sound};
use crate::common::World;
use crate::common::holes::Holes;

const CHUNK: usize = 4096;

/// A device with this content, whose sectors of zeroes are holes.
fn sparse(content: &[u8]) -> Holes {
    let device = Holes::new(content.len() as u64);
    for (n, sector) in (0..).zip(content.chunks(512)) {
        if sector.iter().any(|byte| *byte != 0) {
            run(device.write(n * 512, sector.to_vec().into())).expect("written");
        }
    }
    device
}

#[test]
fn a_chunk_without_data_takes_none_in_the_repaired_store() {
    let mut cow = World::new(8, 20, 8 * 20).with_exceptions(&[3, 9, 11]).cow;
    // The second one's data are zeroes; a fourth one is to be dropped.
    cow[3 * CHUNK..4 * CHUNK].fill(0);
    let slot = CHUNK + 3 * 16;
    cow[slot..slot + 16].copy_from_slice(&[15_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
    let device = sparse(&cow);
    for full in [false, true] {
        let salvage = ops::salvage(&device, None::<&Memory>, agreed(), |_, _| {});
        let salvage = run(salvage).expect("readable");
        let output = Holes::new(salvage.plan().needed_bytes);
        if full {
            // What is there already is not taken for zeroes.
            output.fill(0..output.len_bytes().expect("known"), 0xEE);
        }
        let repaired = run(salvage.copy_to(&output, &Silent)).expect("repaired");
        assert_eq!(repaired.bytes, if full { 3 * 4096 } else { 2 * 4096 });
        let len = usize::try_from(output.len_bytes().expect("known")).expect("small");
        let content = run(output.read(0, len)).expect("read").to_vec();
        assert_sound(&content, None, "repaired");
        assert!(content[2 * CHUNK..5 * CHUNK] == cow[2 * CHUNK..5 * CHUNK], "full: {full}");
        let data = run(output.next_data(3 * 4096)).expect("known").expect("the third one's");
        assert_eq!(data.start, if full { 3 * 4096 } else { 4 * 4096 });
    }
}
