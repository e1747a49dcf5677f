use std::collections::{HashSet, VecDeque};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

use gptman::GPTHeader;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::bytes::{Extent, SECTOR_BYTES};

/// The most partitions that are looked at.
pub const MAX_PARTITIONS: usize = 256;

/// What every writer of such tables uses.
const GPT_ENTRY_BYTES: u64 = 128;

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableKind {
    /// Four primary partitions, one of which may hold a chain of logical ones.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// One partition of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// As Linux numbers it: 2 is `sda2`.
    pub number: u32,
    /// On the disk, and inside it.
    pub place: Extent,
}

/// Why a partition table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TableError {
    /// Both copies are damaged.
    #[error("the GUID partition table is damaged: {what}")]
    Gpt { what: String },
    /// More or other entries than anybody writes.
    #[error("the GUID partition table has {count} entries of {entry_bytes} bytes at sector {lba}")]
    Entries { count: u32, entry_bytes: u32, lba: u64 },
    /// A logical partition that leads to one that was there before, or out of the disk.
    #[error(
        "the chain of logical partitions goes from sector {from} to {to}, where it has been or where \
         the disk has ended"
    )]
    Chain { from: u64, to: u64 },
    /// More partitions than are looked at.
    #[error("the disk has more than {MAX_PARTITIONS} partitions")]
    TooMany,
}

/// One entry of an MBR, exactly as stored.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    boot: u8,
    first_chs: [u8; 3],
    kind: u8,
    last_chs: [u8; 3],
    start: U32,
    sectors: U32,
}

/// The first sector of a disk, or of a logical partition, exactly as stored.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMbr {
    code: [u8; 446],
    entries: [RawEntry; 4],
    signature: [u8; 2],
}

const _: () = assert!(size_of::<RawEntry>() == 16 && size_of::<RawMbr>() == 512);

impl RawEntry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors.get() != 0
    }

    /// Inside a link, of which the disk gives this many sectors to logical partitions.
    fn is_inside(&self, sectors: u64) -> bool {
        u64::from(self.start.get()) + u64::from(self.sectors.get()) <= sectors
    }

    fn is_extended(&self) -> bool {
        self.is_used() && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn place(&self, base: u64) -> Extent {
        let start = (base + u64::from(self.start.get())) * SECTOR_BYTES;
        Extent { start, len: u64::from(self.sectors.get()) * SECTOR_BYTES }
    }
}

/// The sector, if it holds a table: boot flags other than these belong to a file system's front.
fn mbr(sector: &[u8]) -> Option<RawMbr> {
    let (raw, _) = RawMbr::read_from_prefix(sector).ok()?;
    let sound = raw.entries.iter().all(|entry| matches!(entry.boot, 0 | 0x80));
    (raw.signature == [0x55, 0xaa] && sound).then_some(raw)
}

/// Whether the front of a disk has a partition table, as LVM sees it: then a label on the whole disk
/// counts for nothing. LVM: _has_partition_table.
pub(crate) fn is_partitioned(front: &[u8]) -> bool {
    mbr(front).is_some_and(|raw| raw.entries.iter().any(|entry| entry.sectors.get() != 0))
}

/// Where the search for partitions stands.
#[derive(Clone, Debug)]
enum State {
    /// The GPT header in this sector, with sectors of this size.
    GptHeader {
        at: u64,
        sector_bytes: u64,
    },
    /// The entries that a sound header claims.
    GptEntries {
        header: Box<GPTHeader>,
        sector_bytes: u64,
        at: Extent,
    },
    /// A link in the chain of logical partitions, by sectors.
    Logical(Link),
    Done,
}

/// A link in a chain of logical partitions, by sectors.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Where the chain began: the other links count from there.
    extended: u64,
    at: u64,
    /// How much of the disk the entry has that leads here.
    sectors: u64,
}

