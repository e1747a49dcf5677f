//! Lists of exceptions: read, believed or not, and gone on with.

use std::collections::HashSet;

use dmsnap::format::{CowChunk, OriginChunk, Role};
use dmsnap::store::{
    End, Fault, Ledger, Persistent, Prepared, Store, StoreError, Strays, read_exceptions,
    read_strays,
};
use futures_executor::block_on;

use crate::case::Case;
use crate::input::Input;
use crate::sparse::{Sparse, index};

/// So much is done to a store, at most.
const MOST_STEPS: usize = 100;

/// The shape of the devices, slots, then what is done to the store.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let case = Case::new(&mut input, &[1, 1, 1, 2, 2, 8, 128], u64::MAX, u64::MAX);
    let (list, end) = case.list();
    let sound = case.is_read_right(&list, end) && matches!(end, End::Terminator);
    case.are_strays_read_right(list.len() as u64, end);
    let before = case.cow.copy();
    match case.open() {
        Ok((store, opened)) => {
            assert!(sound, "opened: {list:?}, {end:?}");
            assert_eq!(opened, list);
            let clean = case.strays(list.len() as u64).is_empty();
            // One flush, and before it room for the holes of the last area.
            let writes = case.cow.take_writes();
            assert!(clean && writes > 0 && (case.cow == before || writes > 1));
            let used = list.iter().map(|(_, new)| *new).collect();
            Using { case: &case, store, list, used, prepared: Vec::new(), lost: false }
                .go_on(&mut input);
        }
        Err(error) => {
            assert!(!sound, "{error}");
            assert_eq!(case.cow.take_writes(), 0, "{error}");
        }
    }
}

impl Case {
    /// Reads the list as the store does, and judges each of it. True if all can be believed.
    fn is_read_right(&self, list: &[(u64, u64)], end: End) -> bool {
        let mut ledger = Ledger::new(self.extents);
        let (mut olds, mut news) = (HashSet::new(), HashSet::new());
        let (mut sound, mut displaced, mut seen) = (true, 0, 0);
        let read = block_on(read_exceptions(&self.cow, self.extents, |slot, exception| {
            assert_eq!(slot, seen);
            let (old, new) = (exception.old.get(), exception.new.get());
            assert_eq!((old, new), list[index(slot)]);
            let (new_old, new_new) = (olds.insert(old), news.insert(new));
            let expected = match (self.extents.check(exception), new_old, new_new) {
                (Err(fault), ..) => Err(Fault::Device(fault)),
                (Ok(()), false, _) => Err(Fault::DuplicateOld),
                (Ok(()), true, false) => Err(Fault::DuplicateNew),
                _ => Ok(()),
            };
            assert_eq!(ledger.admit(exception), expected, "{exception:?} in slot {slot}");
            sound &= expected.is_ok();
            displaced += u64::from(exception.new != self.layout.lock_step_chunk(slot));
            seen += 1;
            Ok::<_, StoreError>(())
        }));
        assert_eq!(read.expect("readable"), (list.len() as u64, end));
        assert_eq!(ledger.tally().exceptions(), list.len() as u64);
        assert_eq!(ledger.out_of_order(), displaced);
        assert_eq!(ledger.max_old(), olds.iter().copied().max());
        if sound {
            self.are_holes_right(&ledger, &news);
        }
        sound
    }

    fn are_holes_right(&self, ledger: &Ledger, news: &HashSet<u64>) {
        let next = ledger.tally().next_free().get();
        assert!(news.iter().all(|new| *new < next));
        if next > 5000 {
            return;
        }
        let data = (0..next).filter(|n| self.layout.role(CowChunk::new(*n)) == Role::Data);
        let free: Vec<u64> = data.filter(|chunk| !news.contains(chunk)).collect();
        assert_eq!(ledger.tally().holes(), free.len() as u64);
        let mut found: Vec<u64> = ledger.free_chunks().collect();
        found.sort_unstable();
        assert_eq!(found, free);
    }

    /// What is not zero after the terminator, in its area.
    fn strays(&self, terminator: u64) -> Vec<(u64, (u64, u64))> {
        let per_area = self.layout.exceptions_per_area();
        let rest = terminator..(terminator / per_area + 1) * per_area;
        let rest = rest.start..rest.end.min(self.filled.get());
        rest.filter_map(|slot| self.slot(slot).map(|found| (slot, found)))
            .filter(|(_, found)| *found != (0, 0))
            .collect()
    }

