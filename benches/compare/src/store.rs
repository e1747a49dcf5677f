//! Stores for the comparison, made in one go and looked at by a reader that does the least.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use dmsnap::device::{self, Caching, Mode};
use dmsnap::format::{ChunkSize, Exception, Layout, OriginChunk, RawException, RawHeader};
use dmsnap::store::Builder;

use crate::load::stamp;
use crate::order::Order;

/// Of this many chunks one is looked at when a merge is verified.
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

    /// Which chunk of the origin comes `n`th.
    fn old(&self, n: u64) -> OriginChunk {
        OriginChunk::new(self.order.block(n, self.origin_bytes / self.chunk_bytes(), 1))
    }

    /// A new file with room for one chunk more than there are exceptions; every byte is a hole.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        let chunks = self.layout.chunks_needed(self.exceptions + 1);
        File::create_new(path)?.set_len(chunks * self.chunk_bytes())
    }

    /// Makes a store of the file, durably, with every exception in its slot, as before a merge. With data,
    /// each chunk begins with its own position; without, chunks hold what they held.
    ///
    /// # Errors
    ///
    /// Any error of the file.
    pub fn build(&self, path: &Path, with_data: bool) -> io::Result<()> {
        compio::runtime::Runtime::new()?.block_on(async {
            let cow = device::File::open(path, Mode::Write, Caching::Buffered).await;
            let cow = cow.map_err(io::Error::other)?;
            let chunk_size = self.layout.chunk_size();
            let mut builder = Builder::new(&cow, chunk_size).await.map_err(io::Error::other)?;
            let chunk_bytes = usize::try_from(self.chunk_bytes()).map_err(io::Error::other)?;
            let mut data = vec![0xA5; chunk_bytes];
            for old in (0..self.exceptions).map(|n| self.old(n)) {
                let added = match with_data {
                    true => {
                        data[..8].copy_from_slice(&stamp(old.get() * self.chunk_bytes()));
                        builder.add(old, Bytes::copy_from_slice(&data)).await
                    }
                    false => builder.place(old).await.map(|_| ()),
                };
                added.map_err(io::Error::other)?;
            }
            builder.finish().await.map(|_| ()).map_err(io::Error::other)
        })
    }

    fn sample(&self) -> impl Iterator<Item = u64> {
        let olds = (0..self.exceptions).step_by(SAMPLE).map(|n| self.old(n));
        olds.map(|old| old.get() * self.chunk_bytes())
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
/// Any error of the file, or that it is not a store.
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
