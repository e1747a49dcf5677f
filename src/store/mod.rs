//! Exceptions on the COW device.
//!
//! A store gives out chunks for copies ([`Store::prepare`]), takes what was copied into slots
//! ([`Store::commit`]) and makes slots durable ([`Store::publish`]). "Published" means: a reader
//! after a power cut finds the exception, and its data. What is prepared or committed but not
//! published is gone after a crash, and its chunks are free again.

mod error; // what can be wrong with a store
mod damage; // what can be found in one
mod seen; // chunk numbers that have come before
mod ledger; // which exceptions can be believed
mod scan; // slots read in order, many areas at a time
mod strays; // what lies after the terminator
mod fence; // is the origin the one the store was made for
mod tag; // whom a store belongs to: read and written
mod header; // chunk 0: read, written, and with an empty area made into a store
mod reader; // a store read and judged, and opened only after that
mod slots; // slots written: units, and their order
mod builder; // a whole store, from front to back
mod room; // which chunk is given out next
mod queue; // chunks given out and not yet published
mod persistent; // the kernel's format
mod transient; // the same without a disk behind it
mod any; // either of them

use dmsnap_format::{ChunkSize, CowChunk, OriginChunk, Usage};

pub use any::AnyStore;
pub use builder::{Builder, format, format_tagged};
pub use damage::{Damage, Severity};
pub(crate) use error::UNKNOWN_SIZE;
pub use error::{Fault, Place, StoreError};
pub use fence::{BaseFence, FenceBreak, take_fence};
pub use header::{read_header, refuse_part_blocks};
pub(crate) use ledger::Judged;
pub use ledger::Ledger;
pub use persistent::Persistent;
pub(crate) use reader::batch;
pub use reader::{Loaded, Reader, Strays};
pub use scan::{End, read_exceptions, read_range, read_strays};
pub(crate) use strays::Stretch;
pub(crate) use tag::told_bytes;
pub use tag::{read_tag, write_tag};
pub use transient::Transient;

/// A chunk of the COW device that was given out and waits for its data.
#[must_use = "a chunk that is neither committed nor abandoned holds up every later publish"]
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Counts up by one with each chunk given out; slots are filled in this order.
    ticket: u64,
    chunk: CowChunk,
}

impl Prepared {
    /// Where the data goes.
    pub fn chunk(&self) -> CowChunk {
        self.chunk
    }

    /// Which one it is: published once a [`Published::next_ticket`] is larger.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }
}

/// What a publish did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The first ticket that is not published.
    pub next_ticket: u64,
    /// True if it flushed the COW device: every write to it that had completed before the publish
    /// was called is durable. False if there was nothing to do, or another publish had done it.
    pub flushed: bool,
}

/// Where a snapshot's exceptions are kept. There are two kinds: [`Persistent`] and [`Transient`].
///
/// Several calls may be under way at once, all on one thread.
#[allow(async_fn_in_trait, reason = "a volume lives on one thread: its futures need not be Send")]
pub trait Store {
    /// The unit of copying.
    fn chunk_size(&self) -> ChunkSize;

    /// Gives out the next chunk. In memory only.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] if there is no room (the device's size is asked anew, so growing it
    /// helps); [`StoreError::Invalid`], [`StoreError::Broken`].
    fn prepare(&self) -> Result<Prepared, StoreError>;

    /// The chunk holds the data of `old`, though not durably yet: it may be published from now on.
    fn commit(&self, prepared: Prepared, old: OriginChunk);

    /// The chunk is not needed, or its copy failed.
    fn abandon(&self, prepared: Prepared);

    /// Makes every committed exception durable that no older, still prepared one stands before,
    /// together with its data.
    ///
    /// # Errors
    ///
    /// Any error of the device, which ends the use of the store for writing; but for a lack of room for a
    /// write below it, after which the same call may succeed later.
    async fn publish(&self) -> Result<Published, StoreError>;

    /// Forgets the newest `count` published exceptions, durably. The caller has made their data
    /// durable in the origin.
    ///
    /// # Errors
    ///
    /// Any error of the device, which ends the use of the store for writing. What was cleared is
    /// then unknown, but surely a newest part.
    async fn clear(&self, count: u64) -> Result<(), StoreError>;

    /// Makes every write to the COW device that has completed durable. Publishes nothing.
    ///
    /// # Errors
    ///
    /// An error of the device, now or at an earlier flush: it ends the use of the store for writing.
    async fn flush(&self) -> Result<(), StoreError>;

    /// Marks the snapshot as dropped, durably and for good.
    ///
    /// # Errors
    ///
    /// Any error of the device; the store is invalid in memory all the same, and the same call may
    /// succeed later.
    async fn invalidate(&self) -> Result<(), StoreError>;

    /// True once a write of metadata or a flush has failed: what was not published then may be
    /// lost, data included.
    fn is_broken(&self) -> bool;

    /// How many more chunks can surely be given out, were the device to stay as long as it was when it was
    /// last asked.
    fn room_left(&self) -> u64;

    /// How many exceptions are published.
    fn published(&self) -> u64;

    /// The numbers of the status line.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`]; an error of the device when asked for its size.
    fn usage(&self) -> Result<Usage, StoreError>;
}
