use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A number and a sector make the content of a sector; 0 is zeroes. The same as in
/// `tests/kernel/agent`.
pub(crate) fn tag(number: u64, sector: u64) -> u64 {
    if number == 0 { 0 } else { number << 40 | sector }
}

/// Whose rules. What a side does in its own way has a method here; all the rest is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Kernel,
    Dmsnap,
}

impl Side {
    /// The kernel gives out the chunk whose slot fills an area after which the next one has no
    /// room, and loses the snapshot.
    fn gives_out_the_last_chunk(self) -> bool {
        self == Side::Kernel
    }

    /// A snapshot write that finds no room drops the snapshot, if its table does not say PO.
    fn drops_what_is_full(self, po: bool) -> bool {
        self == Side::Kernel && !po
    }

    /// Once one write found no room, all fail, also those that need none; only another table
    /// ends that.
    fn refuses_after_overflow(self) -> bool {
        self == Side::Kernel
    }

    /// Without the feature discards of a snapshot are refused; elsewhere they do nothing.
    fn refuses_discards(self) -> bool {
        self == Side::Kernel
    }
}

/// How a snapshot is made. Sizes in sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) chunk: u64,
    pub(crate) cow: u64,
    pub(crate) po: bool,
    pub(crate) zeroes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Overflow,
    Invalid,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) shape: Shape,
    pub(crate) state: State,
    /// Tags, by sector.
    pub(crate) shows: Vec<u64>,
    /// Chunks that have an exception.
    pub(crate) saved: BTreeSet<u64>,
}

/// What is found when a chunk is wanted.
#[derive(PartialEq, Eq)]
enum Room {
    Free,
    /// Taking it loses the snapshot.
    Fatal,
    None,
}

impl Snapshot {
    pub(crate) fn live(&self) -> bool {
        self.state != State::Invalid
    }

    /// How many exceptions there is room for.
    pub(crate) fn capacity(&self) -> u64 {
        let mut count = 0;
        while room(self.shape, count, Side::Dmsnap) == Room::Free {
            count += 1;
        }
        count
    }

    fn chunks(&self, sectors: &Range<u64>) -> Range<u64> {
        sectors.start / self.shape.chunk..sectors.end.div_ceil(self.shape.chunk)
    }

    /// The words of the status line.
    pub(crate) fn status(&self) -> String {
        match self.state {
            State::Invalid => "Invalid".into(),
            State::Overflow => "Overflow".into(),
            State::Active => self.numbers(),
        }
    }

    /// The same from the bytes of the store: they know of no overflow.
    pub(crate) fn status_on_disk(&self) -> String {
        match self.state {
            State::Invalid => "Invalid".into(),
            State::Active | State::Overflow => self.numbers(),
        }
    }

    fn numbers(&self) -> String {
        let (count, chunk) = (self.saved.len() as u64, self.shape.chunk);
        let area = count / (32 * chunk);
        format!("{}/{} {}", (2 + count + area) * chunk, self.shape.cow, (2 + area) * chunk)
    }

    /// Takes a chunk for `old`, if it needs one; what becomes of the snapshot without room is
    /// the caller's to say.
    fn save(&mut self, old: u64, side: Side) -> Room {
        if self.saved.contains(&old) {
            return Room::Free;
        }
        let room = room(self.shape, self.saved.len() as u64, side);
        match room {
            Room::Free => _ = self.saved.insert(old),
            Room::Fatal => self.state = State::Invalid,
            Room::None => {}
        }
        room
    }
}

/// Whether there is room for one more exception.
fn room(shape: Shape, count: u64, side: Side) -> Room {
    let (chunks, slots) = (shape.cow / shape.chunk, 32 * shape.chunk);
    let area = count / slots;
    let fills = (count + 1).is_multiple_of(slots);
    let next_area = 1 + (area + 1) * (slots + 1);
    if 2 + count + area >= chunks {
        Room::None
    } else if !fills || next_area < chunks {
        Room::Free
    } else if side.gives_out_the_last_chunk() {
        Room::Fatal
    } else {
        Room::None
    }
}

/// Sectors, and the number of the content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) at: u64,
    pub(crate) count: u64,
    pub(crate) number: u64,
}

impl Write {
    pub(crate) fn range(self) -> Range<u64> {
        self.at..self.at + self.count
    }

    fn put(self, device: &mut [u64], range: Range<u64>) {
        range.for_each(|sector| device[index(sector)] = tag(self.number, sector));
    }
}

