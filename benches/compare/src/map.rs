//! Disks that are files, mapped through an array and nothing else: no metadata is ever written, so
//! what they hold is lost with the process.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::wire::Disk;

/// Unit of the map, in bytes.
pub const CHUNK: u64 = 4096;

/// The same, for lengths of memory.
const CHUNK_LEN: usize = 4096;

/// A chunk that lies where it always did.
const NOWHERE: u32 = u32::MAX;

/// A file as it is.
pub struct Raw(pub File);

impl Disk for Raw {
    fn len_bytes(&self) -> u64 {
        self.0.metadata().map_or(0, |data| data.len())
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Writes go to a file of their own, reads to the file that has the chunk.
pub struct Overlay {
    origin: File,
    cow: File,
    /// Of each chunk of the origin: where in the other file.
    places: Vec<u32>,
    next: u32,
}

impl Overlay {
    /// Without any chunk of its own.
    ///
    /// # Errors
    ///
    /// Any error of a file, or more chunks than there are numbers.
    pub fn new(origin: File, cow: File) -> io::Result<Self> {
        let chunks = u32::try_from(origin.metadata()?.len() / CHUNK).map_err(io::Error::other)?;
        Ok(Self { origin, cow, places: vec![NOWHERE; chunks as usize], next: 0 })
    }

    /// Gives every chunk of a write a place.
    fn place(&mut self, chunks: Range<usize>) {
        for place in &mut self.places[chunks] {
            if *place == NOWHERE {
                *place = self.next;
                self.next += 1;
            }
        }
    }

    /// Cuts a range of chunks where places are not in a row: place and number of chunks.
    fn runs(&self, mut chunks: Range<usize>) -> impl Iterator<Item = (u32, usize)> {
        std::iter::from_fn(move || {
            let first = *self.places[chunks.clone()].first()?;
            let follows = |n: u32| if first == NOWHERE { NOWHERE } else { first + n };
            let here = self.places[chunks.clone()].iter();
            let len = (0..).zip(here).take_while(|(n, place)| **place == follows(*n)).count();
            chunks.start += len;
            Some((first, len))
        })
    }
}

fn chunks(at: u64, len: usize) -> io::Result<Range<usize>> {
    let at = usize::try_from(at).map_err(io::Error::other)?;
    match at.is_multiple_of(CHUNK_LEN) && len.is_multiple_of(CHUNK_LEN) {
        true => Ok(at / CHUNK_LEN..(at + len) / CHUNK_LEN),
        false => Err(io::Error::other("only whole chunks are served")),
    }
}

impl Disk for Overlay {
    fn len_bytes(&self) -> u64 {
        self.places.len() as u64 * CHUNK
    }

    fn read(&mut self, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
        for (place, len) in self.runs(chunks(at, into.len())?) {
            let (here, rest) = into.split_at_mut(len * CHUNK_LEN);
            match place {
                NOWHERE => self.origin.read_exact_at(here, at)?,
                place => self.cow.read_exact_at(here, u64::from(place) * CHUNK)?,
            }
            at += here.len() as u64;
            into = rest;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, mut data: &[u8]) -> io::Result<()> {
        let chunks = chunks(at, data.len())?;
        self.place(chunks.clone());
        for (place, len) in self.runs(chunks) {
            let (here, rest) = data.split_at(len * CHUNK_LEN);
            self.cow.write_all_at(here, u64::from(place) * CHUNK)?;
            data = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.cow.sync_data()
    }
}

/// An origin: what its snapshots have not saved is copied into each one's file before it is written.
pub struct Origin {
    origin: File,
    cows: Vec<File>,
    saved: Vec<bool>,
    next: u64,
    /// Old data is durable before the origin is written.
    durable: bool,
}

impl Origin {
    /// With one file for each snapshot.
    ///
    /// # Errors
    ///
    /// Any error of a file.
    pub fn new(origin: File, cows: Vec<File>, durable: bool) -> io::Result<Self> {
        let chunks = usize::try_from(origin.metadata()?.len() / CHUNK).map_err(io::Error::other)?;
        Ok(Self { origin, cows, saved: vec![false; chunks], next: 0, durable })
    }

    /// Copies one chunk; false if that was done before.
    fn save(&mut self, chunk: usize) -> io::Result<bool> {
        if std::mem::replace(&mut self.saved[chunk], true) {
            return Ok(false);
        }
        let mut old = [0; CHUNK_LEN];
        self.origin.read_exact_at(&mut old, chunk as u64 * CHUNK)?;
        for cow in &self.cows {
            cow.write_all_at(&old, self.next * CHUNK)?;
        }
        self.next += 1;
        Ok(true)
    }
}

impl Disk for Origin {
    fn len_bytes(&self) -> u64 {
        self.saved.len() as u64 * CHUNK
    }

    /// Requests that came together share a flush.
    fn prepare(&mut self, writes: &[Range<u64>]) -> io::Result<()> {
        let mut copied = false;
        for write in writes {
            let len = usize::try_from(write.end - write.start).map_err(io::Error::other)?;
            for chunk in chunks(write.start, len)? {
                copied |= self.save(chunk)?;
            }
        }
        if copied && self.durable {
            self.cows.iter().try_for_each(File::sync_data)?;
        }
        Ok(())
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.origin.read_exact_at(into, at)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.origin.write_all_at(data, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.cows.iter().chain([&self.origin]).try_for_each(File::sync_data)
    }
}
