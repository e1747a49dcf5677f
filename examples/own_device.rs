//! A device of one's own: an image of which only what was ever written takes memory. Every task works on it as
//! on a file.
//!
//! ```text
//! cargo run --example own_device
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use dmsnap::bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, within};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use futures_executor::block_on;

const BLOCK: usize = 4096;

/// Blocks by their numbers; those that are not there are zeroes.
#[derive(Default)]
struct Sparse {
    len_bytes: u64,
    blocks: RefCell<BTreeMap<u64, Box<[u8; BLOCK]>>>,
    flushes: Cell<u64>,
}

/// Number of the block, first byte in it, and bytes up to its end or to that of the range.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (end, block) = (at + len as u64, BLOCK as u64);
    (at / block..end.div_ceil(block)).map(move |number| {
        let (from, to) = (at.max(number * block), end.min((number + 1) * block));
        let in_memory = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        (number, in_memory(from % block), in_memory(to - from))
    })
}

// What is not here, as several writes in one request, has a default.
impl Device for Sparse {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        within(at, len as u64, self.len_bytes)?;
        let (mut read, mut done) = (Buffer::zeroed(len), 0);
        for (number, from, part) in parts(at, len) {
            if let Some(block) = self.blocks.borrow().get(&number) {
                read[done..done + part].copy_from_slice(&block[from..from + part]);
            }
            done += part;
        }
        Ok(read)
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        within(at, data.len() as u64, self.len_bytes)?;
        let mut done = 0;
        for (number, from, part) in parts(at, data.len()) {
            let mut blocks = self.blocks.borrow_mut();
            let block = blocks.entry(number).or_insert_with(|| Box::new([0; BLOCK]));
            block[from..from + part].copy_from_slice(&data[done..done + part]);
            done += part;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        within(at, len, self.len_bytes)?;
        for (number, from, part) in parts(at, usize::try_from(len).map_err(io::Error::other)?) {
            if let Some(block) = self.blocks.borrow_mut().get_mut(&number) {
                block[from..from + part].fill(0);
            }
        }
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn flush(&self) -> io::Result<()> {
        // Where data really lies somewhere, all of it has to be there when this returns.
        self.flushes.set(self.flushes.get() + 1);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", own_device()?);
    Ok(())
}

/// Makes a store of a tebibyte, and says what `dmsetup status` would say of it, and what it took.
pub(crate) fn own_device() -> Result<String, Box<dyn Error>> {
    // No runtime of any kind is needed: the device never waits.
    block_on(async {
        let cow = Sparse { len_bytes: 1 << 40, ..Sparse::default() };
        ops::create(&cow, ChunkSize::from_sectors(8)?, false).await?;
        let (status, blocks) = (ops::info(&cow).await?.status, cow.blocks.borrow().len());
        Ok(format!("{status}: {blocks} block, {} flushes", cow.flushes.get()))
    })
}
