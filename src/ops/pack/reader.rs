use std::io::Read;

use dmsnap_format::{ChunkSize, Exception, Layout, SECTOR_BYTES, SLOT_BYTES};

use super::planes;
use super::record::{Fields, MOST_BODY, PackError, Records, Tag, decompress};
use super::writer::{MOST_BEGIN, Packed};

/// What a pack says of the device it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHead {
    /// Size of the COW device.
    pub cow_bytes: u64,
    /// `None` if the device did not read as a store.
    pub chunk_size: Option<ChunkSize>,
}

/// A piece of the metadata.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The beginning of the device.
    Begin(Vec<u8>),
    /// Exceptions, of which the first has this index.
    Slots(u64, Vec<Exception>),
    /// Bytes at this place.
    Raw(u64, Vec<u8>),
}

/// Reads a pack to its end and checks everything in it against its head, without keeping anything.
///
/// # Errors
///
/// [`PackError`]: the pack is damaged or cut off.
pub fn read_pack<R: Read>(from: &mut R) -> Result<(PackHead, Packed), PackError> {
    let mut pack = PackReader::new(from)?;
    while pack.next()?.is_some() {}
    Ok((pack.head, pack.read))
}

/// A pack, piece by piece. What it gives out lies on the device that its head describes, in order.
#[derive(Debug)]
pub(super) struct PackReader<R> {
    records: Records<R>,
    pub(super) head: PackHead,
    has_begin: bool,
    /// What was read so far; all of it, once [`next`](Self::next) has given `None`.
    pub(super) read: Packed,
}

impl<R: Read> PackReader<R> {
    pub(super) fn new(from: R) -> Result<Self, PackError> {
        let mut records = Records::new(from)?;
        let head = match records.next()? {
            (Tag::Head, body) => head(body),
            _ => return Err(records.wrong("is not the head")),
        };
        let head = head.ok_or_else(|| records.wrong("says impossible sizes"))?;
        Ok(Self { records, head, has_begin: false, read: Packed::default() })
    }

    /// The next piece; `None` after the last one.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, PackError> {
        let (head, read) = (self.head, self.read);
        let (tag, body) = self.records.next()?;
        let fields = Fields(body);
        let piece = match tag {
            Tag::Begin if self.has_begin => Err("is a second beginning of the device"),
            Tag::Begin => begin(body, head),
            _ if !self.has_begin => Err("comes before the beginning of the device"),
            Tag::Head => Err("is a second head"),
            Tag::Slots if read.raw_bytes > 0 => Err("has slots after bytes of areas"),
            Tag::Slots => slots(fields, head, read),
            Tag::Raw => raw(fields, head),
            Tag::End => {
                self.read = end(fields, read).map_err(|found| self.records.wrong(found))?;
                self.records.end()?;
                return Ok(None);
            }
        };
        let piece = piece.map_err(|found| self.records.wrong(found))?;
        match &piece {
            Piece::Begin(_) => self.has_begin = true,
            Piece::Slots(_, exceptions) => self.read.exceptions += exceptions.len() as u64,
            Piece::Raw(_, bytes) => self.read.raw_bytes += bytes.len() as u64,
        }
        Ok(Some(piece))
    }
}

/// What a record says, or what is wrong with it.
type Understood<T> = Result<T, &'static str>;

fn head(body: &[u8]) -> Option<PackHead> {
    let mut fields = Fields(body);
    let cow_bytes = fields.u64()?;
    let chunk_size = match fields.u32()? {
        0 => None,
        sectors => Some(ChunkSize::from_sectors(sectors).ok()?),
    };
    fields.0.is_empty().then_some(PackHead { cow_bytes, chunk_size })
}

fn begin(body: &[u8], head: PackHead) -> Understood<Piece> {
    let chunk_bytes = head.chunk_size.map_or(MOST_BEGIN, ChunkSize::bytes);
    let len = MOST_BEGIN.min(chunk_bytes).min(head.cow_bytes);
    match body.len() as u64 == len {
        true => Ok(Piece::Begin(body.to_vec())),
        false => Err("has another length than the beginning of the device"),
    }
}

fn slots(mut fields: Fields<'_>, head: PackHead, read: Packed) -> Understood<Piece> {
    let (first, count) = (fields.u64().ok_or(SHORT)?, fields.u32().ok_or(SHORT)?);
    let layout = Layout::new(head.chunk_size.ok_or("has slots, but the chunk size is not known")?);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 || count > planes::MOST {
        return Err("has an impossible number of slots");
    }
    if first != read.exceptions {
        return Err("does not go on where the slots before it end");
    }
    let last = layout.slot_byte(first.saturating_add(count as u64 - 1));
    if last.and_then(|at| at.checked_add(SLOT_BYTES)).is_none_or(|end| end > head.cow_bytes) {
        return Err("has slots beyond the end of the device");
    }
    let exceptions = planes::decode(layout, first, count, fields.0).ok_or(FRAMES)?;
    match exceptions.iter().any(|exception| exception.new.get() == 0) {
        true => Err("has a terminator among its exceptions"),
        false => Ok(Piece::Slots(first, exceptions)),
    }
}

fn raw(mut fields: Fields<'_>, head: PackHead) -> Understood<Piece> {
    let (at, len) = (fields.u64().ok_or(SHORT)?, fields.u32().ok_or(SHORT)?);
    if u64::from(len) > MOST_BODY {
        return Err("has an impossible number of bytes");
    }
    if at < SECTOR_BYTES || len == 0 {
        return Err("has no bytes, or those of the header");
    }
    if at.checked_add(len.into()).is_none_or(|end| end > head.cow_bytes) {
        return Err("has bytes beyond the end of the device");
    }
    let bytes = decompress(fields.0, usize::try_from(len).unwrap_or(0)).ok_or(FRAMES)?;
    Ok(Piece::Raw(at, bytes))
}

/// What was read, if that is what the last record says.
fn end(mut fields: Fields<'_>, read: Packed) -> Understood<Packed> {
    let exceptions = fields.u64().ok_or(SHORT)?;
    let raw_bytes = fields.u64().ok_or(SHORT)?;
    let has_end = fields.u64().ok_or(SHORT)? != 0;
    let counted = (read.exceptions, read.raw_bytes);
    match (exceptions, raw_bytes) == counted && fields.0.is_empty() {
        true => Ok(Packed { has_end, ..read }),
        false => Err("counts other records than there are"),
    }
}

const SHORT: &str = "is too short";
const FRAMES: &str = "does not unpack to what it says";
