use dmsnap_format::{ChunkSize, Header, HeaderError, MAGIC, RawException, RawHeader, Tag};

use crate::device::Device;
use crate::ops::check::{begins_as_store, was_store};
use crate::ops::{Error, Which};
use crate::store::{Damage, Ledger, Reader, StoreError};

/// The most of an area that is read to guess a chunk size.
const GLANCE_BYTES: u64 = 64 << 10;

/// Exceptions that make a list.
const FEWEST: usize = 2;

/// What lies where a store should be.
pub(super) enum Found<'a, C> {
    /// A store.
    Store(Reader<'a, C>, HeaderState),
    /// Something that was a store and cannot be read.
    Nothing(Damage),
}

/// What can be said of a store's header.
#[derive(Clone, Copy)]
pub(super) enum HeaderState {
    /// It was believed.
    Believed,
    /// The chunk size in it was not believed: the caller knows better.
    Overruled,
    /// It cannot be read.
    Lost(HeaderError),
}

/// Finds a store, also where its header is lost. `told` is its chunk size, whatever the header says.
///
/// Without a header, each possible chunk size is tried: the one under which the first area begins with at
/// least two exceptions that can be believed, and no other does. If there is none, the header's own is taken
/// where the rest of it is that of a store.
///
/// # Errors
///
/// An error of the device; [`Error::Header`] if nothing shows that there was a store.
pub(super) async fn find_store<'a, C: Device>(
    cow: &'a C,
    origin_bytes: Option<u64>,
    told: Option<ChunkSize>,
) -> Result<Found<'a, C>, Error> {
    let error = match Reader::open(cow, origin_bytes).await.map_err(Error::from) {
        Ok(reader) => {
            let header = reader.header();
            let Some(chunk_size) = told.filter(|told| *told != header.chunk_size) else {
                return Ok(Found::Store(reader, HeaderState::Believed));
            };
            let (tag, header) =
                (reader.tag().copied().map(Box::new), Header { chunk_size, ..header });
            let reader = Reader::assume(cow, header, tag, origin_bytes)?;
            return Ok(Found::Store(reader, HeaderState::Overruled));
        }
        Err(Error::Header(error)) => error,
        // Without the backup, what is there may still be read.
        Err(Error::RepairBegun) if told.is_some() => HeaderError::Blank,
        Err(Error::Store(StoreError::TooSmall { cow_bytes, needed_bytes }))
            if begins_as_store(cow).await? =>
        {
            return Ok(Found::Nothing(Damage::TooSmall { cow_bytes, needed_bytes }));
        }
        Err(error) => return Err(error),
    };
    let bytes = cow.read(0, 512).await.map_err(Error::io(Which::Cow, "cannot read"))?;
    let raw = RawHeader::from_prefix(&bytes).ok_or(HeaderError::Blank)?;
    let is_readable = raw.magic == MAGIC || was_store(cow, error).await?;
    let own = ChunkSize::from_sectors(raw.chunk_size.get()).ok().filter(|_| is_readable);
    let chunk_size = match told {
        Some(told) => Some(told),
        None => guess(cow, origin_bytes, own).await?,
    };
    match chunk_size {
        Some(chunk_size) => {
            // What is wholly gone does not say that the snapshot was dropped.
            let valid = !is_readable || raw.valid.get() != 0;
            let tag = Tag::from_sector(&bytes).map(Box::new);
            let reader = Reader::assume(cow, Header { chunk_size, valid }, tag, origin_bytes)?;
            Ok(Found::Store(reader, HeaderState::Lost(error)))
        }
        None if is_readable => Ok(Found::Nothing(Damage::Header(error))),
        None => Err(error.into()),
    }
}

/// The chunk size that makes a list of exceptions of the first area; `own` is what the header says.
async fn guess<C: Device>(
    cow: &C,
    origin_bytes: Option<u64>,
    own: Option<ChunkSize>,
) -> Result<Option<ChunkSize>, Error> {
    let mut possible = Vec::new();
    for chunk_size in ChunkSize::all() {
        let header = Header { chunk_size, valid: true };
        let reader = Reader::assume(cow, header, None, origin_bytes)?;
        if begins_with_list(&reader).await? {
            possible.push(chunk_size);
        }
    }
    Ok(match possible[..] {
        [] => own,
        [only] => Some(only),
        _ => own.filter(|own| possible.contains(own)),
    })
}

async fn begins_with_list<C: Device>(reader: &Reader<'_, C>) -> Result<bool, Error> {
    let (extents, layout) = (reader.extents(), reader.layout());
    if !extents.has_area(0) {
        return Ok(false);
    }
    let len = usize::try_from(layout.chunk_size().bytes().min(GLANCE_BYTES)).unwrap_or(0);
    let read = reader.device().read_medium(layout.chunk_size().bytes(), len).await;
    let bytes = read.map_err(Error::io(Which::Cow, "cannot read the first area"))?;
    let mut ledger = Ledger::new(extents);
    let exceptions = RawException::slots(&bytes).iter().map_while(RawException::decode);
    let believed = exceptions.take_while(|exception| ledger.admit(*exception).is_ok());
    Ok(believed.count() >= FEWEST)
}
