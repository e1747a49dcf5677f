/// Lengths of stretches and what they are, one after the other, no two neighbours alike.
pub(super) struct Extents<K> {
    found: Vec<(u64, K)>,
    most: usize,
}

impl<K: PartialEq> Extents<K> {
    /// At most this many, and at least one.
    pub(super) fn at_most(most: usize) -> Self {
        Self { found: Vec::new(), most: most.max(1) }
    }

    /// Adds a stretch of `len` bytes. False if it would be one too many.
    pub(super) fn push(&mut self, len: u64, kind: K) -> bool {
        let is_full = self.found.len() >= self.most;
        match self.found.last_mut() {
            Some((before, last)) if *last == kind => *before += len,
            _ if is_full => return false,
            _ => self.found.push((len, kind)),
        }
        true
    }

    pub(super) fn into_vec(self) -> Vec<(u64, K)> {
        self.found
    }
}
