use std::collections::HashMap;
use std::ops::Range;

/// What a device should hold, in bytes.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) now: Vec<u8>,
    /// Not written since the last flush that succeeded: must be there after any failure.
    pub(crate) safe: Vec<bool>,
    /// What bytes may be as well: a write failed, and what became of them could not be read.
    pub(crate) unsure: HashMap<usize, Vec<u8>>,
}

impl Content {
    pub(crate) fn of(now: Vec<u8>) -> Self {
        Self { safe: vec![true; now.len()], now, unsure: HashMap::new() }
    }

    pub(crate) fn put(&mut self, range: Range<usize>, byte: u8) {
        self.now[range.clone()].fill(byte);
        self.unsure.retain(|at, _| !range.contains(at));
        self.safe[range].fill(false);
    }

    /// The bytes may be this one by now, or still what they were.
    pub(crate) fn may_be(&mut self, range: Range<usize>, byte: u8) {
        range.for_each(|at| self.unsure.entry(at).or_default().push(byte));
    }

    /// These bytes were read, and are known from now on. True if each of them could be, or `lost` says
    /// that it need not.
    pub(crate) fn learn(
        &mut self,
        from: usize,
        found: &[u8],
        lost: impl Fn(&Self, usize) -> bool,
    ) -> bool {
        if self.unsure.is_empty() && self.now[from..from + found.len()] == *found {
            return true;
        }
        (from..).zip(found).all(|(at, byte)| {
            let right = self.now[at] == *byte || lost(self, at);
            let other = self.unsure.remove(&at).is_some_and(|others| others.contains(byte));
            self.now[at] = *byte;
            right || other
        })
    }

    /// Nothing that was flushed is lost.
    pub(crate) fn has_kept(&self, found: &[u8], name: &str) {
        if self.now == found {
            return;
        }
        for (at, found) in found.iter().enumerate() {
            let other = self.unsure.get(&at).is_some_and(|others| others.contains(found));
            let kept = other || !self.safe[at] || self.now[at] == *found;
            assert!(kept, "{name}, byte {at}: found {found}, expected {}", self.now[at]);
        }
    }
}
