use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::units::ChunkSize;

/// The most samples that a tag has room for.
pub const MOST_SAMPLES: usize = 20;

/// A sample as it is stored.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawSample {
    at: U64,
    hash: [u8; 8],
}

/// What a few bytes of the origin were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The first of them: a multiple of [`sample_bytes`].
    pub at: u64,
    /// The first 8 bytes of their BLAKE3 hash.
    pub hash: [u8; 8],
}

impl From<RawSample> for Sample {
    fn from(raw: RawSample) -> Self {
        Self { at: raw.at.get(), hash: raw.hash }
    }
}

impl From<Sample> for RawSample {
    fn from(sample: Sample) -> Self {
        Self { at: U64::new(sample.at), hash: sample.hash }
    }
}

/// How many bytes a sample has: a chunk, at most 4096. The last one of an origin may be shorter.
pub const fn sample_bytes(chunk_size: ChunkSize) -> u64 {
    let chunk = chunk_size.bytes();
    if chunk < 4096 { chunk } else { 4096 }
}

/// Up to [`MOST_SAMPLES`] samples of an origin. They hold as long as the store has no exception for their
/// chunks: without one the origin has not changed there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    samples: [Sample; MOST_SAMPLES],
    len: usize,
}

impl Fence {
    /// Without samples.
    pub const EMPTY: Self =
        Self { samples: [Sample { at: 0, hash: [0; 8] }; MOST_SAMPLES], len: 0 };

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples[..self.len]
    }
}

/// Of the first [`MOST_SAMPLES`].
impl FromIterator<Sample> for Fence {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut fence = Self::EMPTY;
        for sample in samples.into_iter().take(MOST_SAMPLES) {
            fence.samples[fence.len] = sample;
            fence.len += 1;
        }
        fence
    }
}

impl core::fmt::Debug for Fence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.samples().fmt(f)
    }
}

/// Where to sample an origin of this size, in bytes: where partition tables and superblocks lie, at the end, and at
/// places that depend on `seed`. None twice; every one a multiple of [`sample_bytes`].
///
/// A file system that is mounted for writing changes its superblock, so nearly every change of the whole is
/// seen.
pub fn sampled_bytes(
    chunk_size: ChunkSize,
    origin_bytes: u64,
    seed: [u8; 16],
) -> impl Iterator<Item = u64> {
    let unit = sample_bytes(chunk_size);
    let units = origin_bytes.div_ceil(unit);
    let known = [0, 1 << 10, 64 << 10, 1 << 20, origin_bytes.saturating_sub(1)];
    let seed = u128::from_le_bytes(seed);
    let [a, b, c, d, e, f, g, h, ..] = (seed ^ (seed >> 64)).to_le_bytes();
    let mut state = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    // SplitMix64: any spread does, but every machine has to draw the same one.
    let random = core::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    let random = random.take(4 * MOST_SAMPLES);
    let random = random.map(move |number| number % units.max(1));
    let places = known.into_iter().map(move |byte| byte / unit).chain(random);
    let mut seen = [u64::MAX; MOST_SAMPLES];
    let mut count = 0;
    places.filter_map(move |place| {
        if place >= units || count == MOST_SAMPLES || seen[..count].contains(&place) {
            return None;
        }
        seen[count] = place;
        count += 1;
        Some(place * unit)
    })
}
