use std::ops::Range;

use bytes::Bytes;

use super::Model;
use super::change::Change;
use super::device::{OPEN, Value, name, value};
use crate::naive::{SECTOR, words};

/// A read under way.
#[derive(Clone, Debug)]
pub struct Reading {
    device: usize,
    first: usize,
    /// For each sector the place of what is known, and, if nobody writes there, of the newest.
    marks: Vec<(usize, Option<usize>)>,
    epoch: u64,
    shakes: u64,
}

impl Reading {
    /// What this sector of it may have held from when it was asked for until now.
    fn values<'a>(&self, model: &'a Model, sector: usize) -> Option<&'a [Value]> {
        let (mark, _) = self.marks.get(sector.checked_sub(self.first)?)?;
        let sector = model.devices[self.device].sectors.get(sector)?;
        sector.values.get((*mark).min(sector.last())..)
    }
}

impl Model {
    /// A client asks to read.
    pub fn read(&self, device: usize, at: usize, len: usize) -> Reading {
        let device = self.shown(device);
        let (first, end) = (at / SECTOR, (at + len).div_ceil(SECTOR));
        let mark = |number: usize| {
            let sector = &self.devices[device].sectors[number];
            let quiet = !self.is_written(device, number);
            (sector.settled, quiet.then_some(sector.last()))
        };
        Reading {
            device,
            first,
            marks: (first..end).map(mark).collect(),
            epoch: self.epoch,
            shakes: self.shakes,
        }
    }

    /// It found this, in whole sectors. Returns what is known now and was not before.
    ///
    /// # Errors
    ///
    /// In words, what cannot be.
    pub fn found(&self, reading: &Reading, bytes: &[u8]) -> Result<Vec<Change>, String> {
        let device = &self.devices[reading.device];
        let mut news = Vec::new();
        if reading.epoch != self.epoch {
            return Ok(news);
        }
        for (n, (data, (mark, last))) in bytes.chunks(SECTOR).zip(&reading.marks).enumerate() {
            let (number, found) = (reading.first + n, value(data));
            let sector = &device.sectors[number];
            // What was lost meanwhile may be found or not, but not what never was there.
            let shaken = reading.shakes != self.shakes;
            let mark = if shaken { 0 } else { *mark };
            if !sector.may_be(mark, found) {
                let expected = words(&device.bytes[number * SECTOR..(number + 1) * SECTOR]);
                let name = name(reading.device);
                return Err(format!(
                    "a read of {name} found {} in sector {number}, which holds {expected}",
                    words(data)
                ));
            }
            // Nobody wrote there from before the read was asked for until now.
            let quiet =
                !shaken && *last == Some(sector.last()) && !self.is_written(reading.device, number);
            if quiet && (sector.settled < sector.last() || sector.values[sector.last()] == OPEN) {
                let data = Bytes::copy_from_slice(data);
                news.push(Change::Found { device: reading.device, sector: number, data });
            }
        }
        Ok(news)
    }

    /// A client was told that these sectors are zeroes: each was at some moment since it asked.
    ///
    /// # Errors
    ///
    /// In words, what cannot be.
    pub fn claim_zeroes(&self, asked: &Reading, sectors: Range<usize>) -> Result<(), String> {
        if asked.epoch != self.epoch || asked.shakes != self.shakes {
            return Ok(());
        }
        let zero = value(&[0; SECTOR]);
        for sector in sectors {
            let Some(values) = asked.values(self, sector) else { continue };
            if !values.iter().any(|it| [zero, OPEN].contains(it)) {
                let device = name(asked.device);
                return Err(format!("sector {sector} of {device} is called zeroes, and is none"));
            }
        }
        Ok(())
    }

    /// This sector was seen to be this.
    ///
    /// # Errors
    ///
    /// In words, what it is.
    pub fn claim(&self, asked: &Reading, sector: usize, data: &[u8]) -> Result<(), String> {
        let found = value(data);
        match asked.values(self, sector).filter(|_| asked.epoch == self.epoch) {
            Some(values) if !values.iter().any(|it| [found, OPEN].contains(it)) => Err(format!(
                "sector {sector} of {} is {}, which it was not",
                name(asked.device),
                words(data)
            )),
            _ => Ok(()),
        }
    }

    /// A client was told that these sectors are the same on two devices: each was at some moment
    /// since it asked.
    ///
    /// # Errors
    ///
    /// In words, what cannot be.
    pub fn claim_equal(
        &self,
        one: &Reading,
        other: &Reading,
        sectors: Range<usize>,
    ) -> Result<(), String> {
        let moved = |it: &Reading| it.epoch != self.epoch || it.shakes != self.shakes;
        if moved(one) || moved(other) {
            return Ok(());
        }
        for sector in sectors {
            let both = (one.values(self, sector), other.values(self, sector));
            let (Some(a), Some(b)) = both else { continue };
            if !a.iter().chain(b).any(|it| *it == OPEN) && !a.iter().any(|it| b.contains(it)) {
                let (one, other) = (name(one.device), name(other.device));
                return Err(format!(
                    "sector {sector} of {one} is called unchanged since {other}, which holds \
                     something else"
                ));
            }
        }
        Ok(())
    }
}
