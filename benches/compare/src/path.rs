//! One operation of a volume on devices in memory, many times: what the request path costs by
//! itself.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use clap::ValueEnum;
use dmsnap::device::Device;
use dmsnap::format::{ChunkSize, Layout, RawException, RawHeader};
use dmsnap::ops;
use dmsnap::volume::{Snapshot, SnapshotOptions, View, Volume};
use serde::Serialize;
use zerocopy::IntoBytes;

use crate::counted::{Counted, Counts};
use crate::load::{Kind, Plan};
use crate::order::Order;

/// Of the origin, in chunks: more than any operation is repeated.
pub const CHUNKS: u64 = 8192;

/// In bytes.
pub const CHUNK: u64 = 4096;

/// What is done with one chunk of 4 KiB, each time another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Read a chunk that the snapshot holds.
    Read,
    /// Read a chunk of the snapshot that the origin holds.
    ReadBelow,
    /// Write a chunk that the snapshot does not hold.
    Write,
    /// Write a chunk that it holds.
    Overwrite,
    /// Write a chunk that it does not hold, and flush.
    WriteFlush,
    /// Write a chunk of the origin that the snapshot does not hold.
    OriginWrite,
    /// Write a chunk of the origin that it holds.
    OriginOverwrite,
}

impl Operation {
    /// Does the snapshot hold every chunk before?
    fn held(self) -> bool {
        matches!(self, Self::Read | Self::Overwrite | Self::OriginOverwrite)
    }

    fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadBelow)
    }

    /// Is it done to the origin?
    pub fn to_origin(self) -> bool {
        matches!(self, Self::OriginWrite | Self::OriginOverwrite)
    }

    /// The same as load on a server.
    pub fn plan(self, count: u64) -> Plan {
        Plan {
            kind: if self.reads() { Kind::Read } else { Kind::Write },
            order: Order::Random,
            seed: 1,
            first: 0,
            span_bytes: CHUNKS * CHUNK,
            block_bytes: 4096,
            depth: 1,
            flush_every: if self == Self::WriteFlush { 1 } else { 0 },
            flush_last: false,
            count,
            time: None,
        }
    }
}

/// A COW device with this many scattered exceptions, made with few instructions, and its origin.
///
/// # Errors
///
/// None in memory.
pub async fn full_store(exceptions: u64) -> io::Result<(Counted, Counted)> {
    let chunk_size = ChunkSize::from_sectors(8).map_err(io::Error::other)?;
    let layout = Layout::new(chunk_size);
    let cow = Counted::zeroed(len(layout.chunks_needed(exceptions + 1))?);
    let header = RawHeader::new(chunk_size, true);
    cow.write(0, Bytes::copy_from_slice(header.as_bytes())).await?;
    let numbers: Vec<u64> = (0..exceptions).collect();
    let per_area = usize::try_from(layout.exceptions_per_area()).map_err(io::Error::other)?;
    for (area, numbers) in (0..).zip(numbers.chunks(per_area)) {
        let slots = numbers.iter().map(|n| RawException {
            old: Order::Random.block(*n, CHUNKS, 1).into(),
            new: layout.lock_step_chunk(*n).get().into(),
        });
        let slots: Vec<RawException> = slots.collect();
        let at = layout.area_location(area).get() * CHUNK;
        cow.write(at, Bytes::copy_from_slice(slots.as_bytes())).await?;
    }
    Ok((cow, Counted::zeroed(len(CHUNKS)?)))
}

fn len(chunks: u64) -> io::Result<usize> {
    usize::try_from(chunks * CHUNK).map_err(io::Error::other)
}

/// What the devices were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// The origin.
    pub origin: Counts,
    /// The COW device.
    pub cow: Counts,
}

/// An origin with one snapshot, in memory.
pub struct World {
    /// Both together.
    pub volume: Rc<Volume<Counted, Rc<Counted>>>,
    /// The snapshot.
    pub snapshot: Rc<Snapshot<Rc<Counted>>>,
    cow: Rc<Counted>,
}

impl World {
    /// As `operation` wants it.
    ///
    /// # Errors
    ///
    /// None in memory.
    pub async fn new(operation: Operation) -> io::Result<Self> {
        let cow = Rc::new(Counted::zeroed(len(CHUNKS + CHUNKS / 64)?));
        let chunk_size = ChunkSize::from_sectors(8).map_err(io::Error::other)?;
        ops::create(&cow, chunk_size, false).await.map_err(io::Error::other)?;
        let volume = Rc::new(Volume::new(Counted::zeroed(len(CHUNKS)?))?);
        let snapshot = volume.open("s", cow.clone(), SnapshotOptions::default()).await?;
        let world = Self { volume, snapshot, cow };
        if operation.held() {
            world.run(Operation::Write, CHUNKS).await?;
            world.view(false).flush().await?;
        }
        Ok(world)
    }

    fn view(&self, origin: bool) -> View<Counted, Rc<Counted>> {
        match origin {
            true => View::origin(&self.volume),
            false => View::snapshot(&self.volume, &self.snapshot),
        }
    }

    fn costs(&self) -> Costs {
        Costs { origin: self.volume.origin_device().counts(), cow: self.cow.counts() }
    }

    /// Does it `count` times, one after the other.
    ///
    /// # Errors
    ///
    /// None in memory.
    pub async fn run(&self, operation: Operation, count: u64) -> io::Result<Costs> {
        let before = self.costs();
        let view = self.view(operation.to_origin());
        let data = Bytes::from(vec![0xA5; 4096]);
        for n in 0..count {
            let at = Order::Random.block(n, CHUNKS, 1) * CHUNK;
            match operation.reads() {
                true => drop(view.read(at, 4096).await?),
                false => view.write(at, data.clone()).await?,
            }
            if operation == Operation::WriteFlush {
                view.flush().await?;
            }
        }
        let after = self.costs();
        Ok(Costs { origin: after.origin.since(before.origin), cow: after.cow.since(before.cow) })
    }
}
