//! Exceptions as sixteen planes of bytes, one zstd frame each.
//!
//! Of each exception two differences are kept: `old` from the one before it, and `new` from the chunk in
//! lock-step with its slot. Their first bytes come together, then their second ones, and so on: bytes that are
//! alike stand next to each other, and those of a store in lock-step that has few chunks are nearly all zero.

use dmsnap_format::{CowChunk, Exception, Layout, OriginChunk};

use super::record::{compress, decompress};

/// The most exceptions in one record.
pub(super) const MOST: usize = 1 << 16;

/// Bytes of the two differences of an exception, and so the number of planes.
const PLANES: usize = 16;

/// Exceptions in consecutive slots, of which the first has this index.
pub(super) fn encode(layout: Layout, first: u64, exceptions: &[Exception]) -> Vec<u8> {
    let mut before = 0;
    let mut differences = Vec::with_capacity(exceptions.len());
    for (exception, index) in exceptions.iter().zip(first..) {
        let old = exception.old.get();
        let old_difference = zigzag(old.wrapping_sub(before));
        let in_step = layout.lock_step_chunk(index).get();
        let new_difference = zigzag(exception.new.get().wrapping_sub(in_step));
        before = old;
        differences.push(u128::from(new_difference) << 64 | u128::from(old_difference));
    }
    let plane = |n: usize| -> Vec<u8> {
        differences.iter().map(|difference| difference.to_le_bytes()[n]).collect()
    };
    (0..PLANES).flat_map(|n| compress(&plane(n))).collect()
}

/// The same `count` exceptions again; `None` if the frames are damaged.
pub(super) fn decode(
    layout: Layout,
    first: u64,
    count: usize,
    frames: &[u8],
) -> Option<Vec<Exception>> {
    let planes = decompress(frames, count.checked_mul(PLANES)?)?;
    let mut before = 0_u64;
    let exception = |(n, index): (usize, u64)| {
        let difference = |planes: &[u8]| {
            let bytes = planes.iter().skip(n).step_by(count);
            bytes.rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (olds, news) = planes.split_at(count * PLANES / 2);
        let old = before.wrapping_add(unzigzag(difference(olds)));
        let in_step = layout.lock_step_chunk(index).get();
        let new = in_step.wrapping_add(unzigzag(difference(news)));
        before = old;
        Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
    };
    Some((0..count).zip(first..).map(exception).collect())
}

/// A difference that may be negative, so that small ones of both signs are small numbers.
const fn zigzag(difference: u64) -> u64 {
    let sign = 0_u64.wrapping_sub(difference >> 63);
    (difference << 1) ^ sign
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ 0_u64.wrapping_sub(number & 1)
}

#[cfg(test)]
mod tests {
    use dmsnap_format::ChunkSize;

    use super::*;

    #[test]
    fn a_difference_comes_back_and_small_ones_are_small() {
        for (difference, number) in [(0, 0), (u64::MAX, 1), (1, 2), (u64::MAX - 1, 3), (2, 4)] {
            assert_eq!(zigzag(difference), number);
        }
        for difference in [0, 1, 77, 1 << 62, 1 << 63, (1 << 63) - 1, u64::MAX] {
            assert_eq!(unzigzag(zigzag(difference)), difference);
        }
    }

    #[test]
    fn any_exceptions_come_back() {
        let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
        let mut state = 7_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for (count, first) in [(0, 0), (1, 0), (300, 250), (MOST, 1 << 40), (5, u64::MAX - 5)] {
            let exceptions: Vec<_> = (0..count)
                .map(|_| Exception {
                    old: OriginChunk::new(random()),
                    new: CowChunk::new(random()),
                })
                .collect();
            let frames = encode(layout, first, &exceptions);
            assert!(frames.len() <= (1 << 20) + 4000, "{count}: {}", frames.len());
            assert_eq!(decode(layout, first, count, &frames), Some(exceptions));
            assert_eq!(decode(layout, first, count + 1, &frames), None);
        }
    }
}
