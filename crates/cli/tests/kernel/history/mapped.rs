use std::collections::BTreeMap;

use crate::kernel::history::model::{How, Shape, Step, Write};
use crate::kernel::machine::Machine;

/// Sectors of the disk for the origin, for each COW device, and for what is read.
const PLACE: u64 = 8 << 11;

/// How large a disk it takes.
pub(crate) const DISK_BYTES: u64 = 6 * PLACE * 512;

/// Where the content of a device is put for reading.
const LOOK_AT: u64 = 5 * PLACE;

/// Snapshots at a time.
pub(crate) const MOST: usize = 3;

/// An origin with snapshots, mapped by the kernel. Every device lies on one of its size.
pub(crate) struct Mapped<'m> {
    machine: &'m mut Machine,
    sectors: u64,
    snapshots: BTreeMap<u32, Kept>,
    /// The one that `o` merges.
    merging: Option<u32>,
    /// Of COW devices, for each request.
    delay_milliseconds: u64,
}

/// A snapshot, and where its COW device lies.
#[derive(Clone, Copy)]
struct Kept {
    shape: Shape,
    place: u64,
}

impl<'m> Mapped<'m> {
    /// Maps an origin with this content.
    pub(crate) fn new(machine: &'m mut Machine, origin: &[u8]) -> Self {
        let sectors = origin.len() as u64 / 512;
        machine.put(0, origin);
        machine.must("run /sbin/modprobe dm-delay");
        machine.must(&format!("map real 0 {sectors} linear {{DISK0}} 0"));
        machine.must(&format!("map o 0 {sectors} snapshot-origin {{real}}"));
        let snapshots = BTreeMap::new();
        Self { machine, sectors, snapshots, merging: None, delay_milliseconds: 0 }
    }

    /// The same; COW devices added from now on take so long for each request.
    pub(crate) fn slow(mut self, milliseconds: u64) -> Self {
        self.delay_milliseconds = milliseconds;
        self
    }

    pub(crate) fn machine(&mut self) -> &mut Machine {
        self.machine
    }

