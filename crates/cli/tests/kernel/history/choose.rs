use crate::kernel::history::mapped::MOST;
use crate::kernel::history::model::{How, Shape, Side, Snapshot, State, Step, World, Write, index};
use crate::kernel::random::Random;

/// The most sectors of an origin, and of a COW device.
const MOST_SECTORS: u64 = 6 << 11;
const MOST_COW: u64 = 8 << 11;

/// The longest write, in sectors.
const LONGEST: u64 = 2048;

/// Sectors of a chunk: 512 bytes to 512 KiB.
pub(crate) const CHUNKS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Chooses the steps of one history, knowing what the worlds of both sides hold by then.
pub(crate) struct Chooser {
    random: Random,
    /// The size of the origin.
    pub(crate) sectors: u64,
    /// Of the first snapshot, in sectors.
    first_chunk: u64,
    next_id: u32,
    next_number: u64,
}

impl Chooser {
    /// For the `n`th history: each chunk size has its turn.
    pub(crate) fn new(n: u64, mut random: Random) -> Self {
        let first_chunk = CHUNKS[index(n % CHUNKS.len() as u64)];
        let most = (MOST_SECTORS / first_chunk).min(800);
        let chunks = 6 + random.below(most - 6);
        // Most end in the middle of a chunk.
        let sectors = (chunks * first_chunk - random.below(first_chunk)).max(64);
        Self { random, sectors, first_chunk, next_id: 0, next_number: 2 }
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// The next step; what may be done depends on what there is.
    pub(crate) fn step(&mut self, kernel: &World, dmsnap: &World) -> Step {
        let live: Vec<u32> =
            dmsnap.snapshots.iter().filter(|(_, it)| it.live()).map(|(id, _)| *id).collect();
        if live.is_empty() && dmsnap.snapshots.len() < MOST {
            return self.add();
        }
        let ids: Vec<u32> = dmsnap.snapshots.keys().copied().collect();
        let id = ids[index(self.below(ids.len() as u64))];
        let snapshot = &dmsnap.snapshots[&id];
        match self.below(100) {
            0..26 => Step::WriteOrigin(self.write(snapshot)),
            26..60 => Step::WriteSnapshot { id, write: self.write(snapshot) },
            60..74 => self.fill(id, snapshot),
            74..82 => self.discard(id, snapshot),
            82..85 => Step::Reopen,
            85..89 => self.grow(id, snapshot),
            89..93 if ids.len() < MOST => self.add(),
            93..95 if ids.len() > 1 => Step::Remove { id },
            95..100 if snapshot.live() => self.merge(id, &kernel.snapshots[&id]),
            _ => Step::WriteOrigin(self.write(snapshot)),
        }
    }

    /// A new snapshot: the first one with the chunk size of the history.
    fn add(&mut self) -> Step {
        let id = self.next_id;
        self.next_id += 1;
        let fits = |chunk: &&u64| self.sectors >= **chunk;
        let usual: Vec<u64> = CHUNKS.iter().filter(fits).copied().collect();
        let chunk = match id {
            0 => self.first_chunk,
            _ => usual[index(self.below(usual.len() as u64))],
        };
        let cow = self.cow(chunk);
        // With P a kernel drops a full one anyway: its last chunk makes no difference.
        let hazardous = cow / chunk % (32 * chunk + 1) == 1;
        let (po, zeroes) = (hazardous || self.one_in(2), self.one_in(2));
        let made_by = if self.one_in(2) { Side::Kernel } else { Side::Dmsnap };
        Step::Add { id, shape: Shape { chunk, cow, po, zeroes }, made_by }
    }

    /// The size of a COW device: ample, small, or where an area ends near the end of the device.
    fn cow(&mut self, chunk: u64) -> u64 {
        let (all, slots) = (self.sectors.div_ceil(chunk), 32 * chunk);
        let ample = all + all / slots + 3;
        let areas = all / slots;
        let chunks = match self.below(6) {
            0..2 => ample + self.below(4),
            // At 1 the area after the last chunk has no room.
            2..5 if areas > 0 => (1 + self.below(areas.min(3))) * (slots + 1) + self.below(8) / 2,
            _ => 3 + self.below(ample - 3),
        };
        let odd = if self.one_in(3) { self.below(chunk) } else { 0 };
        (chunks * chunk + odd).min(MOST_COW)
    }

    /// A write of some size and alignment; of zeroes now and then.
    fn write(&mut self, snapshot: &Snapshot) -> Write {
        let (sectors, chunk) = (self.sectors, snapshot.shape.chunk);
        let chunks = sectors.div_ceil(chunk);
        let (at, count) = match self.below(8) {
            0 => (self.below(sectors), 1),
            1 => (self.below(sectors), 1 + self.below(16)),
            // Whole chunks.
            2..4 => (self.below(chunks) * chunk, chunk * (1 + self.below(4))),
            // A part of one, or of two.
            4 => (self.below(chunks) * chunk + self.below(chunk), 1 + self.below(chunk)),
            // Up to the end.
            5 => (sectors - 1 - self.below(sectors.min(2 * chunk)), LONGEST),
            6 => (self.below(sectors), 1 + self.below(256)),
            _ => (self.below(sectors), 1 + self.below(LONGEST)),
        };
        let at = at.min(sectors - 1);
        self.numbered(at, count)
    }

    fn numbered(&mut self, at: u64, count: u64) -> Write {
        let number = if self.one_in(12) { 0 } else { self.next_number };
        self.next_number += 1;
        Write { at, count: count.min(LONGEST).min(self.sectors - at), number }
    }

    /// Whole chunks until little room is left, or just none, or just not enough.
    fn fill(&mut self, id: u32, snapshot: &Snapshot) -> Step {
        let chunk = snapshot.shape.chunk;
        let left = snapshot.capacity().saturating_sub(snapshot.saved.len() as u64);
        let wanted = (left + 1).saturating_sub(self.below(4)).max(1);
        let chunks = self.sectors.div_ceil(chunk);
        // From the first chunk on that has no exception, or anywhere.
        let new = |old: &u64| !snapshot.saved.contains(old);
        let first = if self.one_in(4) { self.below(chunks) } else { 0 };
        let olds: Vec<u64> = (first..chunks).filter(new).take(index(wanted)).collect();
        let (begin, end) = (olds.first().unwrap_or(&first), olds.last().unwrap_or(&first) + 1);
        let write = self.numbered(begin * chunk, (end - begin) * chunk);
        if self.one_in(6) { Step::WriteOrigin(write) } else { Step::WriteSnapshot { id, write } }
    }

    /// Whole chunks: a kernel's harm the neighbours otherwise.
    fn discard(&mut self, id: u32, snapshot: &Snapshot) -> Step {
        let chunk = snapshot.shape.chunk;
        let whole = self.sectors / chunk;
        let first = self.below(whole);
        let count = (1 + self.below(4)).min(whole - first);
        Step::Discard { id, at: first * chunk, count: count * chunk }
    }

    fn grow(&mut self, id: u32, snapshot: &Snapshot) -> Step {
        let Shape { cow, chunk, .. } = snapshot.shape;
        let grown = cow + 1 + self.below(3 * chunk);
        Step::Grow { id, cow: grown.min(MOST_COW) }
    }

    fn merge(&mut self, id: u32, kernel: &Snapshot) -> Step {
        // One that is handed over is still overflowed, and so its status tells nothing.
        let anew = kernel.state == State::Overflow || self.one_in(2);
        let how = if anew { How::Anew } else { How::Handover };
        let count = if self.one_in(2) { 0 } else { 1 + self.below(6) };
        let meanwhile = (0..count).map(|_| self.write(kernel)).collect();
        Step::Merge { id, how, meanwhile }
    }
}
