use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Chunks of unpublished exceptions have this many bytes at most before they are published though nobody
/// has asked for it.
const PUBLISH_AFTER_BYTES: u64 = 256 << 20;

/// And there are at most this many, however small their chunks.
const PUBLISH_AFTER: u64 = 65_536;

/// Exceptions that reads see and a crash would lose.
#[derive(Debug)]
pub(super) struct Unpublished {
    by_old: HashMap<u64, u64>,
    by_ticket: BTreeMap<u64, u64>,
    /// This many should be published, although nobody has asked for it: a flush would take ever longer, and
    /// a crash lose ever more.
    publish_after: u64,
    /// Below this ticket that is not tried again.
    next_attempt: u64,
}

impl Unpublished {
    pub(super) fn new(chunk_bytes: u64) -> Self {
        Self {
            by_old: HashMap::new(),
            by_ticket: BTreeMap::new(),
            publish_after: (PUBLISH_AFTER_BYTES / chunk_bytes).clamp(1, PUBLISH_AFTER),
            next_attempt: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.by_ticket.len() as u64
    }

    pub(super) fn insert(&mut self, old: u64, ticket: u64) {
        self.by_old.insert(old, ticket);
        self.by_ticket.insert(ticket, old);
    }

    /// What is below this ticket is published. False if nothing is.
    pub(super) fn remove_below(&mut self, ticket: u64) -> bool {
        let before = self.by_ticket.len();
        let rest = self.by_ticket.split_off(&ticket);
        for old in std::mem::replace(&mut self.by_ticket, rest).into_values() {
            self.by_old.remove(&old);
        }
        self.by_ticket.len() < before
    }

    pub(super) fn contains(&self, old: u64) -> bool {
        self.by_old.contains_key(&old)
    }

    /// The newest ticket.
    pub(super) fn newest(&self) -> Option<u64> {
        self.by_ticket.keys().next_back().copied()
    }

    /// The newest ticket of any of these chunks. There may be millions of chunks, of which few are
    /// unpublished.
    pub(super) fn newest_of(&self, chunks: Range<u64>) -> Option<u64> {
        match chunks.end - chunks.start > self.by_old.len() as u64 {
            true => {
                let inside = self.by_old.iter().filter(|(old, _)| chunks.contains(old));
                inside.map(|(_, ticket)| *ticket).max()
            }
            false => chunks.filter_map(|old| self.by_old.get(&old).copied()).max(),
        }
    }

    /// Should they be published, although nobody has asked for it?
    pub(super) fn is_due(&self) -> bool {
        self.len() >= self.publish_after && self.newest() >= Some(self.next_attempt)
    }

    /// That was tried. If it failed, it is tried again when as many have come again.
    pub(super) fn attempted(&mut self) {
        self.next_attempt = self.newest().unwrap_or(0) + self.publish_after;
    }
}
