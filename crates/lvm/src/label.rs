use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::bytes::{Extent, SECTOR_BYTES, Uuid, checksum, extents};

/// How much of the front of a disk [`Label::find`] wants: a label may lie in any of four sectors.
pub const LABEL_SCAN_BYTES: u64 = 4 * SECTOR_BYTES;

const SECTOR: usize = 512;
const ID: &[u8; 8] = b"LABELONE";
const TYPE: &[u8; 8] = b"LVM2 001";

/// The front of a label's sector, exactly as stored.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLabel {
    id: [u8; 8],
    /// The sector this label lies in.
    sector: U64,
    /// Of everything from `offset` to the end of the sector.
    checksum: U32,
    /// Of the PV header, in bytes from the start of the label.
    offset: U32,
    kind: [u8; 8],
}

/// The front of a PV header, exactly as stored. The lists of data areas and metadata areas follow.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPvHeader {
    uuid: [u8; 32],
    device_size: U64,
}

/// Exactly as stored, after both lists. The list of bootloader areas follows.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawExtension {
    version: U32,
    flags: U32,
}

const _: () = assert!(size_of::<RawLabel>() == 32 && size_of::<RawPvHeader>() == 40);

/// Why a label cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LabelError {
    /// A label whose checksum does not fit.
    #[error(
        "the label in sector {sector} is damaged: checksum {stored:#010x}, computed {computed:#010x}"
    )]
    Checksum { sector: u64, stored: u32, computed: u32 },
    /// A label that says it lies elsewhere: a copy of some other disk's front.
    #[error("the label in sector {sector} says that it lies in sector {found}")]
    Sector { sector: u64, found: u64 },
    /// LVM1, or something newer than this.
    #[error("the label in sector {sector} is of type {:?}, not LVM2 001", found.escape_ascii().to_string())]
    Type { sector: u64, found: [u8; 8] },
    /// The PV header does not lie in the label's sector.
    #[error("the label in sector {sector} has its PV header at byte {offset}")]
    HeaderOffset { sector: u64, offset: u32 },
    /// The PV's identity has bytes that no identity has.
    #[error("the PV header in sector {sector} has no sensible uuid")]
    Uuid { sector: u64 },
    /// A list of areas goes on to the end of the sector.
    #[error("the PV header in sector {sector} has a list of areas without an end")]
    Lists { sector: u64 },
}

/// What the front of a PV says about it.
///
/// Nothing in it was checked against the disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// The sector it lies in, 0 to 3.
    pub sector: u64,
    /// The PV's identity.
    pub uuid: Uuid,
    /// Of the disk, as it was when the PV was made or resized.
    pub device_bytes: u64,
    /// Where extents may lie. LVM writes one, with length 0: to the end of the disk.
    pub data_areas: Vec<Extent>,
    /// None, one or two.
    pub metadata_areas: Vec<Extent>,
    /// What newer versions write after it.
    pub extension: Option<Extension>,
}

/// The part of a PV header that came later than the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extension {
    /// 1 or 2.
    pub version: u32,
    /// Bit 0: the PV belongs to a VG.
    pub flags: u32,
    /// Kept free for a boot loader.
    pub bootloader_areas: Vec<Extent>,
}

impl Label {
    /// Looks for a label in the first [`LABEL_SCAN_BYTES`] of a disk; less will do if it has less.
    ///
    /// # Errors
    ///
    /// If there is a label, and none that is sound. The first one counts.
    pub fn find(front: &[u8]) -> Result<Option<Self>, LabelError> {
        let mut damaged = None;
        for (number, sector) in (0..4).zip(front.chunks_exact(SECTOR)) {
            match Self::parse(number, sector) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    fn parse(number: u64, sector: &[u8]) -> Result<Option<Self>, LabelError> {
        let Ok((raw, _)) = RawLabel::read_from_prefix(sector) else { return Ok(None) };
        if &raw.id != ID {
            return Ok(None);
        }
        let (stored, computed) = (raw.checksum.get(), checksum(&[&sector[20..]]));
        if stored != computed {
            return Err(LabelError::Checksum { sector: number, stored, computed });
        }
        if raw.sector.get() != number {
            return Err(LabelError::Sector { sector: number, found: raw.sector.get() });
        }
        if &raw.kind != TYPE {
            return Err(LabelError::Type { sector: number, found: raw.kind });
        }
        let offset = raw.offset.get();
        let header = usize::try_from(offset).ok().filter(|at| *at >= size_of::<RawLabel>());
        let header = header.and_then(|at| sector.get(at..));
        let header = header.ok_or(LabelError::HeaderOffset { sector: number, offset })?;
        Self::header(number, header).map(Some)
    }

    fn header(sector: u64, bytes: &[u8]) -> Result<Self, LabelError> {
        let lists = LabelError::Lists { sector };
        let (raw, rest) = RawPvHeader::read_from_prefix(bytes).map_err(|_| lists.clone())?;
        let (data_areas, rest) = extents(rest).ok_or(lists.clone())?;
        let (metadata_areas, rest) = extents(rest).ok_or(lists)?;
        Ok(Self {
            sector,
            uuid: Uuid::from_bytes(raw.uuid).ok_or(LabelError::Uuid { sector })?,
            device_bytes: raw.device_size.get(),
            data_areas,
            metadata_areas,
            extension: Extension::parse(rest),
        })
    }
}

impl Extension {
    /// Old headers end before it, with zeroes.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (raw, rest) = RawExtension::read_from_prefix(bytes).ok()?;
        let version = raw.version.get();
        if version == 0 {
            return None;
        }
        let (bootloader_areas, _) = extents(rest).unwrap_or_default();
        Some(Self { version, flags: raw.flags.get(), bootloader_areas })
    }
}
