use blake3::Hasher;
use bytes::Bytes;

use super::content::{Content, Whole};
use super::devices::whole_sectors;
use super::pairs::{Half, PIECE_BYTES, Pair, cut, each_pair};
use super::source::Source;
use super::sparse::Sparse;
use super::{Error, ExportOptions, Observer, Which};
use crate::device::Device;

/// Whether a snapshot is the same bytes as an image.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Compared {
    /// It is.
    pub same: bool,
    /// The first byte that differs, or that only one of the two has.
    pub first_difference: Option<u64>,
    /// Size of the snapshot.
    pub snapshot_bytes: u64,
    /// Size of the image, in whole sectors.
    pub image_bytes: u64,
    /// BLAKE3 of all that the snapshot shows, in hexadecimal digits.
    pub snapshot_blake3: String,
    /// The same of the image.
    pub image_blake3: String,
    /// Bytes read of all devices: holes are not.
    pub read_bytes: u64,
}

/// Compares what the store shows over its origin with an image, all of it. What is known to be a hole is
/// not read.
///
/// # Errors
///
/// As [`export`](super::export()), of which errors of the image are those of the output.
pub async fn compare<C: Device, O: Device, T: Device>(
    cow: &C,
    origin: &O,
    image: &T,
    options: ExportOptions,
    observer: &impl Observer,
) -> Result<Compared, Error> {
    let snapshot = Source::new((cow, Which::Cow), origin, options).await?;
    let image_bytes = whole_sectors(image, Which::Output)?;
    let image = Whole { sparse: Sparse::new(image, Which::Output), len_bytes: image_bytes };
    let total = snapshot.len_bytes().max(image_bytes);
    let mut comparison = Comparison::default();
    let pieces = cut(0..total, PIECE_BYTES);
    let compared = each_pair((&snapshot, &image), pieces, (observer, total), |pair| {
        comparison.take(&pair);
        Ok(true)
    });
    compared.await?;
    let (snapshot_bytes, first_difference) = (snapshot.len_bytes(), comparison.first_difference);
    let [snapshot_blake3, image_blake3] = comparison.hashes();
    Ok(Compared {
        same: first_difference.is_none(),
        first_difference,
        snapshot_bytes,
        image_bytes,
        snapshot_blake3,
        image_blake3,
        read_bytes: comparison.read_bytes,
    })
}

/// How far a comparison has come.
struct Comparison {
    first_difference: Option<u64>,
    read_bytes: u64,
    /// Of both as long as they are the same, later of the snapshot.
    hasher: Hasher,
    /// Of the image, once they differ.
    apart: Option<Hasher>,
    zeroes: Bytes,
}

impl Default for Comparison {
    fn default() -> Self {
        let zeroes = Bytes::from(vec![0; usize::try_from(PIECE_BYTES).unwrap_or(0)]);
        Self { first_difference: None, read_bytes: 0, hasher: Hasher::new(), apart: None, zeroes }
    }
}

impl Comparison {
    fn take(&mut self, pair: &Pair) {
        self.read_bytes += pair.read_bytes();
        let lens = pair.halves.each_ref().map(|half| usize::try_from(half.len).unwrap_or(0));
        let both = lens[0].min(lens[1]);
        if self.first_difference.is_none() {
            let only_one = (lens[0] != lens[1]).then_some(both);
            let first = pair.difference(0..both).or(only_one);
            self.first_difference = first.map(|at| pair.at + at as u64);
        }
        if self.first_difference.is_some() && self.apart.is_none() {
            // They were the same up to this piece.
            self.apart = Some(self.hasher.clone());
        }
        let [snapshot, image] = &pair.halves;
        let zeroes = &self.zeroes;
        let bytes = |half: &Half, len: usize| match &half.data {
            Some(data) => data.clone(),
            None => zeroes.slice(..len),
        };
        self.hasher.update(&bytes(snapshot, lens[0]));
        if let Some(apart) = &mut self.apart {
            apart.update(&bytes(image, lens[1]));
        }
    }

    fn hashes(&self) -> [String; 2] {
        let hash = |hasher: &Hasher| hasher.finalize().to_hex().to_string();
        [hash(&self.hasher), hash(self.apart.as_ref().unwrap_or(&self.hasher))]
    }
}
