use std::fmt;

use super::sample::Sample;

/// What kind of thing it is. The order is that from the outside to the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Class {
    /// A file that has to be unpacked.
    Compressed,
    /// An image of a disk that is not raw.
    Image,
    /// A disk of a RAID: only all of them together make a device.
    Raid,
    /// Encrypted.
    Encrypted,
    /// A physical volume of a volume manager.
    PhysicalVolume,
    /// Part of another layer: a cache, checksums, replication.
    Layer,
    /// An exception store.
    Store,
    /// A file system or swap space.
    FileSystem,
    /// A partition table.
    PartitionTable,
}

/// A kind of thing that lies on devices.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Kind {
    /// As `blkid` calls it; formats of images as `qemu-img` does, others as their own tool does.
    pub name: &'static str,
    /// For people: "an ext4 file system".
    #[cfg_attr(feature = "serde", serde(skip))]
    pub words: &'static str,
    /// What sort of thing it is.
    pub class: Class,
}

/// Where a magic lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// From the first byte on.
    Start(u64),
    /// `back` bytes before the end, which is rounded down to whole blocks of `align` bytes first.
    End { align: u64, back: u64 },
}

/// Before the end, in whole sectors.
pub(super) const fn end(back: u64) -> Place {
    Place::End { align: 512, back }
}

impl Place {
    pub(super) fn on(self, len_bytes: u64) -> Option<u64> {
        match self {
            Self::Start(at) => Some(at),
            Self::End { align, back } => (len_bytes - len_bytes % align).checked_sub(back),
        }
    }
}

/// How a kind is known.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    magics: &'static [(Place, &'static [u8])],
    /// What else must hold where a magic was found; a short magic alone says little.
    holds: fn(&Sample, u64) -> Option<bool>,
}

impl Entry {
    pub(super) const fn new(
        class: Class,
        name: &'static str,
        words: &'static str,
        magics: &'static [(Place, &'static [u8])],
    ) -> Self {
        Self { kind: Kind { name, words, class }, magics, holds: |_, _| Some(true) }
    }

    pub(super) const fn and(mut self, holds: fn(&Sample, u64) -> Option<bool>) -> Self {
        self.holds = holds;
        self
    }

    /// Where its magic lies.
    pub(super) fn find(&self, sample: &Sample) -> Option<u64> {
        let mut places = self.magics.iter().filter_map(|(place, magic)| {
            let at = place.on(sample.len_bytes())?;
            sample.has(at, magic).then_some(at)
        });
        places.find(|at| (self.holds)(sample, *at) == Some(true))
    }
}

/// Something that was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Found {
    /// What it is.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub kind: &'static Kind,
    /// Where its magic lies, in bytes.
    pub at: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words)
    }
}
