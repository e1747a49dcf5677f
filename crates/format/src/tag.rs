use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fence::{Fence, MOST_SAMPLES, RawSample, Sample};

/// Where a tag begins in chunk 0, in bytes. Kernels keep what lies there, unless they drop the snapshot.
pub const TAG_AT: usize = 64;

/// How long a tag is, in bytes: it ends with the first sector.
pub const TAG_BYTES: usize = 448;

/// The first bytes of a tag, with its version.
const TAG_MAGIC: [u8; 8] = *b"dmsnapT1";

/// CRC-32C, as iSCSI and btrfs have it.
const CHECKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// A tag as it is stored.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTag {
    magic: [u8; 8],
    /// Of everything after it.
    checksum: U32,
    state: U16,
    samples: U16,
    id: [u8; 16],
    partner: [u8; 16],
    origin_bytes: U64,
    snapshot_bytes: U64,
    /// 1 if the roles of the two partners were exchanged by an undo.
    undone: u8,
    /// 1 if the partner keeps old data while the merge runs, so that a merge without it loses the way back.
    needs_partner: u8,
    rest: [u8; 62],
    fence: [RawSample; MOST_SAMPLES],
}

const _: () = assert!(size_of::<RawTag>() == TAG_BYTES);

/// Bytes of a tag that its checksum does not cover.
const BEFORE_SUM: usize = 12;

/// Names a store: random, never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId([u8; 16]);

impl StoreId {
    /// From random bytes; `None` if all are zero.
    pub const fn new(bytes: [u8; 16]) -> Option<Self> {
        match u128::from_ne_bytes(bytes) {
            0 => None,
            _ => Some(Self(bytes)),
        }
    }

    /// The bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is being done with a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagState {
    /// Nothing: a snapshot.
    #[default]
    Plain,
    /// It keeps what a merge of its partner writes over.
    Undo,
    /// It is merged, or was, and its partner is the way back.
    Merging,
    /// No store yet: what the undo store of a merge is to hold is being written.
    Filling,
    /// No store now: a repair in place was begun.
    Repairing,
    /// A state of a later version.
    Unknown(u16),
}

impl TagState {
    const fn number(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Undo => 1,
            Self::Merging => 2,
            Self::Filling => 4,
            Self::Repairing => 5,
            Self::Unknown(number) => number,
        }
    }

    const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Plain,
            1 => Self::Undo,
            2 => Self::Merging,
            4 => Self::Filling,
            5 => Self::Repairing,
            other => Self::Unknown(other),
        }
    }
}

/// Whom a store belongs to. It is optional, stands after the header in chunk 0, and kernels neither read nor
/// change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What is being done with the store.
    pub state: TagState,
    /// The store's own name.
    pub id: StoreId,
    /// The other store of an undoable merge.
    pub partner: Option<StoreId>,
    /// The size of the origin, in bytes; 0 if it is not known.
    pub origin_bytes: u64,
    /// The size of the snapshot, in bytes, where it is another than the origin's; 0 if it is not known.
    pub snapshot_bytes: u64,
    /// An undo has exchanged the roles of the partners.
    pub undone: bool,
    /// The partner does not yet hold everything that a merge of this store writes over.
    pub needs_partner: bool,
    /// What the origin held when it was looked at.
    pub fence: Fence,
}

impl Tag {
    /// The tag of a new store.
    pub const fn new(id: StoreId) -> Self {
        Self {
            state: TagState::Plain,
            id,
            partner: None,
            origin_bytes: 0,
            snapshot_bytes: 0,
            undone: false,
            needs_partner: false,
            fence: Fence::EMPTY,
        }
    }

    /// Reads the tag in the first sector of a COW device. `None` if there is none, if its checksum is wrong, or
    /// if it is of a version that is not known.
    pub fn from_sector(sector: &[u8]) -> Option<Self> {
        let bytes = sector.get(TAG_AT..TAG_AT + TAG_BYTES)?;
        let raw = RawTag::read_from_bytes(bytes).ok()?;
        let summed = CHECKSUM.checksum(&bytes[BEFORE_SUM..]);
        if raw.magic != TAG_MAGIC || raw.checksum.get() != summed {
            return None;
        }
        let samples = raw.fence.iter().take(usize::from(raw.samples.get()));
        Some(Self {
            state: TagState::from_number(raw.state.get()),
            id: StoreId::new(raw.id)?,
            partner: StoreId::new(raw.partner),
            origin_bytes: raw.origin_bytes.get(),
            snapshot_bytes: raw.snapshot_bytes.get(),
            undone: raw.undone != 0,
            needs_partner: raw.needs_partner != 0,
            fence: samples.map(|raw| Sample::from(*raw)).collect(),
        })
    }

    /// Its bytes, for [`TAG_AT`].
    pub fn to_bytes(&self) -> [u8; TAG_BYTES] {
        let mut fence = [RawSample::default(); MOST_SAMPLES];
        for (raw, sample) in fence.iter_mut().zip(self.fence.samples()) {
            *raw = (*sample).into();
        }
        let samples = u16::try_from(self.fence.samples().len()).unwrap_or(0);
        let mut raw = RawTag {
            magic: TAG_MAGIC,
            checksum: U32::new(0),
            state: U16::new(self.state.number()),
            samples: U16::new(samples),
            id: self.id.0,
            partner: self.partner.map_or([0; 16], |id| id.0),
            origin_bytes: U64::new(self.origin_bytes),
            snapshot_bytes: U64::new(self.snapshot_bytes),
            undone: u8::from(self.undone),
            needs_partner: u8::from(self.needs_partner),
            rest: [0; 62],
            fence,
        };
        raw.checksum = U32::new(CHECKSUM.checksum(&raw.as_bytes()[BEFORE_SUM..]));
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }
}
