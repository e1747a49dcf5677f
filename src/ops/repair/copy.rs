use dmsnap_format::{ChunkSize, CowChunk, Exception, OriginChunk};

use super::list::Kept;
use super::salvage::Salvage;
use crate::copy::{
    Alone, CopyError, Engine, InFlight, LARGE_READS, Moves, Observer, REQUEST_BYTES, Reader,
};
use crate::device::Device;
use crate::ops::devices::whole_sectors;
use crate::ops::sparse::Sparse;
use crate::ops::{Error, Which};
use crate::store::{Builder, StoreError};

/// Chunks that are copied before the next are looked at: at most this many, and at most this many bytes.
const MOST_CHUNKS: usize = 1 << 14;
const MOST_BYTES: u64 = 64 << 20;

/// Requests in flight, each of up to a mebibyte.
pub(super) const REQUESTS: InFlight = InFlight { writes: 16, copies: 16 };

/// What a repair did.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Repaired {
    /// Exceptions that the store has.
    pub exceptions: u64,
    /// Exceptions that it had and has no more.
    pub dropped: u64,
    /// Bytes of data that were brought to another place.
    pub bytes: u64,
    /// Of those, the ones whose extents are shared.
    pub shared_bytes: u64,
}

impl<C: Device> Salvage<'_, C> {
    /// Makes the repaired store on `output`, with a copy of its data. All its chunks are in lock-step with their
    /// slots. Whatever lies on `output` is overwritten.
    ///
    /// # Ordering
    ///
    /// That of [`Builder`]: the header comes last. A crash before the end, and an error, leave a device without
    /// a store.
    ///
    /// # Errors
    ///
    /// Before anything is written: [`Error::Needs`], [`Error::NoRoomForStore`]. Later: any error of a device,
    /// and [`Error::Stopped`].
    pub async fn copy_to<T: Device>(
        &self,
        output: &T,
        observer: &impl Observer,
    ) -> Result<Repaired, Error> {
        let list = self.agreed()?;
        let layout = list.reader.layout();
        let (chunk_size, kept) = (layout.chunk_size(), list.kept());
        let output_bytes = whole_sectors(output, Which::Output)?;
        let room = layout.capacity(chunk_size.whole_chunks(output_bytes));
        let needed_bytes = self.plan().needed_bytes;
        if room < kept || output_bytes < 2 * chunk_size.bytes() {
            return Err(Error::NoRoomForStore { output_bytes, needed_bytes });
        }
        let reader = Reader {
            cow: list.reader.device(),
            layout,
            origin_bytes: output_bytes,
            request_bytes: REQUEST_BYTES,
            reads: LARGE_READS,
        };
        let engine = Engine::new(reader, Alone(output), observer, REQUESTS);
        let mut builder = Builder::new(output, chunk_size).await.map_err(of_output)?;
        if let Some(tag) = list.reader.tag() {
            builder.set_tag(*tag);
        }
        let (from, to) =
            (Sparse::new(list.reader.device(), Which::Cow), Sparse::new(output, Which::Output));
        let mut total = kept.saturating_mul(chunk_size.bytes());
        let mut batches = Kept::new(list, &self.options);
        let mut is_first = true;
        while let Some(batch) = batches.next().await? {
            for chunks in batch.chunks(most_chunks(chunk_size)) {
                if observer.stop_requested() {
                    return Err(Error::Stopped);
                }
                let placed = chunks.iter().map(|(exception, _)| *exception);
                let moves = place(&mut builder, placed, (&from, &to), chunk_size).await?;
                total -= (chunks.len() - moves.len()) as u64 * chunk_size.bytes();
                engine.set_total(total);
                if !moves.is_empty() && std::mem::take(&mut is_first) {
                    engine.try_sharing(&moves).await.map_err(of_copy)?;
                }
                let moves = Moves::Copies(engine.reader.runs(moves));
                engine.bring(moves).await.map_err(of_copy)?;
            }
        }
        let exceptions = builder.finish().await.map_err(of_output)?;
        let (bytes, shared_bytes) = (engine.done(), engine.shared());
        Ok(Repaired { exceptions, dropped: list.found - exceptions, bytes, shared_bytes })
    }
}

/// Gives each exception its place in the new store. What is returned is to be copied there: a chunk that reads as
/// zeroes for lack of data in both is not.
async fn place<C: Device, T: Device>(
    builder: &mut Builder<'_, T>,
    exceptions: impl Iterator<Item = Exception>,
    (from, to): (&Sparse<'_, C>, &Sparse<'_, T>),
    chunk_size: ChunkSize,
) -> Result<Vec<Exception>, Error> {
    let chunk = chunk_size.bytes();
    let range = |number: u64| {
        let start = number.saturating_mul(chunk);
        start..start.saturating_add(chunk)
    };
    let mut moves = Vec::new();
    for exception in exceptions {
        let new = builder.place(exception.old).await.map_err(of_output)?;
        let is_empty =
            from.is_hole(range(exception.new.get())).await? && to.is_hole(range(new.get())).await?;
        if !is_empty {
            moves.push(moved(exception.new, new));
        }
    }
    Ok(moves)
}

/// How many chunks are copied before the next are looked at.
pub(super) fn most_chunks(chunk_size: ChunkSize) -> usize {
    let most = usize::try_from(MOST_BYTES / chunk_size.bytes()).unwrap_or(MOST_CHUNKS);
    most.clamp(1, MOST_CHUNKS)
}

/// For the engine, which moves chunks of a COW device to those of an origin. Here both are COW devices.
pub(super) fn moved(from: CowChunk, to: CowChunk) -> Exception {
    Exception { old: OriginChunk::new(to.get()), new: from }
}

fn of_output(error: StoreError) -> Error {
    match error {
        StoreError::Io { doing, source } => Error::Io { device: Which::Output, doing, source },
        other => Error::Store(other),
    }
}

fn of_copy(error: CopyError) -> Error {
    match error {
        CopyError::Target(doing, source) => Error::Io { device: Which::Output, doing, source },
        source => source.into(),
    }
}