    /// Does a step, except [`Step::Add`]. False if the request fails.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Add { .. } => unreachable!("needs the bytes of a store"),
            Step::Remove { id } => {
                self.machine.must("suspend o");
                self.unmap(id);
                self.machine.must("resume o");
                self.forget(id);
            }
            Step::WriteOrigin(write) => return self.write("o", write),
            Step::WriteSnapshot { id, write } => return self.write(&format!("s{id}"), write),
            Step::Discard { id, at, count } => {
                return self.machine.ask(&format!("discard s{id} {at} {count}")).is_ok();
            }
            Step::Reopen => self.reopen(),
            Step::Grow { id, cow } => self.grow(id, cow),
            Step::Merge { id, how, ref meanwhile } => self.merge(id, how, meanwhile),
        }
        true
    }

    /// Takes a snapshot of this moment, on a store with these bytes. Gives the bytes of the store
    /// as they are then.
    pub(crate) fn add(&mut self, id: u32, shape: Shape, store: &[u8]) -> Vec<u8> {
        let place = self.lay(id, shape, store);
        self.machine.must("suspend o");
        self.map(id);
        self.machine.must("resume o");
        self.machine.get(place, shape.cow)
    }

    /// The origin's device merges a snapshot with such a store from now on.
    pub(crate) fn add_merging(&mut self, id: u32, shape: Shape, store: &[u8]) {
        self.lay(id, shape, store);
        self.machine.must("remove o");
        let words = self.words(id);
        self.machine.must(&format!("map o 0 {} snapshot-merge {words}", self.sectors));
        self.merging = Some(id);
    }

    /// Makes a COW device with this content. Gives its first sector on the disk.
    fn lay(&mut self, id: u32, shape: Shape, store: &[u8]) -> u64 {
        let taken: Vec<_> = self.snapshots.values().map(|it| it.place).collect();
        let mut places = (1..=MOST as u64).map(|n| n * PLACE);
        let place = places.find(|it| !taken.contains(it)).expect("few snapshots");
        self.machine.put(place, store);
        self.snapshots.insert(id, Kept { shape, place });
        let delay = self.delay(id);
        self.machine.must(&format!("map cow{id} {delay}"));
        place
    }

    /// A COW device: a delay of nothing instead of a linear one, because it takes no write of
    /// zeroes, which user-mode-linux would pass on to file systems that know no such thing.
    fn delay(&self, id: u32) -> String {
        let Kept { shape, place } = self.snapshots[&id];
        format!("0 {} delay {{DISK0}} {place} {}", shape.cow, self.delay_milliseconds)
    }

    fn map(&mut self, id: u32) {
        let words = self.words(id);
        self.machine.must(&format!("map s{id} 0 {} snapshot {words}", self.sectors));
    }

    /// What stands in a table after the name of the target.
    fn words(&self, id: u32) -> String {
        let Shape { chunk, po, zeroes, .. } = self.snapshots[&id].shape;
        let store = if po { "PO" } else { "P" };
        let features = if zeroes { " 1 discard_zeroes_cow" } else { "" };
        format!("{{real}} {{cow{id}}} {store} {chunk}{features}")
    }

    fn unmap(&mut self, id: u32) {
        self.machine.must(&format!("remove s{id}"));
    }

    fn forget(&mut self, id: u32) {
        self.machine.must(&format!("remove cow{id}"));
        self.snapshots.remove(&id);
    }

    fn write(&mut self, device: &str, Write { at, count, number }: Write) -> bool {
        self.machine.ask(&format!("write {device} {at} {count} {number}")).is_ok()
    }

    fn reopen(&mut self) {
        self.machine.must("remove o");
        let ids: Vec<_> = self.snapshots.keys().copied().collect();
        ids.iter().for_each(|id| self.unmap(*id));
        ids.iter().for_each(|id| self.map(*id));
        self.machine.must(&format!("map o 0 {} snapshot-origin {{real}}", self.sectors));
    }

    fn grow(&mut self, id: u32, cow: u64) {
        self.snapshots.get_mut(&id).expect("known").shape.cow = cow;
        let delay = self.delay(id);
        self.machine.must(&format!("load cow{id} {delay}"));
        self.machine.must(&format!("suspend cow{id}"));
        self.machine.must(&format!("resume cow{id}"));
    }

    /// The device `o` merges, and is the origin again afterwards.
    fn merge(&mut self, id: u32, how: How, meanwhile: &[Write]) {
        let sectors = self.sectors;
        let table = format!("0 {sectors} snapshot-merge {}", self.words(id));
        match how {
            How::Anew => {
                self.machine.must("remove o");
                self.unmap(id);
                self.machine.must(&format!("map o {table}"));
            }
            How::Handover => {
                self.machine.must(&format!("load o {table}"));
                self.machine.must("suspend o");
                self.machine.must(&format!("suspend s{id}"));
                self.machine.must("resume o");
                self.unmap(id);
            }
        }
        for write in meanwhile {
            assert!(self.write("o", *write), "a write during a merge fails");
        }
        let ended = self.machine.must("drained o");
        assert!(ended.is_empty() || ended == "Invalid", "the merge ended as {ended}");
        self.machine.must(&format!("load o 0 {sectors} snapshot-origin {{real}}"));
        self.machine.must("suspend o");
        self.machine.must("resume o");
        self.forget(id);
    }

    /// The content of the origin or of a snapshot; `None` if it cannot be read.
    pub(crate) fn content(&mut self, id: Option<u32>) -> Option<Vec<u8>> {
        let device = id.map_or("o".into(), |id| format!("s{id}"));
        let copied = format!("copy {device} {} DISK0 {LOOK_AT}", self.sectors);
        self.machine.ask(&copied).ok()?;
        Some(self.machine.get(LOOK_AT, self.sectors))
    }

    pub(crate) fn status(&mut self, id: u32) -> String {
        self.machine.must(&format!("status s{id}"))
    }

    /// A power cut for everything below, in the middle of a storm. What is said goes to `hear`.
    pub(crate) fn cut(&mut self, hear: &mut impl FnMut(&str)) {
        let cows: String = self.snapshots.keys().map(|id| format!(" cow{id}")).collect();
        // The origin first: what the stores still take meanwhile, a slow origin would explain.
        let mut must = |line: &str| {
            let answer = self.machine.ask_hearing(line, &mut *hear);
            answer.unwrap_or_else(|error| panic!("{line}: {error}"));
        };
        must(&format!("cut real{cows}"));
        must("calm");
    }

    /// Unmaps everything. Gives the machine back, the origin and the stores as they are on disk.
    pub(crate) fn end(self) -> (&'m mut Machine, Vec<u8>, BTreeMap<u32, Vec<u8>>) {
        self.machine.must("remove o");
        for id in self.snapshots.keys() {
            if self.merging != Some(*id) {
                self.machine.must(&format!("remove s{id}"));
            }
            self.machine.must(&format!("remove cow{id}"));
        }
        self.machine.must("remove real");
        self.left()
    }

    /// The same once the machine has been killed: there is nothing to unmap.
    pub(crate) fn left(self) -> (&'m mut Machine, Vec<u8>, BTreeMap<u32, Vec<u8>>) {
        let store = |it: &Kept| self.machine.get(it.place, it.shape.cow);
        let stores = self.snapshots.iter().map(|(id, kept)| (*id, store(kept))).collect();
        let origin = self.machine.get(0, self.sectors);
        (self.machine, origin, stores)
    }
}
