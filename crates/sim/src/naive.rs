//! Stores read and written the way the format says, byte by byte and without a line of what is
//! tested: what a kernel would make of a disk.

use bytes::Bytes;

/// In bytes.
pub const SECTOR: usize = 512;

/// In bytes.
const SLOT: usize = 16;

/// What lies on a COW device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No store: the magic is zero.
    Blank,
    /// A store that a kernel opens, or refuses because it was dropped.
    Store(Store),
    /// A store that no kernel opens, and why.
    Broken(String),
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// In bytes.
    pub chunk: usize,
    /// False if the snapshot was dropped.
    pub valid: bool,
    /// Origin chunk and COW chunk, in the order of the slots.
    pub exceptions: Vec<(u64, u64)>,
    /// Slots past the end that are not zero: kernels bring them back to life.
    pub strays: usize,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes) as usize
}

/// Reads a COW device as a kernel does.
pub fn read(cow: &[u8]) -> Found {
    if cow[..4] == [0; 4] {
        return Found::Blank;
    }
    let chunk = half(cow, 12).saturating_mul(SECTOR);
    if &cow[..4] != b"SnAp" || half(cow, 8) != 1 || !chunk.is_power_of_two() || chunk < SECTOR {
        return Found::Broken("the header is torn".into());
    }
    let mut store = Store { chunk, valid: half(cow, 4) != 0, exceptions: Vec::new(), strays: 0 };
    let slots = chunk / SLOT;
    for area in 0.. {
        let begin = (1 + area * (slots + 1)) * chunk;
        let Some(bytes) = cow.get(begin..begin + chunk) else {
            return Found::Broken(format!("area {area} should end the list, and is not there"));
        };
        for slot in 0..slots {
            let (old, new) = (word(bytes, slot * SLOT), word(bytes, slot * SLOT + 8));
            if new == 0 {
                let rest = bytes[slot * SLOT..].chunks(SLOT);
                store.strays = rest.filter(|slot| slot.iter().any(|byte| *byte != 0)).count();
                return Found::Store(store);
            }
            store.exceptions.push((old, new));
        }
    }
    Found::Broken("a list without end".into())
}

impl Store {
    /// What is wrong with its exceptions, if anything is.
    pub fn wrong(&self, cow_len: usize, origin_len: usize) -> Option<String> {
        let slots = (self.chunk / SLOT) as u64;
        let (chunks, olds) = (cow_len / self.chunk, origin_len.div_ceil(self.chunk));
        for (n, (old, new)) in self.exceptions.iter().enumerate() {
            let earlier = &self.exceptions[..n];
            let what = if *new < 2 || new % (slots + 1) == 1 {
                "uses a chunk of metadata"
            } else if *new >= chunks as u64 {
                "lies beyond the COW device"
            } else if *old >= olds as u64 {
                "lies beyond the origin"
            } else if earlier.iter().any(|other| other.0 == *old) {
                "repeats an origin chunk"
            } else if earlier.iter().any(|other| other.1 == *new) {
                "repeats a COW chunk"
            } else {
                continue;
            };
            return Some(format!("exception {n} ({old} -> {new}) {what}"));
        }
        (self.strays > 0).then(|| format!("{} strays past the end of the list", self.strays))
    }

    /// True if every exception has the chunk that an in-order writer gives it.
    pub fn in_step(&self) -> bool {
        let slots = (self.chunk / SLOT) as u64;
        (0..)
            .zip(&self.exceptions)
            .all(|(n, (_, new))| *new == 2 + n / slots * (slots + 1) + n % slots)
    }

    /// The snapshot's content.
    pub fn view(&self, origin: &[u8], cow: &[u8]) -> Vec<u8> {
        let mut view = origin.to_vec();
        for (old, new) in &self.exceptions {
            let at = usize::try_from(*old).unwrap_or(usize::MAX).saturating_mul(self.chunk);
            let from = usize::try_from(*new).unwrap_or(usize::MAX).saturating_mul(self.chunk);
            let len = self.chunk.min(view.len().saturating_sub(at));
            if let Some(data) = cow.get(from..from.saturating_add(len)).filter(|_| len > 0) {
                view[at..at + len].copy_from_slice(data);
            }
        }
        view
    }
}