    fn are_strays_read_right(&self, count: u64, end: End) {
        if end != End::Terminator {
            return;
        }
        let mut found = Vec::new();
        block_on(read_strays(&self.cow, self.layout, count, |slot, raw| {
            found.push((slot, (raw.old.get(), raw.new.get())));
        }))
        .expect("readable");
        assert_eq!(found, self.strays(count));
    }

    #[allow(clippy::type_complexity, reason = "a store and its list")]
    fn open(&self) -> Result<(Persistent<&Sparse>, Vec<(u64, u64)>), StoreError> {
        let mut list = Vec::new();
        let store =
            block_on(Persistent::open(&self.cow, self.origin_bytes, Strays::Wipe, |exception| {
                list.push((exception.old.get(), exception.new.get()));
            }))?;
        Ok((store, list))
    }
}

/// A store in use, and what should be in it.
struct Using<'a> {
    case: &'a Case,
    store: Persistent<&'a Sparse>,
    list: Vec<(u64, u64)>,
    used: HashSet<u64>,
    prepared: Vec<Prepared>,
    /// Chunks that were cleared and only the next opening finds free again.
    lost: bool,
}

impl Using<'_> {
    /// Gives out chunks, publishes, clears and opens again.
    fn go_on(&mut self, input: &mut Input<'_>) {
        let mut steps = 0;
        while !input.is_empty() && steps < MOST_STEPS {
            steps += 1;
            match input.u8() {
                0..=0x5F => self.prepare(),
                0x60..=0x6F => {
                    if let Some(chunk) = self.prepared.pop() {
                        self.abandon(chunk);
                    }
                }
                0x70..=0xBF => self.publish(),
                0xC0..=0xEF => {
                    self.publish();
                    self.clear(input);
                }
                _ => {
                    self.publish();
                    self.is_found_again();
                }
            }
        }
        self.publish();
        self.is_found_again();
    }

    fn prepare(&mut self) {
        let chunks = self.case.extents.cow_chunks;
        match self.store.prepare() {
            Ok(chunk) => {
                let new = chunk.chunk();
                assert!(new.get() < chunks, "beyond the end: {new}");
                assert_eq!(self.case.layout.role(new), Role::Data, "{new}");
                assert!(self.used.insert(new.get()), "{new} is in use");
                self.prepared.push(chunk);
            }
            Err(StoreError::Full) => {
                let all = (self.list.len() + self.prepared.len()) as u64;
                assert!(self.lost || all == self.case.layout.capacity(chunks), "full with {all}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn abandon(&mut self, chunk: Prepared) {
        self.used.remove(&chunk.chunk().get());
        self.store.abandon(chunk);
    }

    fn publish(&mut self) {
        let olds: HashSet<u64> = self.list.iter().map(|(old, _)| *old).collect();
        let most = self.case.extents.origin_chunks.unwrap_or(u64::MAX);
        let mut fresh = (0..most).filter(|old| !olds.contains(old));
        for chunk in std::mem::take(&mut self.prepared) {
            match fresh.next() {
                Some(old) => {
                    self.list.push((old, chunk.chunk().get()));
                    self.store.commit(chunk, OriginChunk::new(old));
                }
                None => self.abandon(chunk),
            }
        }
        block_on(self.store.publish()).expect("nothing fails");
        assert_eq!(self.case.list(), (self.list.clone(), End::Terminator));
        assert_eq!(self.store.published(), self.list.len() as u64);
        assert!(!self.store.has_unpublished());
    }

    fn clear(&mut self, input: &mut Input<'_>) {
        let count = input.below(self.list.len() as u64 + 1);
        let layout = self.case.layout;
        let in_step = (0..).zip(&self.list).all(|(n, it)| layout.lock_step_chunk(n).get() == it.1);
        self.lost |= !in_step;
        block_on(self.store.clear(count)).expect("nothing fails");
        for (_, new) in self.list.drain(self.list.len() - index(count)..) {
            self.used.remove(&new);
        }
        assert_eq!(self.case.list(), (self.list.clone(), End::Terminator));
    }

    fn is_found_again(&self) {
        assert_eq!(self.case.open().expect("sound").1, self.list);
        let usage = self.store.usage().expect("valid");
        let areas = self.list.len() as u64 / self.case.layout.exceptions_per_area() + 1;
        let sectors = u64::from(self.case.layout.chunk_size().sectors());
        assert_eq!(usage.metadata, (1 + areas) * sectors);
    }
}
