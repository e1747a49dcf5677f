use std::collections::{BTreeMap, BTreeSet};

use dmsnap::ops::Duplicates;

const SLOT: usize = 16;

/// What can be read of a store by somebody who stops at nothing.
#[derive(Debug, Default)]
pub(super) struct View {
    /// By origin chunk, the COW chunk that counts: those with data alone.
    pub(super) chunks: BTreeMap<u64, u64>,
    /// Origin chunks with an exception that has none.
    pub(super) lost: BTreeSet<u64>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"))
}

impl View {
    /// Of a store with chunks of this many bytes, slot by slot, up to the terminator or the end of the device.
    pub(super) fn of(cow: &[u8], chunk: usize, origin_len: usize, rule: Duplicates) -> Self {
        let slots = chunk / SLOT;
        let (chunks, olds) = ((cow.len() / chunk) as u64, origin_len.div_ceil(chunk) as u64);
        let mut view = Self::default();
        for area in 0.. {
            let begin = (1 + area * (slots + 1)) * chunk;
            let Some(bytes) = cow.get(begin..begin + chunk) else { return view };
            for slot in 0..slots {
                let (old, new) = (word(bytes, slot * SLOT), word(bytes, slot * SLOT + 8));
                if new == 0 {
                    return view;
                }
                let has_data = new > 1 && new < chunks && new % (slots as u64 + 1) != 1;
                match (old < olds, has_data) {
                    (false, _) => {}
                    (true, false) => drop(view.lost.insert(old)),
                    (true, true) if rule == Duplicates::First => {
                        view.chunks.entry(old).or_insert(new);
                    }
                    (true, true) => drop(view.chunks.insert(old, new)),
                }
            }
        }
        view
    }

    /// What the snapshot shows of an origin chunk.
    pub(super) fn show<'a>(
        &self,
        cow: &'a [u8],
        origin: &'a [u8],
        chunk: usize,
        old: u64,
    ) -> &'a [u8] {
        let at = usize::try_from(old).expect("small") * chunk;
        let len = chunk.min(origin.len() - at);
        match self.chunks.get(&old) {
            Some(new) => &cow[usize::try_from(*new).expect("small") * chunk..][..len],
            None => &origin[at..at + len],
        }
    }
}
