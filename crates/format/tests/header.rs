//! The first 16 bytes of a COW device: which are accepted, and for which reason others are not.

use crate::common::{any_layout, layouts};
use dmsnap_format::{
    ChunkSize, ChunkSizeError, Header, HeaderError, Layout, MAGIC, RawHeader, Tally,
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// Four fields, little-endian, as they lie on disk.
fn bytes(magic: [u8; 4], valid: u32, version: u32, chunk_size: u32) -> Vec<u8> {
    let mut all = magic.to_vec();
    for field in [valid, version, chunk_size] {
        all.extend(field.to_le_bytes());
    }
    all
}

fn validate(bytes: &[u8]) -> Result<Header, HeaderError> {
    RawHeader::from_prefix(bytes).expect("16 bytes").validate()
}

/// Of a header that is right but for its chunk size.
fn with_chunk_size(sectors: u32) -> Result<Header, HeaderError> {
    validate(&bytes(MAGIC, 1, 1, sectors))
}

#[test]
fn a_fresh_header_has_the_bytes_the_kernel_writes() {
    let header = RawHeader::new(ChunkSize::from_sectors(8).expect("legal"), true);
    let expected = [0x53, 0x6e, 0x41, 0x70, 1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    assert_eq!(header.as_bytes(), expected);
}

#[test]
fn every_chunk_size_and_both_states_come_back() {
    for chunk_size in layouts().map(Layout::chunk_size) {
        for valid in [false, true] {
            let raw = RawHeader::new(chunk_size, valid);
            let by_hand = bytes(*b"SnAp", u32::from(valid), 1, chunk_size.sectors());
            assert_eq!(raw.as_bytes(), by_hand);
            assert_eq!(validate(&by_hand), Ok(Header { chunk_size, valid }));
        }
    }
}

#[test]
fn impossible_chunk_sizes_are_refused() {
    for sectors in [0, 3, 24, 2_097_151, 2_097_153, u32::MAX] {
        let expected = HeaderError::ChunkSize(ChunkSizeError::NotPowerOfTwo { sectors });
        assert_eq!(with_chunk_size(sectors), Err(expected));
    }
    for sectors in [4_194_304, 1 << 23, 1 << 31] {
        let expected = HeaderError::ChunkSize(ChunkSizeError::TooLarge { sectors });
        assert_eq!(with_chunk_size(sectors), Err(expected));
    }
    let largest = with_chunk_size(2_097_152).expect("the largest legal size");
    assert_eq!(largest.chunk_size, ChunkSize::MAX);
}

#[test]
fn any_nonzero_valid_field_means_valid() {
    for (field, valid) in [(0, false), (1, true), (7, true), (1 << 31, true)] {
        let header = validate(&bytes(MAGIC, field, 1, 8)).expect("accepted");
        assert_eq!(header.valid, valid, "field {field}");
    }
}

#[test]
fn only_version_1_exists() {
    for found in [0, 2, 1 << 24, u32::MAX] {
        assert_eq!(validate(&bytes(MAGIC, 1, found, 8)), Err(HeaderError::Version { found }));
    }
}

#[test]
fn only_four_zero_bytes_are_blank() {
    // Whatever follows them: the kernel looks at nothing else before it makes a new store.
    assert_eq!(validate(&bytes([0; 4], 9, 9, 9)), Err(HeaderError::Blank));
    for byte in 0..4 {
        let mut found = [0; 4];
        found[byte] = 1;
        assert_eq!(validate(&bytes(found, 1, 1, 8)), Err(HeaderError::Magic { found }));
    }
}

#[test]
fn a_byte_swapped_magic_is_not_the_magic() {
    let found = *b"pAnS";
    assert_eq!(validate(&bytes(found, 1, 1, 8)), Err(HeaderError::Magic { found }));
}

/// Every combination of right and wrong fields: the first wrong one in the kernel's order is reported.
#[test]
fn magic_is_checked_before_chunk_size_and_that_before_version() {
    for magic in [MAGIC, [0; 4], *b"XXXX"] {
        for chunk_size in [8, 24, 4_194_304] {
            for version in [1, 2] {
                for valid in [0, 1] {
                    let expected = if magic == [0; 4] {
                        "blank"
                    } else if magic != MAGIC {
                        "magic"
                    } else if chunk_size != 8 {
                        "chunk size"
                    } else if version != 1 {
                        "version"
                    } else {
                        "accepted"
                    };
                    let found = match validate(&bytes(magic, valid, version, chunk_size)) {
                        Ok(_) => "accepted",
                        Err(HeaderError::Blank) => "blank",
                        Err(HeaderError::Magic { .. }) => "magic",
                        Err(HeaderError::ChunkSize(_)) => "chunk size",
                        Err(HeaderError::Version { .. }) => "version",
                        Err(_) => "a new kind of error",
                    };
                    assert_eq!(found, expected, "{magic:?} {valid} {version} {chunk_size}");
                }
            }
        }
    }
}

#[test]
fn every_message_names_what_was_found() {
    let message = |bytes: &[u8]| validate(bytes).expect_err("refused").to_string();
    assert!(message(&bytes(*b"LUKS", 1, 1, 8)).contains("4c 55 4b 53"));
    assert!(message(&bytes([0; 4], 1, 1, 8)).contains("zero"));
    assert!(message(&bytes(MAGIC, 1, 1, 24)).contains("24 sectors"));
    assert!(message(&bytes(MAGIC, 1, 1, 4_194_304)).contains("4194304 sectors"));
    assert!(message(&bytes(MAGIC, 1, 77, 8)).contains("version 77"));
}

#[test]
fn a_new_store_without_a_chosen_chunk_size_starts_at_64_sectors() {
    let usage = Tally::new(Layout::new(ChunkSize::KERNEL_DEFAULT)).usage(2048 * 512);
    assert_eq!(usage.to_string(), "64/2048 64");
}

proptest! {
    #[test]
    fn fewer_than_16_bytes_are_no_header(found in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(RawHeader::from_prefix(&found).is_some(), found.len() >= 16);
    }

    #[test]
    fn what_follows_the_header_is_ignored(
        start in prop::collection::vec(any::<u8>(), 16),
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let whole = [start.clone(), rest].concat();
        prop_assert_eq!(RawHeader::from_prefix(&whole), RawHeader::from_prefix(&start));
    }

    #[test]
    fn any_bytes_are_accepted_or_refused(
        magic in prop_oneof![Just(MAGIC), any::<[u8; 4]>()],
        valid in any::<u32>(),
        version in prop_oneof![Just(1), any::<u32>()],
        chunk_size in prop_oneof![
            any_layout().prop_map(|layout| layout.chunk_size().sectors()),
            (0..32_u32).prop_map(|shift| 1 << shift),
            any::<u32>(),
        ],
    ) {
        let found = bytes(magic, valid, version, chunk_size);
        match validate(&found) {
            Ok(header) => {
                prop_assert_eq!((magic, version), (MAGIC, 1));
                prop_assert_eq!(header.chunk_size.sectors(), chunk_size);
                prop_assert_eq!(header.valid, valid != 0);
                let written = RawHeader::new(header.chunk_size, header.valid);
                prop_assert_eq!(written.validate(), Ok(header));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let raw = RawHeader::from_prefix(&found).expect("16 bytes");
        prop_assert_eq!(raw.as_bytes(), found);
    }
}