/// How somebody merges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// Everything is unmapped or stopped before.
    Anew,
    /// The kernel hands the running snapshot over to the merging table, as LVM does; dmsnap merges
    /// offline if there is no other snapshot and nobody writes.
    Handover,
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Add {
        id: u32,
        shape: Shape,
        made_by: Side,
    },
    Remove {
        id: u32,
    },
    WriteOrigin(Write),
    WriteSnapshot {
        id: u32,
        write: Write,
    },
    /// Whole chunks.
    Discard {
        id: u32,
        at: u64,
        count: u64,
    },
    /// Everything is closed in an orderly way, and opened again.
    Reopen,
    /// The COW device has this many sectors now.
    Grow {
        id: u32,
        cow: u64,
    },
    /// Afterwards the snapshot is gone.
    Merge {
        id: u32,
        how: How,
        meanwhile: Vec<Write>,
    },
}

/// An origin with snapshots, as one side has them.
#[derive(Clone, Debug)]
pub(crate) struct World {
    side: Side,
    pub(crate) origin: Vec<u64>,
    pub(crate) snapshots: BTreeMap<u32, Snapshot>,
}

impl World {
    pub(crate) fn new(side: Side, origin: Vec<u64>) -> Self {
        Self { side, origin, snapshots: BTreeMap::new() }
    }

    /// What a step does. False if the request fails.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Add { id, shape, .. } => {
                let shows = self.origin.clone();
                let saved = BTreeSet::new();
                let added = Snapshot { shape, state: State::Active, shows, saved };
                self.snapshots.insert(id, added);
            }
            Step::Remove { id } => _ = self.snapshots.remove(&id),
            Step::WriteOrigin(write) => self.write_origin(write),
            Step::WriteSnapshot { id, write } => return self.write_snapshot(id, write),
            Step::Discard { id, at, count } => return self.discard(id, at..at + count),
            Step::Reopen => self.snapshots.values_mut().filter(|it| it.live()).for_each(|it| {
                it.state = State::Active;
            }),
            Step::Grow { id, cow } => self.of(id).shape.cow = cow,
            Step::Merge { id, ref meanwhile, .. } => self.merge(id, meanwhile),
        }
        true
    }

    fn of(&mut self, id: u32) -> &mut Snapshot {
        self.snapshots.get_mut(&id).expect("chosen among these")
    }

    /// Every snapshot keeps the old data of these sectors of the origin.
    fn protect(&mut self, sectors: Range<u64>) {
        for snapshot in self.snapshots.values_mut().filter(|it| it.live()) {
            for old in snapshot.chunks(&sectors) {
                if snapshot.save(old, self.side) != Room::Free {
                    snapshot.state = State::Invalid;
                    break;
                }
            }
        }
    }

    fn write_origin(&mut self, write: Write) {
        self.protect(write.range());
        write.put(&mut self.origin, write.range());
    }

    fn write_snapshot(&mut self, id: u32, write: Write) -> bool {
        let side = self.side;
        let snapshot = self.of(id);
        let refused = snapshot.state == State::Overflow && side.refuses_after_overflow();
        if !snapshot.live() || refused {
            return false;
        }
        let (chunk, range) = (snapshot.shape.chunk, write.range());
        for old in snapshot.chunks(&range) {
            let new = !snapshot.saved.contains(&old);
            match snapshot.save(old, side) {
                Room::Free => {}
                Room::Fatal => return false,
                Room::None => {
                    let drops = side.drops_what_is_full(snapshot.shape.po);
                    snapshot.state = if drops { State::Invalid } else { State::Overflow };
                    return false;
                }
            }
            if new {
                snapshot.state = State::Active;
            }
            let part = range.start.max(old * chunk)..range.end.min((old + 1) * chunk);
            write.put(&mut snapshot.shows, part);
        }
        true
    }

    fn discard(&mut self, id: u32, range: Range<u64>) -> bool {
        let side = self.side;
        let snapshot = self.of(id);
        let refused = match snapshot.state {
            State::Invalid => true,
            State::Overflow => side.refuses_after_overflow(),
            State::Active => false,
        };
        if refused || !snapshot.shape.zeroes {
            return !refused && !side.refuses_discards();
        }
        for old in snapshot.chunks(&range) {
            if snapshot.saved.contains(&old) {
                let at = old * snapshot.shape.chunk;
                let zeroes = Write { at, count: snapshot.shape.chunk, number: 0 };
                zeroes.put(&mut snapshot.shows, zeroes.range());
            }
        }
        true
    }

    /// An invalid snapshot brings nothing: its device is the origin.
    fn merge(&mut self, id: u32, meanwhile: &[Write]) {
        let merging = self.snapshots.remove(&id).expect("chosen among these");
        if merging.live() {
            for old in &merging.saved {
                let at = old * merging.shape.chunk;
                self.protect(at..(at + merging.shape.chunk).min(self.origin.len() as u64));
            }
            self.origin = merging.shows;
        }
        meanwhile.iter().for_each(|write| self.write_origin(*write));
    }
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).expect("small")
}
