use std::fmt;
use std::io;
use std::ops::Range;

use dmsnap_format::{
    ChunkSize, Fence, MOST_SAMPLES, OriginChunk, Sample, Tag, sample_bytes, sampled_bytes,
};

use crate::device::Device;
use crate::planted::{Planted, planted};

/// Where an origin is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceBreak {
    /// It is shorter. A longer one may have been made longer.
    Size {
        /// When the store was made, in bytes.
        then: u64,
        /// Now, in bytes.
        now: u64,
    },
    /// It holds something else in these bytes.
    Content {
        /// The first of them.
        at: u64,
        /// How many; which of them differ is not known.
        len: u64,
    },
}

impl fmt::Display for FenceBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { then, now } => write!(f, "it has {now} bytes and had {then}"),
            Self::Content { at, len } => write!(f, "the {len} bytes from byte {at} on differ"),
        }
    }
}

/// What a store remembers of its origin, and what of that still counts: the samples whose chunks have no
/// exception.
#[derive(Clone, Debug, Default)]
pub struct BaseFence(Option<Box<Remembered>>);

#[derive(Clone, Debug)]
struct Remembered {
    chunk_size: ChunkSize,
    origin_bytes: u64,
    fence: Fence,
    has_exception: [bool; MOST_SAMPLES],
}

impl BaseFence {
    /// Of a store whose exceptions are shown to [`see`](Self::see) next.
    pub fn new(tag: Option<&Tag>, chunk_size: ChunkSize) -> Self {
        let remembers = |tag: &&Tag| tag.fence != Fence::EMPTY;
        Self(tag.filter(remembers).map(|tag| {
            let (origin_bytes, fence) = (tag.origin_bytes, tag.fence);
            let has_exception = [false; MOST_SAMPLES];
            Box::new(Remembered { chunk_size, origin_bytes, fence, has_exception })
        }))
    }

    /// True if nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The store has an exception for this chunk.
    pub fn see(&mut self, old: OriginChunk) {
        let Some(it) = &mut self.0 else { return };
        for (sample, has) in it.fence.samples().iter().zip(&mut it.has_exception) {
            *has |= chunk_of(sample.at, it.chunk_size) == old;
        }
    }

    /// The samples that stay right when everything that has an exception is written to the origin.
    pub fn without_exceptions(&self) -> Fence {
        self.0.iter().flat_map(|it| it.counting()).collect()
    }

    /// The first byte of which two stores remember different content, although neither has an exception there: they
    /// cannot belong to one origin. `None` if nothing speaks against it.
    pub fn contradiction(&self, other: &Self) -> Option<u64> {
        let (Some(a), Some(b)) = (&self.0, &other.0) else { return None };
        let of_a = a.counting();
        let mut pairs = of_a.flat_map(|one| b.counting().map(move |other| (one, other)));
        let contradict = |(one, other): &(Sample, Sample)| {
            let range =
                |it: &Remembered, sample: &Sample| range(sample.at, it.chunk_size, it.origin_bytes);
            range(a, one) == range(b, other) && one.hash != other.hash
        };
        pairs.find(contradict).map(|(one, _)| one.at)
    }

    /// Holds an origin of `now` bytes against the samples that count. `None` if nothing speaks against it.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    pub async fn compare<O: Device>(&self, origin: &O, now: u64) -> io::Result<Option<FenceBreak>> {
        let Some(it) = &self.0 else { return Ok(None) };
        let then = it.origin_bytes;
        if now < then {
            return Ok(Some(FenceBreak::Size { then, now }));
        }
        for (sample, has_exception) in it.fence.samples().iter().zip(it.has_exception) {
            let counts = !has_exception || planted(Planted::FenceOfExceptions);
            if !counts || sample.at >= then {
                continue;
            }
            let range = range(sample.at, it.chunk_size, then);
            if hash(origin, range.clone()).await? != sample.hash {
                let (at, len) = (range.start, range.end - range.start);
                return Ok(Some(FenceBreak::Content { at, len }));
            }
        }
        Ok(None)
    }
}

impl Remembered {
    /// The samples whose chunks have no exception.
    fn counting(&self) -> impl Iterator<Item = Sample> {
        let all = self.fence.samples().iter().zip(self.has_exception);
        all.filter(|(_, has)| !has).map(|(sample, _)| *sample)
    }
}

/// Samples an origin of `origin_bytes` bytes, but for the chunks that are `skipped`: at the places that
/// [`sampled_bytes`] finds for `seed`.
///
/// # Errors
///
/// Any error of the device.
pub async fn take_fence<O: Device>(
    origin: &O,
    (chunk_size, origin_bytes): (ChunkSize, u64),
    seed: [u8; 16],
    skipped: impl Fn(OriginChunk) -> bool,
) -> io::Result<Fence> {
    let mut samples = Vec::new();
    for at in sampled_bytes(chunk_size, origin_bytes, seed) {
        if !skipped(chunk_of(at, chunk_size)) {
            let hash = hash(origin, range(at, chunk_size, origin_bytes)).await?;
            samples.push(Sample { at, hash });
        }
    }
    Ok(samples.into_iter().collect())
}

fn chunk_of(at: u64, chunk_size: ChunkSize) -> OriginChunk {
    OriginChunk::new(at / chunk_size.bytes())
}

fn range(at: u64, chunk_size: ChunkSize, origin_bytes: u64) -> Range<u64> {
    at..at.saturating_add(sample_bytes(chunk_size)).min(origin_bytes)
}

async fn hash<O: Device>(origin: &O, range: Range<u64>) -> io::Result<[u8; 8]> {
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    let bytes = origin.read(range.start, len).await?;
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(&bytes).as_bytes();
    Ok([a, b, c, d, e, f, g, h])
}
