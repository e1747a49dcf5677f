//! Makes a snapshot store of two images: what the first has and the second has not goes into the store, so that
//! the second with it shows the first.
//!
//! ```text
//! cargo run --example make_store OLD NEW COW
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use dmsnap::blocking;
use dmsnap::device::{Access, Caching, File};
use dmsnap::format::{ChunkSize, Layout, OriginChunk};
use dmsnap::store::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    match &std::env::args_os().collect::<Vec<_>>()[..] {
        [_, old, new, cow] => {
            let exceptions = make_store(old.as_ref(), new.as_ref(), cow.as_ref())?;
            println!("{exceptions} chunks differ");
            Ok(())
        }
        _ => Err("usage: make_store OLD NEW COW".into()),
    }
}

/// Returns how many chunks differ. Both images have the same size, and fit into memory.
pub(crate) fn make_store(old: &Path, new: &Path, cow: &Path) -> Result<u64, Box<dyn Error>> {
    // 8 sectors: 4 KiB.
    let chunk_size = ChunkSize::from_sectors(8)?;
    let chunk_bytes = usize::try_from(chunk_size.bytes())?;
    let (old_bytes, new_bytes) = (fs::read(old)?, fs::read(new)?);
    let pairs = old_bytes.chunks(chunk_bytes).zip(new_bytes.chunks(chunk_bytes));
    let changed: Vec<_> = (0..).zip(pairs).filter(|(_, (old, new))| old != new).collect();
    // Header, metadata and data. The store may be read by those who may read what is in it.
    let chunks = Layout::new(chunk_size).chunks_needed(changed.len() as u64);
    let (len_bytes, access) = (chunks * chunk_size.bytes(), Access::like(old)?);
    blocking::run(async {
        let cow = File::create_new(cow, len_bytes, Caching::Direct, access).await?;
        let mut store = Builder::new(&cow, chunk_size).await?;
        for (number, (old, _)) in changed {
            // The last chunk of an image may be a part of one.
            let mut data = old.to_vec();
            data.resize(chunk_bytes, 0);
            store.add(OriginChunk::new(number), data.into()).await?;
        }
        Ok(store.finish().await?)
    })?
}