/// Finds the partitions of a disk.
#[derive(Clone, Debug)]
pub(crate) struct TableScan {
    disk_bytes: u64,
    state: State,
    /// Other places to look for a GPT, if this one is none.
    others: Vec<(u64, u64)>,
    /// Chains of logical partitions that come next.
    chains: VecDeque<Link>,
    /// Links that were followed.
    links: HashSet<u64>,
    pub(crate) kind: Option<TableKind>,
    pub(crate) found: Vec<Partition>,
    pub(crate) error: Option<TableError>,
}

impl TableScan {
    /// Begins with the first sector of the disk.
    pub(crate) fn new(disk_bytes: u64, front: &[u8]) -> Self {
        let mut scan = Self {
            disk_bytes,
            state: State::Done,
            others: Vec::new(),
            chains: VecDeque::new(),
            links: HashSet::new(),
            kind: None,
            found: Vec::new(),
            error: None,
        };
        let Some(raw) = mbr(front) else { return scan };
        if raw.entries.iter().any(|entry| entry.kind == 0xee) {
            scan.begin_gpt();
        } else if raw.entries.iter().any(RawEntry::is_used) {
            scan.primary(&raw);
        }
        scan
    }

    /// The next bytes it wants; `None` when it is done.
    pub(crate) fn needs(&self) -> Option<Range<u64>> {
        match &self.state {
            State::GptHeader { at, .. } => Some(*at..at + SECTOR_BYTES),
            State::GptEntries { at, .. } => at.range(),
            State::Logical(Link { at, .. }) => Some(at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES),
            State::Done => None,
        }
    }

