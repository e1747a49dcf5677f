//! What is to happen in a simulated machine: how it is built, and what its clients do.

use std::fmt;

use dmsnap::device::Memory;
use dmsnap::format::{ChunkSize, Fence, StoreId, TAG_AT, TAG_BYTES, Tag};
use dmsnap::store::take_fence;
use dmsnap::volume::{OnFull, SnapshotOptions};

use crate::below::Below;
use crate::fault::RequestFault;
use crate::model::{Model, name};
use crate::naive::{self, SECTOR, STALE};
use crate::run;

/// A machine: its disks, and the volume on them.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What its disks write untorn, in bytes.
    pub block: u32,
    /// In sectors.
    pub origin: usize,
    /// Memory for origin writes that wait for each other, in bytes.
    pub backlog: u64,
    /// The origin is itself a snapshot of another volume.
    pub stacked: bool,
    /// Room for snapshots, each with its COW disk.
    pub slots: Vec<Slot>,
    /// Requests go on in an order this seed decides; `None`: in the order they are made.
    pub order: Option<u64>,
}

/// Room for a snapshot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its chunk size, in sectors.
    pub chunk: usize,
    /// Chunks of its COW disk.
    pub chunks: usize,
    /// Exceptions it has from the beginning; `None`: no snapshot is there yet.
    pub filled: Option<usize>,
    /// Slots past the end of its list that a kernel left there.
    pub strays: usize,
    /// Its last exception shares the data chunk of its first: it must be refused.
    pub damaged: bool,
    /// The store remembers its origin.
    pub fenced: bool,
    /// It is made to keep the way back of a merge of the snapshot in this slot.
    pub way_back_of: Option<usize>,
    /// Its store is gone with the process.
    pub transient: bool,
    /// It may run out of room.
    pub tight: bool,
    /// How far its COW disk can grow by itself, in chunks.
    pub grows_to: usize,
    /// How it behaves.
    pub options: SnapshotOptions,
}

impl Slot {
    /// A roomy persistent store with this chunk size and this many exceptions.
    pub fn filled(chunk: usize, chunks: usize, filled: usize) -> Self {
        Self { filled: Some(filled), ..Self::empty(chunk, chunks) }
    }

    /// Room for a snapshot that is not there yet.
    pub fn empty(chunk: usize, chunks: usize) -> Self {
        Self {
            chunk,
            chunks,
            filled: None,
            strays: 0,
            damaged: false,
            fenced: false,
            way_back_of: None,
            transient: false,
            tight: false,
            grows_to: 0,
            options: SnapshotOptions::default(),
        }
    }
}

/// Something a client does, or an operator. Device 0 is the origin, device `n` the snapshot in
/// slot `n`; positions and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they say what they do")]
pub enum Action {
    Read {
        device: usize,
        at: usize,
        len: usize,
    },
    Write {
        device: usize,
        at: usize,
        len: usize,
    },
    /// A write and a flush after it, acknowledged together.
    Fua {
        device: usize,
        at: usize,
        len: usize,
    },
    Zero {
        device: usize,
        at: usize,
        len: usize,
        keep: bool,
    },
    Discard {
        device: usize,
        at: usize,
        len: usize,
    },
    Flush {
        device: usize,
    },
    /// Asks an export what a range is made of.
    Status {
        device: usize,
        asked: Asked,
        at: usize,
        len: usize,
    },
    /// Looks whether a snapshot is still there.
    Find {
        slot: usize,
    },
    /// Makes a store and a snapshot of this moment.
    Add {
        slot: usize,
    },
    Remove {
        slot: usize,
    },
    Drop {
        slot: usize,
    },
    StartMerge {
        slot: usize,
    },
    /// Windows of this many bytes, until this many moves were made or nothing is left.
    RunMerge {
        window: u64,
        moves: usize,
    },
    CancelMerge,
    /// The COW disk is made longer from below, to this many chunks.
    Lengthen {
        slot: usize,
        chunks: usize,
    },
    /// Somebody looks after writes that wait.
    Tick,
    /// Everything is closed and opened again. Nothing else happens meanwhile.
    Reopen,
    /// Everything is closed, and the only snapshot merged. Nothing else happens meanwhile.
    OfflineMerge {
        slot: usize,
        window: u64,
    },
}