/// The content of a sector that a request with this tag writes: tag and place, again and again.
pub fn sector(tag: u32, sector: usize) -> [u8; SECTOR] {
    let word = (u64::from(tag) << 32 | sector as u64).to_le_bytes();
    let mut bytes = [0; SECTOR];
    bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
    bytes
}

/// The content of any bytes that a request with this tag writes.
pub fn content(tag: u32, at: usize, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 2 * SECTOR);
    for n in at / SECTOR..(at + len).div_ceil(SECTOR) {
        bytes.extend(sector(tag, n));
    }
    Bytes::from(bytes).slice(at % SECTOR..at % SECTOR + len)
}

/// What lies on a new disk: not zeroes, and not a store.
pub const STALE: u8 = 0xAA;

/// A COW device of this many chunks with a store that has an exception for each of these origin
/// chunks, in the order a kernel gives chunks out. All else is stale. The data of origin chunk
/// `old` is what a request with `tag` would have written there.
pub fn store(chunk_sectors: usize, chunks: usize, olds: &[usize], tag: u32) -> Vec<u8> {
    let chunk = chunk_sectors * SECTOR;
    let slots = chunk / SLOT;
    let mut cow = vec![STALE; chunks * chunk];
    cow[..chunk].fill(0);
    cow[..4].copy_from_slice(b"SnAp");
    for (at, value) in [(4, 1), (8, 1), (12, chunk_sectors)] {
        cow[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap_or(0).to_le_bytes());
    }
    for area in 0..=olds.len() / slots {
        let begin = (1 + area * (slots + 1)) * chunk;
        cow[begin..begin + chunk].fill(0);
    }
    for (n, old) in olds.iter().enumerate() {
        let area = (1 + n / slots * (slots + 1)) * chunk;
        let new = area / chunk + 1 + n % slots;
        put_slot(&mut cow, area + n % slots * SLOT, *old, new);
        let data = content(tag, old * chunk, chunk);
        cow[new * chunk..(new + 1) * chunk].copy_from_slice(&data);
    }
    cow
}

/// Writes a slot at this byte.
pub fn put_slot(cow: &mut [u8], at: usize, old: usize, new: usize) {
    cow[at..at + 8].copy_from_slice(&(old as u64).to_le_bytes());
    cow[at + 8..at + 16].copy_from_slice(&(new as u64).to_le_bytes());
}

/// A sector in words, for people.
pub fn words(bytes: &[u8]) -> String {
    let mut found: Vec<(u64, usize)> = Vec::new();
    for chunk in bytes.chunks_exact(8) {
        let word = word(chunk, 0);
        match found.last_mut() {
            Some((last, count)) if *last == word => *count += 1,
            _ => found.push((word, 1)),
        }
    }
    let name = |word: u64| match word {
        0 => "zeroes".into(),
        0xAAAA_AAAA_AAAA_AAAA => "stale bytes".into(),
        word => format!("write {} for sector {}", word >> 32, word & 0xFFFF_FFFF),
    };
    let parts = found.iter().take(4).map(|(word, count)| match count {
        64 => name(*word),
        count => format!("{} ({count} of 64 words)", name(*word)),
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let olds: Vec<usize> = (0..70).map(|n| n * 3 % 71).collect();
        let cow = store(1, 120, &olds, 7);
        let Found::Store(found) = read(&cow) else { panic!("no store") };
        let exceptions = found.exceptions.iter().map(|(old, _)| usize::try_from(*old));
        assert_eq!(exceptions.collect::<Result<Vec<_>, _>>(), Ok(olds.clone()));
        assert_eq!(found.exceptions[33].1, 36, "chunk 34 holds area 1");
        let origin = content(1, 0, 72 * SECTOR);
        assert_eq!(found.wrong(cow.len(), origin.len()), None);
        let view = found.view(&origin, &cow);
        assert_eq!(view[6 * SECTOR..7 * SECTOR], sector(7, 6));
        assert_eq!(view[71 * SECTOR..], sector(1, 71));
        assert!(found.wrong(100 * SECTOR, origin.len()).is_none());
        assert!(found.wrong(70 * SECTOR, origin.len()).is_some());
    }

    #[test]
    fn bytes_at_odd_places_belong_to_their_sectors() {
        let part = content(3, 700, 1000);
        assert_eq!(part.len(), 1000);
        assert_eq!(part[..324], sector(3, 1)[188..]);
        assert_eq!(words(&sector(3, 1)), "write 3 for sector 1");
    }
}
