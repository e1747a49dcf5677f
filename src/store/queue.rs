use std::collections::VecDeque;

use dmsnap_format::{CowChunk, Exception, OriginChunk};

use super::Prepared;

/// Chunks given out and not yet published, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first_ticket: u64,
    entries: VecDeque<Entry>,
    /// Entries that will never take a slot.
    abandoned: u64,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Waiting(CowChunk),
    Committed(Exception),
    Abandoned,
}

impl Queue {
    /// How many slots the entries will take, as far as is known.
    pub(super) fn slots(&self) -> u64 {
        self.entries.len() as u64 - self.abandoned
    }

    /// A chunk was given out.
    pub(super) fn push(&mut self, chunk: CowChunk) -> Prepared {
        self.entries.push_back(Entry::Waiting(chunk));
        Prepared { ticket: self.first_ticket + self.entries.len() as u64 - 1, chunk }
    }

    pub(super) fn commit(&mut self, prepared: &Prepared, old: OriginChunk) {
        self.settle(prepared, Entry::Committed(Exception { old, new: prepared.chunk }));
    }

    pub(super) fn abandon(&mut self, prepared: &Prepared) {
        self.settle(prepared, Entry::Abandoned);
        self.abandoned += 1;
    }

    fn settle(&mut self, prepared: &Prepared, entry: Entry) {
        let position = prepared.ticket.checked_sub(self.first_ticket);
        let slot = position
            .and_then(|n| usize::try_from(n).ok())
            .and_then(|n| self.entries.get_mut(n))
            .filter(|slot| matches!(slot, Entry::Waiting(chunk) if *chunk == prepared.chunk));
        // A `Prepared` cannot be copied, so only another store's could be missing here.
        debug_assert!(slot.is_some(), "{prepared:?} belongs to another store");
        if let Some(slot) = slot {
            *slot = entry;
        }
    }

    /// How many entries at the front are settled, and the exceptions among them.
    pub(super) fn settled(&self) -> (usize, Vec<Exception>) {
        let settled = self.entries.iter().take_while(|entry| !matches!(entry, Entry::Waiting(_)));
        let count = settled.clone().count();
        let exceptions = settled
            .filter_map(|entry| match entry {
                Entry::Committed(exception) => Some(*exception),
                Entry::Waiting(_) | Entry::Abandoned => None,
            })
            .collect();
        (count, exceptions)
    }

    /// The first `count` entries are done with. Returns the first ticket that is not.
    pub(super) fn drop_front(&mut self, count: usize) -> u64 {
        for entry in self.entries.drain(..count) {
            self.first_ticket += 1;
            self.abandoned -= u64::from(matches!(entry, Entry::Abandoned));
        }
        self.first_ticket
    }
}