/// What a client can ask an export about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `base:allocation`.
    Base,
    /// `qemu:allocation-depth`.
    Depth,
    /// `qemu:dirty-bitmap:NAME` of the snapshot in this slot.
    Dirty(usize),
}

/// What several clients do at the same time, each one thing after the other.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What each client does.
    pub clients: Vec<Vec<Action>>,
    /// Requests that go wrong, counted over all disks from the begin of the step.
    pub faults: Vec<(u64, RequestFault)>,
}

impl Step {
    /// One client does one thing.
    pub fn one(action: Action) -> Self {
        Self { clients: vec![vec![action]], faults: Vec::new() }
    }
}

/// A machine and what happens in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The machine.
    pub setup: Setup,
    /// What happens, one after the other.
    pub steps: Vec<Step>,
}

/// Where a machine begins: what its disks hold, all of it durable, and what clients know.
#[derive(Clone, Debug)]
pub struct Start {
    /// Disk by disk: those below the origin first, then one for each slot.
    pub contents: Vec<Vec<u8>>,
    /// What clients know.
    pub model: Model,
}

/// The tag of what the origin holds in the beginning.
const ORIGIN_TAG: u32 = 1;

/// The tag of what exceptions hold in the beginning; each slot has one of its own.
const SLOT_TAG: u32 = 2;

impl Setup {
    /// How many disks there are below the origin.
    pub fn below(&self) -> usize {
        if self.stacked { 2 } else { 1 }
    }

    /// What lies below the origin.
    pub(crate) fn origin(&self) -> Below {
        if self.stacked { Below::Volume } else { Below::Nothing }
    }

    /// The machine as it is in the beginning.
    pub fn start(&self) -> Start {
        let base = naive::content(ORIGIN_TAG, 0, self.origin * SECTOR);
        let mut contents = vec![base.to_vec()];
        let mut origin = base.to_vec();
        if self.stacked {
            let olds: Vec<usize> = (0..self.origin).step_by(5).collect();
            let cow = naive::store(1, 2 * self.origin + 80, &olds, SLOT_TAG + 9);
            if let naive::Found::Store(store) = naive::read(&cow) {
                origin = store.view(&base, &cow);
            }
            contents.push(cow);
        }
        let mut snapshots = Vec::new();
        for (slot, tag) in self.slots.iter().zip(SLOT_TAG..) {
            let cow = slot.content(&origin, tag);
            snapshots.push(match (slot.filled, naive::read(&cow)) {
                (Some(_), naive::Found::Store(store)) if !slot.damaged => {
                    Some(store.view(&origin, &cow))
                }
                _ => None,
            });
            contents.push(cow);
        }
        Start { model: Model::new(&origin, &snapshots), contents }
    }
}

impl Slot {
    fn content(&self, origin: &[u8], tag: u32) -> Vec<u8> {
        let Some(filled) = self.filled else {
            let mut blank = vec![STALE; self.chunks * self.chunk * SECTOR];
            blank[..SECTOR].fill(0);
            return blank;
        };
        let olds = (origin.len() / SECTOR).div_ceil(self.chunk);
        // Scattered, and never the same twice.
        let step = (1..).map(|n| olds * 5 / 13 + n).find(|n| coprime(*n, olds)).unwrap_or(1);
        let all: Vec<usize> = (0..filled.min(olds)).map(|n| n * step % olds).collect();
        let mut cow = naive::store(self.chunk, self.chunks, &all, tag);
        let slots = self.chunk * SECTOR / 16;
        let area = (1 + all.len() / slots * (slots + 1)) * self.chunk * SECTOR;
        for n in 0..self.strays {
            let slot = all.len() % slots + 1 + n;
            if slot < slots {
                let new = area / (self.chunk * SECTOR) + 1 + slot;
                naive::put_slot(&mut cow, area + slot * 16, slot % olds, new);
            }
        }
        if self.damaged {
            // Two exceptions share the first data chunk.
            let last = all.len() - 1;
            naive::put_slot(&mut cow, area + last % slots * 16, all[last], 2);
        }
        if self.fenced {
            self.remember(&mut cow, origin);
        }
        cow
    }

