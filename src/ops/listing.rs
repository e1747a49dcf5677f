use std::fmt;
use std::io;

use dmsnap_format::{ChunkSize, RawHeader, SECTOR_BYTES, VERSION};
use zerocopy::IntoBytes;

use super::Error;
use super::checksum::{CRC32C, Sum};
use super::dump::{PlacedRun, runs};
use crate::device::Device;
use crate::store::Reader;

/// A store apart from its exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ListHead {
    /// False once the snapshot was dropped.
    pub valid: bool,
    /// Of the format; always 1.
    pub version: u32,
    /// In sectors.
    pub chunk_size_sectors: u32,
    /// Size of the COW device, in sectors.
    pub total_sectors: u64,
}

/// What the entries before it add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ListEnd {
    /// How many exceptions there are.
    pub exceptions: u64,
    /// CRC-32C over what the entries say, as [`ListSum`] takes it.
    #[cfg_attr(feature = "serde", serde(with = "hex"))]
    pub crc32c: u32,
}

/// One entry of a list from which a store's metadata can be made again: the store, its runs in the order of
/// the slots, and the end. With feature `serde` each is an object of JSON: `{"store": ...}`, a run as it
/// stands, `{"end": ...}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
pub enum Entry {
    /// The first.
    Store {
        /// What it is.
        store: ListHead,
    },
    /// The others.
    Run(PlacedRun),
    /// The last.
    End {
        /// What they add up to.
        end: ListEnd,
    },
}

/// The checksum of a list: CRC-32C over the 16 bytes of the header as they lie on the device (with `valid` as 0
/// or 1), the size in sectors, and of each run `old`, `new` and `len`; numbers as 8 bytes, little-endian.
pub struct ListSum(Sum);

impl ListSum {
    /// With the store taken in; `None` if its chunk size cannot be.
    pub fn new(head: ListHead) -> Option<Self> {
        let chunk_size = ChunkSize::from_sectors(head.chunk_size_sectors).ok()?;
        let mut sum = CRC32C.digest();
        sum.update(RawHeader::new(chunk_size, head.valid).as_bytes());
        sum.update(&head.total_sectors.to_le_bytes());
        Some(Self(sum))
    }

    /// Takes in the next run.
    pub fn add(&mut self, run: &PlacedRun) {
        for number in [run.old, run.new, run.len] {
            self.0.update(&number.to_le_bytes());
        }
    }

    /// The sum of what was taken in so far.
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

impl fmt::Debug for ListSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListSum({:08x})", self.value())
    }
}

/// Tells `each` everything that [`restore`](super::restore) needs to make the store's metadata again, of an
/// invalid store too. The end comes only where the list was read to its terminator.
///
/// # Errors
///
/// As [`dump`](super::dump()).
pub async fn list<C: Device>(
    cow: &C,
    mut each: impl FnMut(Entry) -> io::Result<()>,
) -> Result<(), Error> {
    let reader = Reader::open(cow, None).await?;
    let header = reader.header();
    let store = ListHead {
        valid: header.valid,
        version: VERSION,
        chunk_size_sectors: header.chunk_size.sectors(),
        total_sectors: reader.cow_bytes() / SECTOR_BYTES,
    };
    let Some(mut sum) = ListSum::new(store) else { return Ok(()) };
    each(Entry::Store { store }).map_err(Error::Consumer)?;
    let mut exceptions = 0;
    let told = runs(&reader, |run| {
        sum.add(&run);
        exceptions += run.len;
        each(Entry::Run(run))
    });
    told.await?;
    let end = ListEnd { exceptions, crc32c: sum.value() };
    each(Entry::End { end }).map_err(Error::Consumer)
}

/// Eight hexadecimal digits.
#[cfg(feature = "serde")]
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
    pub(super) fn serialize<S: Serializer>(sum: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{sum:08x}"))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        match text.len() {
            8 => u32::from_str_radix(&text, 16).map_err(D::Error::custom),
            _ => Err(D::Error::custom("not eight digits")),
        }
    }
}
