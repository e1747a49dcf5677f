//! Stores made by the handful of lines that the format takes, so that no program that is measured
//! has made them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dmsnap::format::{
    ChunkSize, CowChunk, Exception, Layout, OriginChunk, RawException, RawHeader,
};
use zerocopy::IntoBytes;

use crate::load::stamp;
use crate::order::Order;

/// Of so many chunks one is looked at when a merge is verified.
const SAMPLE: usize = 97;

/// A store with `exceptions` exceptions, for the blocks that the load generator would write with
/// the same order and seed.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Where things lie.
    pub layout: Layout,
    /// How many.
    pub exceptions: u64,
    /// Of the origin, in bytes.
    pub origin_bytes: u64,
    /// Which chunk comes when.
    pub order: Order,
}

impl Made {
    /// With chunks of `chunk_bytes`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a size that no chunk can have.
    pub fn new(chunk_bytes: u64) -> io::Result<Self> {
        let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let sectors = u32::try_from(chunk_bytes / 512).map_err(wrong)?;
        let chunk_size = ChunkSize::from_sectors(sectors).map_err(io::Error::other)?;
        let layout = Layout::new(chunk_size);
        Ok(Self { layout, exceptions: 0, origin_bytes: 0, order: Order::Random })
    }

    fn chunk_bytes(&self) -> u64 {
        self.layout.chunk_size().bytes()
    }

    /// The `n`th exception.
    fn exception(&self, n: u64) -> Exception {
        let old = self.order.block(n, self.origin_bytes / self.chunk_bytes(), 1);
        Exception { old: OriginChunk::new(old), new: self.layout.lock_step_chunk(n) }
    }

    /// Where a chunk of the COW device lies, in bytes.
    fn byte(&self, chunk: CowChunk) -> u64 {
        chunk.get() * self.chunk_bytes()
    }

    /// A new file with room for one chunk more than there are exceptions; every byte that is not
    /// written is a hole.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        let cow = File::create_new(path)?;
        cow.set_len(self.layout.chunks_needed(self.exceptions + 1) * self.chunk_bytes())?;
        let header = RawHeader::new(self.layout.chunk_size(), true);
        cow.write_all_at(header.as_bytes(), 0)?;
        Ok(cow)
    }

    /// Every exception in its slot, as before a merge.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn write_areas(&self, cow: &File) -> io::Result<()> {
        let per_area = self.layout.exceptions_per_area();
        for area in 0..self.exceptions.div_ceil(per_area) {
            let here = area * per_area..self.exceptions.min((area + 1) * per_area);
            let slots: Vec<RawException> = here
                .map(|n| self.exception(n))
                .map(|it| RawException { old: it.old.get().into(), new: it.new.get().into() })
                .collect();
            cow.write_all_at(slots.as_bytes(), self.byte(self.layout.area_location(area)))?;
        }
        Ok(())
    }

    /// The data of every chunk; each begins with its own position.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn write_data(&self, cow: &File) -> io::Result<()> {
        let mut data = vec![0xA5; usize::try_from(self.chunk_bytes()).map_err(io::Error::other)?];
        for exception in (0..self.exceptions).map(|n| self.exception(n)) {
            data[..8].copy_from_slice(&stamp(exception.old.get() * self.chunk_bytes()));
            cow.write_all_at(&data, self.byte(exception.new))?;
        }
        Ok(())
    }

    fn sample(&self) -> impl Iterator<Item = u64> {
        let exceptions = (0..self.exceptions).step_by(SAMPLE).map(|n| self.exception(n));
        exceptions.map(|it| it.old.get() * self.chunk_bytes())
    }

    /// Spoils what a merge has to bring to the origin, at some places.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn spoil(&self, origin: &Path) -> io::Result<()> {
        let origin = OpenOptions::new().write(true).open(origin)?;
        self.sample().try_for_each(|at| origin.write_all_at(&[0; 8], at))?;
        origin.sync_data()
    }

    /// Looks at those places.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if one is not as it should be; any error of the file.
    pub fn verify(&self, origin: &Path) -> io::Result<()> {
        let origin = File::open(origin)?;
        for at in self.sample() {
            let mut found = [0; 8];
            origin.read_exact_at(&mut found, at)?;
            if found != stamp(at) {
                let what = format!("the origin is wrong at {at}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(())
    }
}

/// All exceptions of a store, read in one sweep by area.
///
/// # Errors
///
/// Any error of the file, or that it is no store.
pub fn read_areas(cow: &File) -> io::Result<(Layout, Vec<Exception>)> {
    let mut head = [0; 16];
    cow.read_exact_at(&mut head, 0)?;
    let header = RawHeader::from_prefix(&head).ok_or(io::ErrorKind::UnexpectedEof)?;
    let header = header.validate().map_err(io::Error::other)?;
    let layout = Layout::new(header.chunk_size);
    let mut bytes = vec![0; usize::try_from(header.chunk_size.bytes()).map_err(io::Error::other)?];
    let mut exceptions = Vec::new();
    for area in 0.. {
        let at = layout.area_location(area).get() * header.chunk_size.bytes();
        cow.read_exact_at(&mut bytes, at)?;
        exceptions.extend(RawException::slots(&bytes).iter().map_while(RawException::decode));
        if exceptions.len() as u64 != (area + 1) * layout.exceptions_per_area() {
            break;
        }
    }
    Ok((layout, exceptions))
}