    /// Writes the tag that a store made for this origin has.
    fn remember(&self, cow: &mut [u8], origin: &[u8]) {
        let sectors = u32::try_from(self.chunk).unwrap_or(1);
        let chunk_size = ChunkSize::from_sectors(sectors).unwrap_or(ChunkSize::MIN);
        let origin_bytes = origin.len() as u64;
        let Some(id) = StoreId::new([1; 16]) else { return };
        let memory = Memory::from(origin.to_vec());
        let taken = take_fence(&memory, (chunk_size, origin_bytes), id.bytes(), |_| false);
        let fence = run(taken).unwrap_or(Fence::EMPTY);
        let tag = Tag { origin_bytes, fence, ..Tag::new(id) };
        cow[TAG_AT..TAG_AT + TAG_BYTES].copy_from_slice(&tag.to_bytes());
    }
}

fn coprime(a: usize, b: usize) -> bool {
    if b == 0 { a == 1 } else { coprime(b, a % b) }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut range = |what: &str, device: &usize, at: &usize, len: &usize| {
            write!(f, "{what} {len} bytes at {at} of {}", name(*device))
        };
        match self {
            Self::Read { device, at, len } => range("read", device, at, len),
            Self::Write { device, at, len } => range("write", device, at, len),
            Self::Fua { device, at, len } => range("write and flush", device, at, len),
            Self::Zero { device, at, len, keep: true } => range("zero, keeping,", device, at, len),
            Self::Zero { device, at, len, .. } => range("zero", device, at, len),
            Self::Discard { device, at, len } => range("discard", device, at, len),
            Self::Status { device, asked, at, len } => {
                range(&format!("ask for {asked:?} of"), device, at, len)
            }
            Self::Flush { device } => write!(f, "flush {}", name(*device)),
            Self::Find { slot } => write!(f, "look for snapshot {slot}"),
            Self::Add { slot } => write!(f, "make snapshot {slot}"),
            Self::Remove { slot } => write!(f, "take snapshot {slot} out"),
            Self::Drop { slot } => write!(f, "drop snapshot {slot}"),
            Self::StartMerge { slot } => write!(f, "start merging snapshot {slot}"),
            Self::RunMerge { window, moves } => {
                write!(f, "merge in windows of {window} bytes, pausing after {moves} moves")
            }
            Self::CancelMerge => write!(f, "give the merge up"),
            Self::Lengthen { slot, chunks } => {
                write!(f, "make COW disk {slot} {chunks} chunks long")
            }
            Self::Tick => write!(f, "a second passes"),
            Self::Reopen => write!(f, "close everything and open it again"),
            Self::OfflineMerge { slot, window } => {
                write!(f, "close everything, merge snapshot {slot} in windows of {window} bytes")
            }
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an origin of {} sectors", self.origin)?;
        if self.stacked {
            write!(f, ", itself a snapshot,")?;
        }
        write!(f, " on disks that write {} bytes untorn", self.block)?;
        if self.backlog > 0 {
            write!(f, ", {} bytes of origin writes may wait", self.backlog)?;
        }
        for (n, slot) in (1..).zip(&self.slots) {
            write!(f, "; snapshot {n}: {} chunks of {} sectors", slot.chunks, slot.chunk)?;
            match slot.filled {
                Some(filled) => write!(f, ", {filled} exceptions")?,
                None => write!(f, ", not there yet")?,
            }
            if slot.strays > 0 {
                write!(f, ", {} strays after them", slot.strays)?;
            }
            if slot.damaged {
                write!(f, ", damaged")?;
            }
            if slot.transient {
                write!(f, ", transient")?;
            }
            match slot.options.on_full {
                _ if !slot.tight => {}
                OnFull::Invalidate => write!(f, ", dropped when full")?,
                OnFull::Fail => write!(f, ", fails origin writes when full")?,
                OnFull::Wait { .. } => write!(f, ", holds origin writes when full")?,
            }
            if slot.grows_to > 0 {
                write!(f, ", grows to {} chunks", slot.grows_to)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setup)?;
        for (n, step) in (1..).zip(&self.steps) {
            for (client, actions) in (1..).zip(&step.clients) {
                for action in actions {
                    writeln!(f, "  step {n}, client {client}: {action}")?;
                }
            }
            for (request, fault) in &step.faults {
                writeln!(f, "  step {n}: request {request} goes wrong: {fault:?}")?;
            }
        }
        Ok(())
    }
}
