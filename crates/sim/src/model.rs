//! What clients were promised: an origin with snapshots, as naive as can be.
//!
//! Every device is an array of sectors. A sector keeps every value that was ever put there, in
//! order, and two places in that list: from `settled` on lies what a read may find now, from
//! `durable` on what it may hold after a power cut.

mod change; // what happens to it
mod device; // what one device may hold
mod claims; // what clients are told of content

pub use change::Change;
pub use claims::Reading;
pub use device::{Standing, name};

use bytes::Bytes;

use self::device::{Device, OPEN, Sector, value};
use crate::naive::{SECTOR, words};

#[derive(Clone, Debug)]
struct UnderWay {
    id: u64,
    /// Asked for by this name.
    asked: usize,
    /// Where the values went.
    device: usize,
    /// First sector, and where in its list of values the new one is; one for each sector.
    first: usize,
    places: Vec<usize>,
    /// Its disk has forgotten something meanwhile.
    lost: bool,
    /// It covers a part of a sector.
    odd: bool,
    /// It is one that a merge does not let through.
    discards: bool,
}

impl UnderWay {
    fn is_odd_at(&self, device: usize, sector: usize) -> bool {
        let sectors = self.first..self.first + self.places.len();
        self.odd && self.device == device && sectors.contains(&sector)
    }
}

#[derive(Clone, Debug)]
struct Marks {
    id: u64,
    device: usize,
    marks: Vec<usize>,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    devices: Vec<Device>,
    writes: Vec<UnderWay>,
    flushes: Vec<Marks>,
    adding: Vec<Marks>,
    merging: Option<usize>,
    /// A merge is about to begin.
    to_merge: Option<Marks>,
    epoch: u64,
    /// How often a disk has forgotten something.
    shakes: u64,
}

impl Model {
    /// Devices with this content, all of it durable: the origin, then one for each slot, if there
    /// is a snapshot in it.
    pub fn new(origin: &[u8], snapshots: &[Option<Vec<u8>>]) -> Self {
        let mut devices = vec![Device::new(Standing::Present, origin)];
        devices.extend(snapshots.iter().map(|content| match content {
            Some(content) => Device::new(Standing::Present, content),
            None => Device::new(Standing::Absent, origin),
        }));
        Self {
            devices,
            writes: Vec::new(),
            flushes: Vec::new(),
            adding: Vec::new(),
            merging: None,
            to_merge: None,
            epoch: 0,
            shakes: 0,
        }
    }

    /// How the snapshot in this slot is.
    pub fn standing(&self, slot: usize) -> Standing {
        self.devices[slot].standing
    }

    /// The snapshot that is one with the origin.
    pub fn merging(&self) -> Option<usize> {
        self.merging
    }

    /// Slots there are, the origin not counted.
    pub fn slots(&self) -> usize {
        self.devices.len() - 1
    }

    /// In sectors.
    pub fn sectors(&self) -> usize {
        self.devices[0].sectors.len()
    }

    /// Whose content a device shows.
    fn shown(&self, device: usize) -> usize {
        match self.merging {
            Some(slot) if device == 0 => slot,
            _ => device,
        }
    }

    /// True if a write there would meet another one that is under way: nobody says what two such
    /// writes leave behind.
    pub fn clashes(&self, device: usize, at: usize, len: usize) -> bool {
        let beginning = self.to_merge.as_ref().map(|marks| marks.device);
        let same = |other: &UnderWay| {
            self.shown(device) == other.device
                // Asked while a merge went on that has been given up since.
                || device == other.asked
                || [self.merging, beginning]
                    .iter()
                    .flatten()
                    .any(|slot| [0, *slot].contains(&device) && [0, *slot].contains(&other.asked))
        };
        let (first, end) = (at / SECTOR, (at + len).div_ceil(SECTOR));
        let meets =
            |other: &UnderWay| other.first < end && first < other.first + other.places.len();
        self.writes.iter().any(|other| same(other) && meets(other))
    }

    /// True if the sector's content is known.
    pub fn known(&self, device: usize, sector: usize) -> bool {
        let sector = &self.devices[self.shown(device)].sectors[sector];
        sector.settled == sector.last() && sector.values[sector.settled] != OPEN
    }

