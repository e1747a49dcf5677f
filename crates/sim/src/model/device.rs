use crate::naive::SECTOR;

/// How a snapshot is, as far as clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not there.
    Absent,
    /// Being made: there, or not.
    Coming,
    /// There.
    Present,
    /// There or dropped.
    Shaky,
    /// Dropped for good.
    Dropped,
    /// Nobody knows.
    Lost,
}

/// A value of a sector: its content, as one number.
pub(super) type Value = u64;

/// What nobody knows.
pub(super) const OPEN: Value = u64::MAX;

/// One sector.
#[derive(Clone, Debug)]
pub(super) struct Sector {
    pub(super) values: Vec<Value>,
    pub(super) settled: usize,
    pub(super) durable: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) standing: Standing,
    pub(super) sectors: Vec<Sector>,
    /// Content, where only one is possible.
    pub(super) bytes: Vec<u8>,
}

/// The value of a sector's content.
pub(super) fn value(bytes: &[u8]) -> Value {
    let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let folded = words.fold(0x51_7CC1_B727_220A_u64, |sum, word| {
        (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    // Never the mark for what nobody knows.
    folded >> 1
}

impl Sector {
    pub(super) fn new(value: Value) -> Self {
        Self { values: vec![value], settled: 0, durable: 0 }
    }

    pub(super) fn last(&self) -> usize {
        self.values.len() - 1
    }

    pub(super) fn may_be(&self, from: usize, found: Value) -> bool {
        self.values[from.min(self.last())..].iter().any(|it| *it == found || *it == OPEN)
    }

    pub(super) fn put(&mut self, value: Value) -> usize {
        self.values.push(value);
        self.last()
    }

    pub(super) fn open(&mut self) {
        let place = self.put(OPEN);
        self.settled = self.settled.min(place);
    }
}

impl Device {
    pub(super) fn new(standing: Standing, content: &[u8]) -> Self {
        let sectors = content.chunks(SECTOR).map(|sector| Sector::new(value(sector)));
        Self { standing, sectors: sectors.collect(), bytes: content.to_vec() }
    }

    pub(super) fn settled(&self) -> Vec<usize> {
        self.sectors.iter().map(|sector| sector.settled).collect()
    }

    pub(super) fn flushed(&mut self, marks: &[usize]) {
        for (sector, mark) in self.sectors.iter_mut().zip(marks) {
            sector.durable = sector.durable.max(*mark);
        }
    }
}

/// A device in words.
pub fn name(device: usize) -> String {
    match device {
        0 => "the origin".into(),
        slot => format!("snapshot {slot}"),
    }
}
