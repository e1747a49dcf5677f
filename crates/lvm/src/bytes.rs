use std::fmt;
use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// LVM counts in sectors of 512 bytes, whatever the disk's own blocks are.
pub const SECTOR_BYTES: u64 = 512;

/// LVM's checksum: the CRC-32 of Ethernet and zip, begun with a value of its own and not inverted
/// at the end.
pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    const BEGIN: u32 = 0xf597_a6cf;
    // The hasher inverts on the way in and on the way out.
    let mut hasher = crc32fast::Hasher::new_with_initial(!BEGIN);
    for part in parts {
        hasher.update(part);
    }
    !hasher.finalize()
}

/// An extent of a disk, exactly as stored. A list of them ends at the first with offset 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawExtent {
    pub(crate) offset: U64,
    pub(crate) size: U64,
}

/// Where a text lies in its metadata area, exactly as stored.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct RawLocation {
    /// In bytes from the start of the area.
    pub(crate) offset: U64,
    /// In bytes, the final NUL included.
    pub(crate) size: U64,
    pub(crate) checksum: U32,
    pub(crate) flags: U32,
}

const _: () = assert!(size_of::<RawExtent>() == 16 && size_of::<RawLocation>() == 24);

/// A stretch of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Length. Zero in a list of data areas means: to the end of the disk.
    pub len: u64,
}

impl Extent {
    /// As a range; `None` if its end is beyond 2^64.
    pub fn range(self) -> Option<Range<u64>> {
        Some(self.start..self.start.checked_add(self.len)?)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}+{}", self.start, self.len)
    }
}

/// The extents at the front of `bytes`, and what follows the end of their list; `None` if the
/// list does not end.
pub(crate) fn extents(mut bytes: &[u8]) -> Option<(Vec<Extent>, &[u8])> {
    let mut found = Vec::new();
    loop {
        let (raw, rest) = RawExtent::read_from_prefix(bytes).ok()?;
        bytes = rest;
        if raw.offset.get() == 0 {
            return Some((found, bytes));
        }
        found.push(Extent { start: raw.offset.get(), len: raw.size.get() });
    }
}

/// The identity of a PV, VG or LV: 32 letters and digits, shown in groups by hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 32]);

impl Uuid {
    /// As stored in a PV header: without hyphens. `None` if a byte is neither letter nor digit.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#');
        bytes.iter().all(known).then_some(Self(bytes))
    }

    /// As written in text: `7cQLBE-z2hQ-PIQi-4FWm-GDjZ-ALkB-f1Hk8y`, the hyphens may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let mut letters = text.bytes().filter(|byte| *byte != b'-');
        for byte in &mut bytes {
            *byte = letters.next()?;
        }
        if letters.next().is_some() { None } else { Self::from_bytes(bytes) }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        for (index, len) in [6, 4, 4, 4, 4, 4, 6].into_iter().enumerate() {
            let (group, behind) = rest.split_at(len);
            rest = behind;
            let hyphen = if index == 0 { "" } else { "-" };
            write!(f, "{hyphen}{}", group.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_shown_as_it_was_written() {
        let text = "7cQLBE-z2hQ-PIQi-4FWm-GDjZ-ALkB-f1Hk8y";
        let uuid = Uuid::parse(text).expect("it is sound");
        assert_eq!(uuid.to_string(), text);
        assert_eq!(Uuid::parse(&text.replace('-', "")), Some(uuid));
        for wrong in ["", "7cQLBE", "7cQLBE-z2hQ-PIQi-4FWm-GDjZ-ALkB-f1Hk8yX", &"/".repeat(32)] {
            assert_eq!(Uuid::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_checksum_in_parts_is_that_of_the_whole() {
        assert_eq!(checksum(&[b"one", b"", b"two"]), checksum(&[b"onetwo"]));
        assert_ne!(checksum(&[b"onetwo"]), crc32fast::hash(b"onetwo"));
    }

    #[test]
    fn a_list_of_extents_that_does_not_end_is_none() {
        let mut bytes = [0; 40];
        bytes[0] = 1;
        bytes[8] = 2;
        let (found, rest) = extents(&bytes).expect("it is sound");
        assert_eq!((found, rest.len()), (vec![Extent { start: 1, len: 2 }], 8));
        assert!(extents(&[1; 40]).is_none());
    }
}
