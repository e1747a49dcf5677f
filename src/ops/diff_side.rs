use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use roaring::RoaringTreemap;

use super::believed::{Believed, believe};
use super::content::{Content, Whole};
use super::devices::whole_sectors;
use super::source::Source;
use super::sparse::Sparse;
use super::{Error, ExportOptions, Which};
use crate::device::Device;
use crate::store::{BaseFence, StoreError, read_header};

/// How a store is read that is compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// The size of the snapshot; by default that of the origin, if it is at hand.
    pub len_bytes: Option<u64>,
    /// Go on although the origin is not what the store remembers of it.
    pub ignore_fence: bool,
}

impl From<DiffOptions> for ExportOptions {
    fn from(DiffOptions { len_bytes, ignore_fence }: DiffOptions) -> Self {
        Self { allow_invalid: false, len_bytes, ignore_fence }
    }
}

/// One of two whose differences are looked for: an origin, or a snapshot of it by its store.
pub struct DiffSide<'a, C, O>(Kind<'a, C, O>);

enum Kind<'a, C, O> {
    Origin(Whole<'a, O>),
    /// Only its list is known.
    Listed(Listed),
    Readable(Box<Source<'a, C, O>>),
}

struct Listed {
    /// Chunks of the origin that have an exception.
    olds: RoaringTreemap,
    chunk_bytes: u64,
    len_bytes: Option<u64>,
    fence: BaseFence,
}

/// A side whose bytes can be read.
pub(super) enum Readable<'s, 'a, C, O> {
    Origin(&'s Whole<'a, O>),
    Snapshot(&'s Source<'a, C, O>),
}

impl<'a, C: Device, O: Device> DiffSide<'a, C, O> {
    /// The origin.
    ///
    /// # Errors
    ///
    /// [`Error::RepairBegun`] if it is a store whose repair was begun, which shows nothing; an error of the device.
    pub async fn origin(origin: &'a O) -> Result<Self, Error> {
        let len_bytes = whole_sectors(origin, Which::Origin)?;
        match read_header(origin).await {
            Err(StoreError::RepairBegun) => return Err(Error::RepairBegun),
            Err(StoreError::Io { source, .. }) => {
                return Err(Error::io(Which::Origin, "cannot read the first sector")(source));
            }
            _ => {}
        }
        let sparse = Sparse::new(origin, Which::Origin);
        Ok(Self(Kind::Origin(Whole { sparse, len_bytes })))
    }

    /// A snapshot of which the list of exceptions is read and nothing else. Takes about two bytes of memory for
    /// each. If the origin is given, the list is checked against its size, and the origin against what the store
    /// remembers of it.
    ///
    /// # Errors
    ///
    /// What [`export`](super::export()) refuses, and an invalid store; an error of a device. They name the store
    /// [`Which::Cow`].
    pub async fn listed(cow: &C, origin: Option<&O>, options: DiffOptions) -> Result<Self, Error> {
        let believed = believe(cow, origin, options.into(), |_| {}).await?;
        let Believed { chunk_bytes, ledger, len_bytes, fence } = believed;
        let mut olds = RoaringTreemap::new();
        olds.extend(ledger.olds());
        Ok(Self(Kind::Listed(Listed { olds, chunk_bytes, len_bytes, fence })))
    }

    /// A snapshot whose content can be compared as well. Takes about six bytes of memory for each exception.
    /// `which` it is is for errors.
    ///
    /// # Errors
    ///
    /// As [`listed`](Self::listed).
    pub async fn readable(
        cow: (&'a C, Which),
        origin: &'a O,
        options: DiffOptions,
    ) -> Result<Self, Error> {
        let source = Source::new(cow, origin, options.into()).await?;
        Ok(Self(Kind::Readable(Box::new(source))))
    }

    /// Its size, if it is known.
    pub(super) fn len_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Origin(whole) => Some(whole.len_bytes),
            Kind::Listed(listed) => listed.len_bytes,
            Kind::Readable(source) => Some(source.image_bytes),
        }
    }

    /// The unit of copying of a store.
    pub(super) fn chunk_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Origin(_) => None,
            Kind::Listed(listed) => Some(listed.chunk_bytes),
            Kind::Readable(source) => Some(source.chunk_bytes),
        }
    }

    /// What its store remembers of an origin that was not there to be asked.
    pub(super) fn fence(&self) -> Option<&BaseFence> {
        match &self.0 {
            Kind::Listed(listed) => Some(&listed.fence),
            Kind::Origin(_) | Kind::Readable(_) => None,
        }
    }

    /// Where it is not the origin, from the chunk of this byte on: ascending, and whole chunks.
    pub(super) fn saved(&self, from: u64) -> Box<dyn Iterator<Item = Range<u64>> + '_> {
        match &self.0 {
            Kind::Origin(_) => Box::new(std::iter::empty()),
            Kind::Listed(listed) => {
                let chunk = listed.chunk_bytes;
                let mut olds = listed.olds.iter();
                olds.advance_to(from / chunk);
                Box::new(olds.map(move |old| old * chunk..(old + 1).saturating_mul(chunk)))
            }
            Kind::Readable(source) => Box::new(source.saved(from)),
        }
    }

    pub(super) fn content(&self) -> Option<Readable<'_, 'a, C, O>> {
        match &self.0 {
            Kind::Origin(whole) => Some(Readable::Origin(whole)),
            Kind::Listed(_) => None,
            Kind::Readable(source) => Some(Readable::Snapshot(source)),
        }
    }
}

impl<C, O> fmt::Debug for DiffSide<'_, C, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Origin(_) => "DiffSide::Origin",
            Kind::Listed(_) => "DiffSide::Listed",
            Kind::Readable(_) => "DiffSide::Readable",
        })
    }
}

impl<C: Device, O: Device> Content for Readable<'_, '_, C, O> {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Origin(whole) => whole.len_bytes(),
            Self::Snapshot(source) => source.len_bytes(),
        }
    }

    async fn piece(&self, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Origin(whole) => whole.piece(range).await,
            Self::Snapshot(source) => source.piece(range).await,
        }
    }
}
