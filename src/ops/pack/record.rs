use std::io::{self, Read, Write};

use crate::ops::checksum::CRC32C;

/// What a pack begins with.
pub(super) const BANNER: &[u8; 14] = b"dmsnap pack 1\n";

/// The most bytes in the body of a record.
pub(super) const MOST_BODY: u64 = (1 << 20) + 4096;

/// What the body of a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    /// Sizes. The first record.
    Head = b'H',
    /// The beginning of the device, as it is.
    Begin = b'B',
    /// Exceptions in consecutive slots.
    Slots = b'A',
    /// Bytes of areas, as they are.
    Raw = b'R',
    /// Counts. The last record.
    End = b'E',
}

/// Bytes in front of a body: the tag and the length.
const FRONT_BYTES: usize = 9;

/// Why a pack cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The file or pipe that it is read from failed.
    #[error("cannot read the pack: {0}")]
    Read(#[source] io::Error),
    /// It begins otherwise.
    #[error("not a pack of dmsnap")]
    NotPack,
    /// A version that is not known here.
    #[error("a pack of another version (only 1 is known here)")]
    Version,
    /// It ends before its last record.
    #[error("the pack is cut off after {records} records")]
    CutOff {
        /// Whole records before the cut.
        records: u64,
    },
    /// A checksum is wrong.
    #[error("the pack is damaged: record {record} has a wrong checksum")]
    Sum {
        /// From 0, the head.
        record: u64,
    },
    /// A record says what cannot be.
    #[error("the pack is damaged: record {record} {found}")]
    Record {
        /// From 0, the head.
        record: u64,
        /// What is wrong with it, as in "has an unknown tag".
        found: &'static str,
    },
}

/// Writes one record: tag, length, body, and the CRC-32C of all three.
///
/// # Errors
///
/// Any error of `to`.
pub(super) fn write_record(to: &mut impl Write, tag: Tag, body: &[u8]) -> io::Result<()> {
    debug_assert!(body.len() as u64 <= MOST_BODY, "a record of {} bytes", body.len());
    let mut front = [tag as u8; FRONT_BYTES];
    front[1..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    to.write_all(&front)?;
    to.write_all(body)?;
    to.write_all(&sum(&front, body).to_le_bytes())
}

fn sum(front: &[u8], body: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(front);
    digest.update(body);
    digest.finalize()
}

/// Reads records one after the other. Takes as much memory as there are bytes, not as a length claims.
#[derive(Debug)]
pub(super) struct Records<R> {
    from: R,
    /// Those read so far.
    count: u64,
    body: Vec<u8>,
}

impl<R: Read> Records<R> {
    /// Reads the banner.
    ///
    /// # Errors
    ///
    /// [`PackError::NotPack`], [`PackError::Version`], [`PackError::Read`].
    pub(super) fn new(mut from: R) -> Result<Self, PackError> {
        let mut banner = Vec::new();
        read_up_to(&mut from, BANNER.len() as u64, &mut banner)?;
        let common = BANNER.len() - 2;
        match () {
            () if banner == BANNER => Ok(Self { from, count: 0, body: Vec::new() }),
            () if banner.starts_with(&BANNER[..common]) => Err(PackError::Version),
            () => Err(PackError::NotPack),
        }
    }

    /// The tag and the body of the next record, which is whole.
    ///
    /// # Errors
    ///
    /// [`PackError::CutOff`], also at the end of the file; [`PackError::Sum`], [`PackError::Record`],
    /// [`PackError::Read`].
    pub(super) fn next(&mut self) -> Result<(Tag, &[u8]), PackError> {
        let mut front = Vec::new();
        self.read(FRONT_BYTES as u64, &mut front)?;
        let (tag, length) = front.split_at(1);
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        if length > MOST_BODY {
            return Err(self.wrong_next("has an impossible length"));
        }
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        self.read(length, &mut body)?;
        let mut told = Vec::new();
        self.read(4, &mut told)?;
        if sum(&front, &body).to_le_bytes() != *told {
            return Err(PackError::Sum { record: self.count });
        }
        let known = [Tag::Head, Tag::Begin, Tag::Slots, Tag::Raw, Tag::End];
        let tag = known.into_iter().find(|known| *known as u8 == tag[0]);
        let tag = tag.ok_or_else(|| self.wrong_next("has an unknown tag"))?;
        self.count += 1;
        self.body = body;
        Ok((tag, &self.body))
    }

    /// Makes sure that nothing follows.
    ///
    /// # Errors
    ///
    /// [`PackError::Record`], [`PackError::Read`].
    pub(super) fn end(&mut self) -> Result<(), PackError> {
        let mut rest = Vec::new();
        read_up_to(&mut self.from, 1, &mut rest)?;
        match rest.is_empty() {
            true => Ok(()),
            false => Err(self.wrong("is the last, but more follows")),
        }
    }

    /// What is wrong with the record that was read last.
    pub(super) fn wrong(&self, found: &'static str) -> PackError {
        PackError::Record { record: self.count.saturating_sub(1), found }
    }

    fn wrong_next(&self, found: &'static str) -> PackError {
        PackError::Record { record: self.count, found }
    }

    fn read(&mut self, len: u64, to: &mut Vec<u8>) -> Result<(), PackError> {
        read_up_to(&mut self.from, len, to)?;
        match to.len() as u64 == len {
            true => Ok(()),
            false => Err(PackError::CutOff { records: self.count }),
        }
    }
}

fn read_up_to(from: &mut impl Read, len: u64, to: &mut Vec<u8>) -> Result<(), PackError> {
    from.take(len).read_to_end(to).map_err(PackError::Read)?;
    Ok(())
}

/// Takes little-endian numbers off the front of a body.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// `None` if there are fewer bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    /// `None` if there are fewer bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }
}

/// One zstd frame.
pub(super) fn compress(bytes: &[u8]) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// The content of zstd frames if it has exactly `len` bytes; `None` otherwise, and if they are damaged.
pub(super) fn decompress(frames: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MOST_BODY);
    let mut bytes = vec![0; len];
    let written = decoder.decode_all(frames, &mut bytes).ok()?;
    (written == len).then_some(bytes)
}
