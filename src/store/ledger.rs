use dmsnap_format::{Exception, ExceptionFault, Extents, Tally};
use roaring::RoaringTreemap;

use super::Fault;
use super::seen::Seen;

/// The most free chunks that are listed: one exception at the end of a device of 16 TiB would leave
/// 32 GiB of their numbers.
const MOST_FREE: usize = 1 << 20;

/// Takes a store's exceptions in the order of their slots and says which of them cannot be
/// believed: those that contradict the devices' sizes and those that repeat an earlier one.
///
/// Memory grows with the exceptions seen, never with what a number on disk claims: that of origin
/// chunks is one bit for each chunk of the origin at most, where that is at hand and not huge. COW
/// chunks in lock-step with their slots (all of them, in a store of any kernel since 2013) are
/// remembered by their count alone.
#[derive(Clone, Debug)]
pub struct Ledger {
    extents: Extents,
    tally: Tally,
    olds: Seen,
    /// Slots whose chunk is not in lock-step.
    displaced: RoaringTreemap,
    /// The chunks of those slots.
    displaced_news: RoaringTreemap,
}

/// What is wrong with one exception.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// How it contradicts the devices.
    pub(crate) device: Option<ExceptionFault>,
    /// An earlier slot has the same origin chunk.
    pub(crate) repeats_old: bool,
    /// An earlier slot has the same COW chunk.
    pub(crate) repeats_new: bool,
}

impl Judged {
    /// The worst of it.
    pub(crate) fn verdict(self) -> Result<(), Fault> {
        match (self.device, self.repeats_old, self.repeats_new) {
            (Some(fault), ..) => Err(Fault::Device(fault)),
            (None, true, _) => Err(Fault::DuplicateOld),
            (None, false, true) => Err(Fault::DuplicateNew),
            (None, false, false) => Ok(()),
        }
    }
}

impl Ledger {
    /// For devices of these extents.
    pub fn new(extents: Extents) -> Self {
        Self {
            extents,
            tally: Tally::new(extents.layout),
            olds: Seen::below(extents.origin_chunks.unwrap_or(0)),
            displaced: RoaringTreemap::new(),
            displaced_news: RoaringTreemap::new(),
        }
    }

    /// The next slot's exception. It counts in the [`tally`](Self::tally) whether or not it can be
    /// believed.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn admit(&mut self, exception: Exception) -> Result<(), Fault> {
        self.judge(exception).verdict()
    }

    /// The same, with everything that is wrong with it.
    pub(crate) fn judge(&mut self, exception: Exception) -> Judged {
        let index = self.tally.exceptions();
        self.tally.add(exception);
        Judged {
            repeats_new: !self.take_new(index, exception),
            repeats_old: !self.olds.insert(exception.old.get()),
            device: self.extents.check(exception).err(),
        }
    }

    /// Remembers the COW chunk of slot `index`; false if an earlier slot has it.
    fn take_new(&mut self, index: u64, exception: Exception) -> bool {
        let layout = self.extents.layout;
        let new = exception.new;
        if new == layout.lock_step_chunk(index) {
            return self.displaced_news.is_empty() || !self.displaced_news.contains(new.get());
        }
        self.displaced.insert(index);
        let first = self.displaced_news.insert(new.get());
        // The slot in lock-step with this chunk, if that is an earlier one that does use it.
        let owner = layout.data_chunks_before(new);
        let owned = layout.lock_step_chunk(owner) == new
            && owner < index
            && !self.displaced.contains(owner);
        first && !owned
    }

    /// The sum so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many exceptions lie elsewhere than an in-order writer would have put them.
    pub fn out_of_order(&self) -> u64 {
        self.displaced.len()
    }

    /// The origin chunks seen, ascending, each once.
    pub(crate) fn olds(&self) -> impl Iterator<Item = u64> {
        self.olds.iter()
    }

    /// The highest origin chunk seen.
    pub fn max_old(&self) -> Option<u64> {
        self.olds.max()
    }

    /// Data chunks below the next free one that no exception uses; of very many, only the first
    /// million. When those are used up, reading the store again finds more.
    pub fn free_chunks(&self) -> impl Iterator<Item = u64> {
        let layout = self.extents.layout;
        let end = layout.data_chunks_before(self.tally.next_free());
        // A chunk whose own slot is in lock-step is used; of the others, those that nobody took.
        let candidates = self.displaced.iter().chain(self.tally.exceptions()..end);
        candidates
            .map(move |owner| layout.lock_step_chunk(owner).get())
            .filter(|chunk| !self.displaced_news.contains(*chunk))
            .filter(move |chunk| *chunk < self.extents.cow_chunks)
            .take(MOST_FREE)
    }
}

#[cfg(test)]
mod tests {
    use dmsnap_format::{ChunkSize, CowChunk, ExceptionFault, Layout, OriginChunk};

    use super::*;

    fn admit_all(pairs: &[(u64, u64)]) -> (Ledger, Vec<Result<(), Fault>>) {
        let layout = Layout::new(ChunkSize::from_sectors(1).expect("legal"));
        let mut ledger = Ledger::new(Extents::new(layout, 100 * 512, Some(1000 * 512)));
        let verdicts = pairs
            .iter()
            .map(|&(old, new)| Exception { old: OriginChunk::new(old), new: CowChunk::new(new) })
            .map(|exception| ledger.admit(exception))
            .collect();
        (ledger, verdicts)
    }

    #[test]
    fn duplicates_are_found_in_lock_step_and_out_of_it() {
        let same_old = Err(Fault::DuplicateOld);
        let same_new = Err(Fault::DuplicateNew);
        for (pairs, verdicts) in [
            (vec![(7, 2), (8, 3), (7, 4)], vec![Ok(()), Ok(()), same_old]),
            (vec![(7, 2), (8, 2)], vec![Ok(()), same_new]),
            (vec![(7, 3), (8, 3)], vec![Ok(()), same_new]),
            (vec![(7, 9), (8, 9)], vec![Ok(()), same_new]),
            (vec![(7, 9), (8, 2), (9, 3)], vec![Ok(()), Ok(()), Ok(())]),
            (vec![(7, 3), (8, 2)], vec![Ok(()), Ok(())]),
        ] {
            assert_eq!(admit_all(&pairs).1, verdicts, "{pairs:?}");
        }
    }

    #[test]
    fn what_contradicts_the_devices_is_refused_and_counted() {
        use ExceptionFault::{NewBeyondDevice, NewIsMetadata, NewTooLarge, OldBeyondOrigin};
        let (ledger, verdicts) =
            admit_all(&[(1, 2), (2, 34), (3, 100), (1000, 5), (4, u64::MAX), (5, 1)]);
        let faults = [NewIsMetadata, NewBeyondDevice, OldBeyondOrigin, NewTooLarge, NewIsMetadata];
        assert_eq!(verdicts[0], Ok(()));
        for (verdict, fault) in verdicts[1..].iter().zip(faults) {
            assert_eq!(*verdict, Err(Fault::Device(fault)));
        }
        assert_eq!(ledger.tally().exceptions(), 6);
    }

    #[test]
    fn free_chunks_are_those_nobody_uses() {
        let (ledger, _) = admit_all(&[(1, 2), (2, 7), (3, 4), (4, 40)]);
        let naive: Vec<_> = (2..41).filter(|n| ![2, 4, 7, 34, 40].contains(n)).collect();
        let mut found: Vec<_> = ledger.free_chunks().collect();
        found.sort_unstable();
        assert_eq!(found, naive);
        assert_eq!(ledger.tally().holes(), naive.len() as u64);
    }
}
