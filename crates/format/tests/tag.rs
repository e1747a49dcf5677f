//! The tag after the header in chunk 0.

use dmsnap_format::{
    ChunkSize, MOST_SAMPLES, RawHeader, Sample, StoreId, TAG_AT, TAG_BYTES, Tag, TagState,
    sample_bytes, sampled_bytes,
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn tag() -> Tag {
    let samples =
        (0..7).map(|n| Sample { at: n * 4096, hash: [u8::try_from(n).expect("small"); 8] });
    Tag {
        state: TagState::Merging,
        partner: StoreId::new([9; 16]),
        origin_bytes: 1 << 40,
        snapshot_bytes: 3 << 40,
        undone: true,
        fence: samples.collect(),
        ..Tag::new(StoreId::new([3; 16]).expect("not zero"))
    }
}

fn sector(tag: &Tag) -> [u8; 512] {
    let mut sector = [0; 512];
    let header = RawHeader::new(ChunkSize::DEFAULT, true);
    sector[..16].copy_from_slice(header.as_bytes());
    sector[TAG_AT..TAG_AT + TAG_BYTES].copy_from_slice(&tag.to_bytes());
    sector
}

#[test]
fn a_tag_reads_as_it_was_written() {
    let tag = tag();
    assert_eq!(Tag::from_sector(&sector(&tag)), Some(tag));
    for state in [TagState::Plain, TagState::Undo, TagState::Filling, TagState::Repairing] {
        let tag = Tag { state, needs_partner: true, undone: false, partner: None, ..tag };
        assert_eq!(Tag::from_sector(&sector(&tag)), Some(tag));
    }
}

#[test]
fn its_fields_lie_where_the_format_says() {
    let sector = sector(&tag());
    assert_eq!(&sector[64..72], b"dmsnapT1");
    assert_eq!(sector[76..80], [2, 0, 7, 0]);
    assert_eq!(sector[80..96], [3; 16]);
    assert_eq!(sector[96..112], [9; 16]);
    assert_eq!(sector[112..120], (1_u64 << 40).to_le_bytes());
    assert_eq!(sector[120..128], (3_u64 << 40).to_le_bytes());
    assert_eq!(sector[128..130], [1, 0]);
    assert_eq!(sector[192..208], [0; 16], "byte 0 of the origin, and a hash of zeroes");
    assert_eq!(sector[208..216], 4096_u64.to_le_bytes());
    // Its checksum is CRC-32C: that of "123456789" is known.
    assert_eq!(crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(b"123456789"), 0xe306_9283);
}

#[test]
fn a_store_without_a_tag_has_none() {
    assert_eq!(Tag::from_sector(&[0; 512]), None);
    assert_eq!(Tag::from_sector(&sector(&tag())[..300]), None, "too short");
}

#[test]
fn a_later_state_is_kept_as_it_is() {
    let tag = Tag { state: TagState::Unknown(900), ..tag() };
    assert_eq!(Tag::from_sector(&sector(&tag)).map(|it| it.state), Some(TagState::Unknown(900)));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let whole = sector(&tag());
    for bit in TAG_AT * 8..512 * 8 {
        let mut flipped = whole;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Tag::from_sector(&flipped), None, "bit {bit}");
    }
}

#[test]
fn superblocks_and_the_end_are_sampled() {
    let size = ChunkSize::from_sectors(8).expect("legal");
    let all: Vec<u64> = sampled_bytes(size, 10 << 30, [5; 16]).collect();
    assert_eq!(all.len(), MOST_SAMPLES);
    for at in [0, 64 << 10, 1 << 20, (10 << 30) - 4096] {
        assert!(all.contains(&at), "{at} is not sampled");
    }
    // A sector at 1 KiB is one of its own where chunks are as small.
    let small: Vec<u64> = sampled_bytes(ChunkSize::MIN, 1 << 20, [5; 16]).collect();
    assert!(small.contains(&1024), "{small:?}");
}

proptest! {
    #[test]
    fn samples_lie_on_the_origin_and_none_comes_twice(
        sectors in 0_u32..22, origin_bytes in 0_u64..1 << 50, seed: [u8; 16],
    ) {
        let size = ChunkSize::from_sectors(1 << sectors).expect("legal");
        let mut all: Vec<u64> = sampled_bytes(size, origin_bytes, seed).collect();
        for at in &all {
            prop_assert!(*at < origin_bytes && at.is_multiple_of(sample_bytes(size)));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), count);
        let there = origin_bytes.div_ceil(sample_bytes(size));
        prop_assert!(count > 0 || there == 0);
    }

    #[test]
    fn garbage_is_no_tag(bytes: Vec<u8>) {
        prop_assert_eq!(Tag::from_sector(&bytes), None);
    }
}
