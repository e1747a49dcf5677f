use std::cell::Cell;

use dmsnap::format::{ChunkSize, Extents, Layout};
use dmsnap::store::End;

use crate::input::Input;
use crate::sparse::{Sparse, index};

/// So many times slots are written before anything is read, at most.
const MOST_SLOTS: usize = 60;

/// A COW device with a list of exceptions on it, and the size of an origin.
pub(crate) struct Case {
    pub(crate) layout: Layout,
    pub(crate) extents: Extents,
    pub(crate) origin_bytes: Option<u64>,
    pub(crate) cow: Sparse,
    /// Slots from here on are zero.
    pub(crate) filled: Cell<u64>,
}

impl Case {
    /// With one of these chunk sizes in sectors, and devices of at most this many chunks.
    pub(crate) fn new(
        input: &mut Input<'_>,
        chunk_sectors: &[u32],
        most_chunks: u64,
        most_origin_chunks: u64,
    ) -> Self {
        let sectors = input.pick(chunk_sectors);
        let size = ChunkSize::from_sectors(sectors).expect("legal");
        let layout = Layout::new(size);
        let chunks = input.number().min((1 << 63) / size.bytes() - 1).min(most_chunks);
        let len_bytes = chunks * size.bytes() + input.below(size.bytes());
        let most_origin = most_origin_chunks.saturating_mul(size.bytes());
        let origin_bytes =
            (!input.u8().is_multiple_of(4)).then(|| input.number().saturating_mul(256));
        let origin_bytes = origin_bytes.map(|bytes| bytes.min(most_origin));
        let cow = Sparse::zeroed(len_bytes);
        let header = [*b"SnAp", 1_u32.to_le_bytes(), 1_u32.to_le_bytes(), sectors.to_le_bytes()];
        cow.put(0, &header.concat()[..index(len_bytes.min(16))]);
        let extents = Extents::new(layout, len_bytes, origin_bytes);
        let case = Self { layout, extents, origin_bytes, cow, filled: Cell::new(0) };
        case.fill(input);
        case
    }

    fn fill(&self, input: &mut Input<'_>) {
        let mut next = 0;
        for _ in 0..usize::from(input.u8()).min(MOST_SLOTS) {
            let kind = input.u8();
            let in_step = self.layout.lock_step_chunk(next).get();
            match kind {
                // In the order of an ordinary writer, the old chunks as they come.
                0..=0x7F => self.put_slot(next, u64::from(kind), in_step),
                0x80..=0x9F => self.put_slot(next, input.number(), in_step),
                0xA0..=0xBF => self.put_slot(next, input.number(), input.number()),
                0xC0..=0xDF => {
                    next = input.below(300);
                    self.put_slot(next, input.number(), self.layout.lock_step_chunk(next).get());
                }
                0xE0..=0xEF => {
                    // A sector full of them.
                    for slot in next..next + 31 {
                        self.put_slot(slot, slot, self.layout.lock_step_chunk(slot).get());
                    }
                    next += 31;
                    self.put_slot(next, next, self.layout.lock_step_chunk(next).get());
                }
                _ => next = input.below(300),
            }
            next += 1;
        }
    }

    fn put_slot(&self, slot: u64, old: u64, new: u64) {
        self.filled.set(self.filled.get().max(slot + 1));
        // Also into an area that the device has only a part of.
        let end = self.extents.cow_chunks.saturating_mul(self.layout.chunk_size().bytes());
        let at = self.slot_byte(slot);
        if at + 16 <= end {
            self.cow.put(at, &[old.to_le_bytes(), new.to_le_bytes()].concat());
        }
    }

    fn slot_byte(&self, slot: u64) -> u64 {
        let chunk_bytes = self.layout.chunk_size().bytes();
        let per_area = chunk_bytes / 16;
        let chunk = 1 + slot / per_area * (per_area + 1);
        chunk * chunk_bytes + slot % per_area * 16
    }

    /// Both numbers of a slot, if its area lies on the device whole.
    pub(crate) fn slot(&self, slot: u64) -> Option<(u64, u64)> {
        let at = self.slot_byte(slot);
        let chunk = at / self.layout.chunk_size().bytes();
        (chunk < self.extents.cow_chunks).then(|| self.cow.two_numbers(at))
    }

    /// The exceptions up to the end of the list, one slot at a time.
    pub(crate) fn list(&self) -> (Vec<(u64, u64)>, End) {
        let mut list = Vec::new();
        loop {
            match self.slot(list.len() as u64) {
                Some((_, 0)) => return (list, End::Terminator),
                Some(exception) => list.push(exception),
                None => {
                    let area = list.len() as u64 / self.layout.exceptions_per_area();
                    return (list, End::Missing { area });
                }
            }
        }
    }
}