    /// Those bytes.
    pub(crate) fn give(&mut self, bytes: &[u8]) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::GptHeader { at, sector_bytes } => self.gpt_header(at, sector_bytes, bytes),
            State::GptEntries { header, sector_bytes, at } => {
                let mut window = Window { start: at.start, at: 0, bytes };
                match header.read_partitions(&mut window, sector_bytes) {
                    Ok(entries) => self.gpt_entries(&entries, sector_bytes),
                    Err(error) => self.next_gpt(&error.to_string()),
                }
            }
            State::Logical(link) => self.logical(link, bytes),
            State::Done => {}
        }
    }

    fn begin_gpt(&mut self) {
        self.kind = Some(TableKind::Gpt);
        let last = |sector: u64| (self.disk_bytes / sector).checked_sub(1).map(|at| at * sector);
        let mut places = vec![(512, 512), (4096, 4096)];
        places
            .extend([512, 4096].map(|sector| last(sector).map(|at| (at, sector))).iter().flatten());
        places.retain(|(at, _)| *at + SECTOR_BYTES <= self.disk_bytes);
        places.reverse();
        self.others = places;
        self.next_gpt("it is not there");
    }

    fn next_gpt(&mut self, what: &str) {
        match self.others.pop() {
            Some((at, sector_bytes)) => self.state = State::GptHeader { at, sector_bytes },
            None => {
                let what = what.to_owned();
                self.error = self.error.take().or(Some(TableError::Gpt { what }));
            }
        }
    }

    fn gpt_header(&mut self, at: u64, sector_bytes: u64, bytes: &[u8]) {
        let header = match GPTHeader::read_from(&mut Cursor::new(bytes)) {
            Ok(header) => header,
            Err(error) => return self.next_gpt(&error.to_string()),
        };
        // The library trusts these.
        let count = header.number_of_partition_entries;
        let entry_bytes = header.size_of_partition_entry;
        let lba = header.partition_entry_lba;
        let len = u64::from(count) * GPT_ENTRY_BYTES;
        let place = lba.checked_mul(sector_bytes).map(|start| Extent { start, len });
        let place = place.filter(|place| self.is_inside(*place));
        let sound = u64::from(entry_bytes) == GPT_ENTRY_BYTES
            && (1..=MAX_PARTITIONS).contains(&(count as usize))
            && header.primary_lba.checked_mul(sector_bytes) == Some(at);
        match place.filter(|_| sound) {
            Some(at) => {
                self.state = State::GptEntries { header: Box::new(header), sector_bytes, at };
            }
            None => {
                self.error = Some(TableError::Entries { count, entry_bytes, lba });
                self.next_gpt("");
            }
        }
    }

    fn gpt_entries(&mut self, entries: &[gptman::GPTPartitionEntry], sector_bytes: u64) {
        self.error = None;
        for (number, entry) in (1..).zip(entries) {
            let start = entry.starting_lba.checked_mul(sector_bytes);
            let end = entry.ending_lba.checked_add(1).and_then(|end| end.checked_mul(sector_bytes));
            if let (true, Some(start), Some(end)) = (entry.is_used(), start, end)
                && start < end
            {
                self.add(number, Extent { start, len: end - start });
            }
        }
    }

    fn primary(&mut self, raw: &RawMbr) {
        self.kind = Some(TableKind::Mbr);
        for (number, entry) in (1..).zip(&raw.entries) {
            if entry.is_extended() {
                let (at, sectors) = (entry.start.get().into(), entry.sectors.get().into());
                self.chains.push_back(Link { extended: at, at, sectors });
            } else if entry.is_used() {
                self.add(number, entry.place(0));
            }
        }
        self.next_chain();
    }

    fn next_chain(&mut self) {
        if let Some(link) = self.chains.pop_front() {
            self.link(0, link);
        }
    }

    /// One link: logical partitions, counted from here on, and the next link, counted from the first
    /// one on. Kernel: parse_extended.
    fn logical(&mut self, link: Link, bytes: &[u8]) {
        let Some(raw) = mbr(bytes) else { return self.next_chain() };
        for (index, entry) in raw.entries.iter().enumerate() {
            // The last two are seldom more than what was left there.
            let counts = index < 2 || entry.is_inside(link.sectors);
            if entry.is_used() && !entry.is_extended() && counts {
                let known = self.found.iter().map(|known| known.number).max().unwrap_or(0);
                self.add(known.max(4) + 1, entry.place(link.at));
            }
        }
        match raw.entries.iter().find(|entry| entry.is_extended()) {
            Some(next) => {
                let at = link.extended + u64::from(next.start.get());
                self.link(link.at, Link { at, sectors: next.sectors.get().into(), ..link });
            }
            None => self.next_chain(),
        }
    }

    /// A chain may lead back, as fdisk leaves it when partitions are made anew, but not to where it
    /// has been: so none is endless.
    fn link(&mut self, from: u64, link: Link) {
        let place = Extent { start: link.at * SECTOR_BYTES, len: SECTOR_BYTES };
        if self.found.len() >= MAX_PARTITIONS || self.links.len() >= MAX_PARTITIONS {
            self.error = Some(TableError::TooMany);
        } else if self.is_inside(place) && self.links.insert(link.at) {
            self.state = State::Logical(link);
        } else {
            self.error = Some(TableError::Chain { from, to: link.at });
            self.next_chain();
        }
    }

    fn is_inside(&self, place: Extent) -> bool {
        place.range().is_some_and(|range| range.end <= self.disk_bytes)
    }

    /// A partition that goes over the end of the disk is what is left of it: images are cut short.
    fn add(&mut self, number: u32, place: Extent) {
        let len = place.len.min(self.disk_bytes.saturating_sub(place.start));
        if len > 0 {
            self.found.push(Partition { number, place: Extent { len, ..place } });
        }
    }
}

/// A few bytes of a disk, for a library that reads and seeks. It reads a little more than an entry
/// each time, and looks only at the entry: after the bytes there are zeroes.
struct Window<'a> {
    start: u64,
    at: u64,
    bytes: &'a [u8],
}

impl Read for Window<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.at.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let from = from.and_then(|from| self.bytes.get(from..)).unwrap_or_default();
        let (copied, behind) = into.split_at_mut(from.len().min(into.len()));
        copied.copy_from_slice(&from[..copied.len()]);
        behind.fill(0);
        self.at = self.at.saturating_add(into.len() as u64);
        Ok(into.len())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}
