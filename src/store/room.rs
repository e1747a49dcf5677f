use dmsnap_format::{CowChunk, Layout};

use super::Ledger;
use crate::planted::{Planted, planted};

/// Where the next chunk comes from.
#[derive(Debug)]
pub(super) struct Room {
    /// Whole chunks of the device, when it was last asked.
    pub(super) cow_chunks: u64,
    /// As a kernel computes it: one past the largest that was ever given out.
    pub(super) next_free: CowChunk,
    /// Holes that others left and chunks whose copy failed; for when there is nothing else.
    spare: Vec<u64>,
    /// True as long as every published exception's chunk is in lock-step with its slot.
    pub(super) in_order: bool,
}

impl Room {
    /// What the exceptions of a store leave.
    pub(super) fn new(ledger: &Ledger, cow_chunks: u64) -> Self {
        let in_order = ledger.out_of_order() == 0;
        let mut spare: Vec<_> = if in_order { Vec::new() } else { ledger.free_chunks().collect() };
        // Lowest last: they are taken from the end.
        spare.sort_unstable_by(|a, b| b.cmp(a));
        let mut next_free = ledger.tally().next_free();
        if planted(Planted::MetadataGivenOnLoad) && ledger.tally().exceptions().is_multiple_of(32) {
            next_free = CowChunk::new(next_free.get() - 1);
        }
        Self { cow_chunks, next_free, spare, in_order }
    }

    /// A chunk for the exception that will take slot `index`, if there is one.
    pub(super) fn take(&mut self, layout: Layout, index: u64) -> Option<CowChunk> {
        let (area, slot) = layout.position(index);
        let last_slot = slot + 1 == layout.exceptions_per_area();
        let last_slot = last_slot && !planted(Planted::LastChunkGiven);
        if last_slot && layout.area_location(area + 1).get() >= self.cow_chunks {
            return None;
        }
        if self.next_free.get() < self.cow_chunks {
            let chunk = self.next_free;
            self.next_free = match chunk.plus(1 + u64::from(planted(Planted::OutOfStep))) {
                next if planted(Planted::MetadataGiven) => next,
                next => layout.skip_metadata(next),
            };
            return Some(chunk);
        }
        self.spare.pop().map(CowChunk::new)
    }

    /// How many chunks can still be given out, the first of them for slot `index`.
    pub(super) fn left(&self, layout: Layout, index: u64) -> u64 {
        let slots = layout.capacity(self.cow_chunks).saturating_sub(index);
        let before = |chunk| layout.data_chunks_before(chunk);
        let end = CowChunk::new(self.cow_chunks);
        let chunks = before(end).saturating_sub(before(self.next_free)) + self.spare.len() as u64;
        slots.min(chunks)
    }

    /// The chunk is not needed after all.
    pub(super) fn take_back(&mut self, layout: Layout, chunk: CowChunk) {
        if layout.skip_metadata(chunk.plus(1)) == self.next_free {
            self.next_free = chunk;
        } else {
            self.spare.push(chunk.get());
        }
    }

    /// Only the exceptions below `published` are left. Where they are all in lock-step, the chunks
    /// after them are free again; elsewhere one of the others may be among them, and the next
    /// opening of the store finds out.
    pub(super) fn cleared(&mut self, layout: Layout, published: u64) {
        if self.in_order {
            self.next_free = layout.lock_step_chunk(published);
            self.spare.retain(|chunk| *chunk < self.next_free.get());
        }
    }
}
