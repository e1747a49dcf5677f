use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::bytes::{Extent, RawLocation, checksum};

/// The header of a metadata area: its first 512 bytes. The text's circular buffer is all that follows.
pub const AREA_HEADER_BYTES: u64 = 512;

/// The longest metadata text that is read, in bytes: 16 MiB. LVM's own areas have 1 MiB unless
/// somebody asked for more.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// The text is kept, but LVM does not use it: `pvchange --metadataignore`.
const IGNORED: u32 = 1;

/// The front of a metadata area, exactly as stored. A list of locations follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawArea {
    /// Of the rest of the 512 bytes.
    checksum: U32,
    magic: [u8; 16],
    version: U32,
    /// Of this area on the disk.
    start: U64,
    size: U64,
    live: RawLocation,
    precommitted: RawLocation,
}

const _: () = assert!(size_of::<RawArea>() == 88);

/// Why a metadata area cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AreaError {
    /// The PV header's claim does not fit the disk.
    #[error("the metadata area at {place} does not fit the disk of {disk_bytes} bytes")]
    Place { place: Extent, disk_bytes: u64 },
    /// Fewer than 512 bytes were given.
    #[error("the header of the metadata area is cut short")]
    Short,
    /// Damaged, or never written.
    #[error(
        "the metadata area's header is damaged: checksum {stored:#010x}, computed {computed:#010x}"
    )]
    Checksum { stored: u32, computed: u32 },
    /// Something else.
    #[error("no metadata area: its magic is {:?}", found.escape_ascii().to_string())]
    Magic { found: [u8; 16] },
    /// Newer than this.
    #[error("metadata area of version {found} (only {VERSION} is known)")]
    Version { found: u32 },
    /// Copied from elsewhere, or the PV header is.
    #[error("the metadata area at {expected} says that it lies at {found}")]
    Moved { expected: Extent, found: Extent },
    /// Longer than the buffer, or not in it.
    #[error("the metadata text at {place} does not lie in the area's buffer of {area_bytes} bytes")]
    Location { place: Extent, area_bytes: u64 },
    /// Longer than what is read.
    #[error("the metadata text has {size} bytes, more than {MAX_TEXT_BYTES}")]
    TooLong { size: u64 },
    /// Damaged.
    #[error("the metadata text is damaged: checksum {stored:#010x}, computed {computed:#010x}")]
    TextChecksum { stored: u32, computed: u32 },
}

/// The header of a metadata area that has passed every check it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Area {
    /// On the PV.
    pub place: Extent,
    /// The text in force. An area of a PV without VG has none.
    pub live: Option<TextPlace>,
    /// A text that was about to come into force when the machine died.
    pub precommitted: Option<TextPlace>,
    /// Not to be used: the text is of old.
    pub ignored: bool,
}

/// Where a metadata text lies in its area, and how to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextPlace {
    /// The area, on the PV.
    pub area: Extent,
    /// In bytes from the start of the area, not of its buffer.
    pub offset: u64,
    /// In bytes, the NUL at its end included.
    pub size: u64,
    /// As LVM computes it, of all those bytes.
    pub checksum: u32,
}

impl Area {
    /// Reads the first [`AREA_HEADER_BYTES`] of the metadata area that the label places at `place`
    /// on a disk of `disk_bytes`.
    ///
    /// # Errors
    ///
    /// What is wrong with it. Nothing of it can be used then.
    pub fn parse(bytes: &[u8], place: Extent, disk_bytes: u64) -> Result<Self, AreaError> {
        check_place(place, disk_bytes)?;
        let header = bytes.get(..512).ok_or(AreaError::Short)?;
        let (raw, _) = RawArea::read_from_prefix(header).map_err(|_| AreaError::Short)?;
        let (stored, computed) = (raw.checksum.get(), checksum(&[&header[4..]]));
        if &raw.magic != MAGIC {
            return Err(AreaError::Magic { found: raw.magic });
        }
        if stored != computed {
            return Err(AreaError::Checksum { stored, computed });
        }
        if raw.version.get() != VERSION {
            return Err(AreaError::Version { found: raw.version.get() });
        }
        let found = Extent { start: raw.start.get(), len: raw.size.get() };
        if found != place {
            return Err(AreaError::Moved { expected: place, found });
        }
        Ok(Self {
            place,
            live: TextPlace::new(place, raw.live)?,
            // LVM looks at this one only while it commits; after a crash the live one is in force.
            precommitted: TextPlace::new(place, raw.precommitted).ok().flatten(),
            ignored: raw.live.flags.get() & IGNORED != 0,
        })
    }

    /// The 512 bytes of this header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ignored = if self.ignored { IGNORED } else { 0 };
        let mut raw = RawArea {
            checksum: U32::ZERO,
            magic: *MAGIC,
            version: U32::new(VERSION),
            start: U64::new(self.place.start),
            size: U64::new(self.place.len),
            live: TextPlace::to_raw(self.live, ignored),
            precommitted: TextPlace::to_raw(self.precommitted, ignored),
        };
        // The list of locations ends with zeroes, and so does the header.
        let tail = [0; 512 - size_of::<RawArea>()];
        raw.checksum = U32::new(checksum(&[&raw.as_bytes()[4..], &tail]));
        [raw.as_bytes(), &tail].concat()
    }
}

/// An area has room for its header and for a sector of text, and lies on the disk.
pub(crate) fn check_place(place: Extent, disk_bytes: u64) -> Result<(), AreaError> {
    let fits = place.range().is_some_and(|range| range.end <= disk_bytes);
    if fits && place.len >= 2 * AREA_HEADER_BYTES {
        Ok(())
    } else {
        Err(AreaError::Place { place, disk_bytes })
    }
}

impl TextPlace {
    fn new(area: Extent, raw: RawLocation) -> Result<Option<Self>, AreaError> {
        let (offset, size, checksum) = (raw.offset.get(), raw.size.get(), raw.checksum.get());
        if offset == 0 {
            return Ok(None);
        }
        let place = Extent { start: offset, len: size };
        let buffer = area.len - AREA_HEADER_BYTES;
        if offset < AREA_HEADER_BYTES || offset >= area.len || size == 0 || size > buffer {
            return Err(AreaError::Location { place, area_bytes: area.len });
        }
        if size > MAX_TEXT_BYTES {
            return Err(AreaError::TooLong { size });
        }
        Ok(Some(Self { area, offset, size, checksum }))
    }

    fn to_raw(place: Option<Self>, flags: u32) -> RawLocation {
        let Some(place) = place else { return RawLocation::default() };
        RawLocation {
            offset: U64::new(place.offset),
            size: U64::new(place.size),
            checksum: U32::new(place.checksum),
            flags: U32::new(flags),
        }
    }

    /// The bytes of the PV that hold the text: one range, or two where it goes over the end of
    /// the buffer to its beginning. The second may be empty.
    pub fn ranges(&self) -> [Range<u64>; 2] {
        let until_end = self.area.len - self.offset;
        let first = self.size.min(until_end);
        let start = self.area.start + self.offset;
        let front = self.area.start + AREA_HEADER_BYTES;
        [start..start + first, front..front + (self.size - first)]
    }

    /// The text, from the bytes of both ranges one after the other, without its NUL.
    ///
    /// # Errors
    ///
    /// If they are not what was written there.
    pub fn check<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], AreaError> {
        let (stored, computed) = (self.checksum, checksum(&[bytes]));
        if bytes.len() as u64 != self.size || stored != computed {
            return Err(AreaError::TextChecksum { stored, computed });
        }
        Ok(bytes.strip_suffix(&[0]).unwrap_or(bytes))
    }
}