    /// True if somebody writes to this sector.
    fn is_written(&self, device: usize, number: usize) -> bool {
        self.writes.iter().any(|other| {
            (other.device == device || self.shown(other.asked) == device)
                && (other.first..other.first + other.places.len()).contains(&number)
        })
    }

    /// Holds what a device was found to hold after a power cut against what was promised.
    ///
    /// # Errors
    ///
    /// In words, the first sector that breaks a promise.
    pub fn after_cut(&self, device: usize, bytes: &[u8]) -> Result<(), String> {
        let shown = &self.devices[device];
        for (number, (sector, data)) in shown.sectors.iter().zip(bytes.chunks(SECTOR)).enumerate() {
            if !sector.may_be(sector.durable, value(data)) {
                let newest = words(&shown.bytes[number * SECTOR..(number + 1) * SECTOR]);
                let values = sector.values.len() - sector.durable;
                return Err(format!(
                    "after the power cut {} holds {} in sector {number}; promised was {}{newest}",
                    name(device),
                    words(data),
                    if values > 1 {
                        format!("one of {values} values, the newest ")
                    } else {
                        String::new()
                    },
                ));
            }
        }
        Ok(())
    }

    /// Something has happened.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { id, device, at, data } => self.write(*id, *device, *at, data),
            Change::Written { id, ok } => self.written(*id, *ok),
            Change::Discard { id, device, at, len, chunk } => {
                self.discard(*id, *device, *at, *len, *chunk);
            }
            Change::Flush { id, device } => {
                let device = self.shown(*device);
                let marks = self.devices[device].settled();
                self.flushes.push(Marks { id: *id, device, marks });
            }
            Change::Flushed { id, ok } => self.flushed(*id, *ok),
            Change::Found { device, sector, data } => {
                let device = &mut self.devices[*device];
                let place = device.sectors[*sector].put(value(data));
                device.sectors[*sector].settled = place;
                device.bytes[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(data);
            }
            Change::Shaken { device } => self.shaken(*device),
            Change::Add { slot } => {
                self.devices[*slot].standing = Standing::Coming;
                let marks = self.devices[0].settled();
                self.adding.push(Marks { id: 0, device: *slot, marks });
            }
            Change::Added { slot, ok } => self.added(*slot, *ok),
            Change::Merge { slot } => {
                let marks = self.devices[*slot].settled();
                self.to_merge = Some(Marks { id: 0, device: *slot, marks });
            }
            Change::Merging { slot, ok } => self.merge(*slot, *ok),
            Change::Cancelled => {
                self.epoch += 1;
                self.merging = None;
                self.devices[0].sectors.iter_mut().for_each(Sector::open);
            }
            Change::Remove { slot } => self.removed(*slot),
            Change::Drop { slot } => self.devices[*slot].standing = Standing::Shaky,
            Change::Dropped { slot } => self.devices[*slot].standing = Standing::Dropped,
            Change::Lose { slot } => self.devices[*slot].standing = Standing::Lost,
        }
    }

    fn write(&mut self, id: u64, asked: usize, at: usize, data: &Bytes) {
        let shown = self.shown(asked);
        let device = &mut self.devices[shown];
        device.bytes[at..at + data.len()].copy_from_slice(data);
        let (first, end) = (at / SECTOR, (at + data.len()).div_ceil(SECTOR));
        let mut places = Vec::with_capacity(end - first);
        for number in first..end {
            let bytes = &device.bytes[number * SECTOR..(number + 1) * SECTOR];
            places.push(device.sectors[number].put(value(bytes)));
        }
        let odd = !at.is_multiple_of(SECTOR) || !data.len().is_multiple_of(SECTOR);
        self.writes.push(UnderWay {
            id,
            asked,
            device: shown,
            first,
            places,
            lost: false,
            odd,
            discards: false,
        });
    }

    fn written(&mut self, id: u64, ok: bool) {
        let Some(n) = self.writes.iter().position(|write| write.id == id) else { return };
        let write = self.writes.remove(n);
        // One that saw the begin or the end of a merge may have gone either way.
        if ok && !write.lost && self.shown(write.asked) == write.device {
            let sectors = &mut self.devices[write.device].sectors[write.first..];
            for (sector, place) in sectors.iter_mut().zip(write.places) {
                sector.settled = sector.settled.max(place);
            }
        }
    }

    fn discard(&mut self, id: u64, asked: usize, at: usize, len: usize, chunk: Option<usize>) {
        let shown = self.shown(asked);
        self.zeroed(shown, at, len, chunk);
        // Nothing else may be written there meanwhile.
        let (first, end) = (at / SECTOR, (at + len).div_ceil(SECTOR));
        let places = vec![0; end - first];
        self.writes.push(UnderWay {
            id,
            asked,
            device: shown,
            first,
            places,
            lost: true,
            odd: true,
            discards: true,
        });
    }

    fn zeroed(&mut self, device: usize, at: usize, len: usize, chunk: Option<usize>) {
        let end = (at + len).div_ceil(SECTOR);
        let total = self.devices[device].sectors.len() * SECTOR;
        let zero = value(&[0; SECTOR]);
        for (number, sector) in self.devices[device].sectors[..end].iter_mut().enumerate() {
            let Some(chunk) = chunk else {
                if number >= at / SECTOR {
                    sector.open();
                }
                continue;
            };
            let begin = number * SECTOR / chunk * chunk;
            if at <= begin && (begin + chunk).min(total) <= at + len {
                sector.put(zero);
            }
        }
    }

    fn flushed(&mut self, id: u64, ok: bool) {
        if let Some(n) = self.flushes.iter().position(|flush| flush.id == id) {
            let flush = self.flushes.swap_remove(n);
            if ok {
                self.devices[flush.device].flushed(&flush.marks);
            }
        }
    }

    fn shaken(&mut self, device: usize) {
        // A read under way may have seen what was there before, or what is there now.
        self.shakes += 1;
        for sector in &mut self.devices[device].sectors {
            sector.settled = sector.durable;
        }
        // Those under way may have been lost before they are acknowledged; or laid over what was.
        for write in self.writes.iter_mut().filter(|write| write.device == device) {
            write.lost = true;
            if write.odd {
                let sectors = &mut self.devices[device].sectors[write.first..];
                sectors.iter_mut().take(write.places.len()).for_each(Sector::open);
            }
        }
    }

    fn removed(&mut self, slot: usize) {
        if self.merging == Some(slot) {
            self.epoch += 1;
            self.merging = None;
            let merged = self.devices[slot].clone();
            self.devices[0] = Device { standing: Standing::Present, ..merged };
        }
        self.devices[slot].standing = Standing::Absent;
    }

    fn added(&mut self, slot: usize, ok: bool) {
        let Some(n) = self.adding.iter().position(|marks| marks.device == slot) else { return };
        let marks = self.adding.swap_remove(n).marks;
        if !ok {
            self.devices[slot].standing = Standing::Absent;
            return;
        }
        self.devices[0].flushed(&marks);
        let mut snapshot = self.devices[0].clone();
        snapshot.standing = Standing::Present;
        // What was being written may be in it or not; whatever is in it is durable.
        for (sector, mark) in snapshot.sectors.iter_mut().zip(&marks) {
            let values = sector.values[*mark..].to_vec();
            *sector = Sector { values, settled: 0, durable: 0 };
        }
        self.devices[slot] = snapshot;
    }

    fn merge(&mut self, slot: usize, ok: bool) {
        let Some(marks) = self.to_merge.take() else { return };
        if !ok {
            return;
        }
        self.devices[slot].flushed(&marks.marks);
        self.epoch += 1;
        self.merging = Some(slot);
        // Writes to the origin that are under way may come before or after.
        let late = self.writes.iter().filter(|it| it.asked == 0 && !it.discards);
        let late: Vec<UnderWay> = late.cloned().collect();
        for write in late {
            for (number, place) in (write.first..).zip(&write.places) {
                // A part of a sector is laid over another one there.
                let odd = write.odd || self.writes.iter().any(|it| it.is_odd_at(slot, number));
                let value = self.devices[write.device].sectors[number].values[*place];
                self.devices[slot].sectors[number].put(if odd { OPEN } else { value });
            }
        }
    }
}
