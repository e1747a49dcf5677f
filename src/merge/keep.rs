use dmsnap_format::{ChunkSize, CowChunk, Exception, Layout, OriginChunk};

use crate::copy::{
    Alone, CopyError, Engine, InFlight, Moves, Observer, REQUEST_BYTES, Reader, Target, index,
};
use crate::device::Device;
use crate::store::StoreError;

/// Reads in flight: chunks that are scattered on the origin.
const READS: usize = 128;

/// Other requests in flight.
const IN_FLIGHT: InFlight = InFlight { writes: 128, copies: 16 };

/// Copies chunks of an origin to a COW device, where they were given a place.
///
/// # Ordering
///
/// In any order, without a flush: no exception of a store names those places yet.
pub(crate) struct Keep<'a, O, C, P> {
    /// From the origin, whose chunks have the numbers of "COW chunks" here, to the COW device.
    engine: Engine<'a, O, Alone<'a, C>, P>,
    chunk_size: ChunkSize,
    origin_bytes: u64,
}

impl<'a, O: Device, C: Device, P: Observer> Keep<'a, O, C, P> {
    /// `total` bytes are to be kept, for the observer.
    pub(crate) fn new(
        (origin, origin_bytes): (&'a O, u64),
        (cow, layout): (&'a C, Layout),
        total: u64,
        observer: &'a P,
    ) -> Self {
        // Where a chunk goes is never cut short: the COW device has whole ones.
        let reader = Reader {
            cow: origin,
            layout,
            origin_bytes: u64::MAX,
            request_bytes: REQUEST_BYTES,
            reads: READS,
        };
        let engine = Engine::new(reader, Alone(cow), observer, IN_FLIGHT);
        engine.set_total(total);
        Self { engine, chunk_size: layout.chunk_size(), origin_bytes }
    }

    /// Bytes whose extents are shared instead of copied.
    pub(crate) fn shared(&self) -> u64 {
        self.engine.shared()
    }

    /// Shares extents from now on, if that works for this chunk, which is copied again later.
    pub(crate) async fn try_sharing(&self, exception: Exception) -> Result<(), CopyError> {
        match self.is_whole(exception.old) {
            true => self.engine.try_sharing(&[swapped(exception)]).await,
            false => Ok(()),
        }
    }

    /// Reads what these exceptions are to keep, or only its place where that is better.
    pub(crate) async fn read(
        &self,
        exceptions: Vec<Exception>,
        long_run_bytes: u64,
    ) -> Result<Ready, StoreError> {
        let (whole, cut): (Vec<_>, Vec<_>) =
            exceptions.into_iter().partition(|it| self.is_whole(it.old));
        let whole = whole.into_iter().map(swapped).collect();
        Ok(Ready {
            moves: self.engine.moves(whole, long_run_bytes).await?,
            cut: cut.first().copied(),
        })
    }

    /// Writes it to the COW device.
    pub(crate) async fn write(&self, ready: Ready) -> Result<(), CopyError> {
        self.engine.bring(ready.moves).await?;
        let Some(Exception { old, new }) = ready.cut else { return Ok(()) };
        let (from, to) = (self.byte(old.get()), self.byte(new.get()));
        for offset in (0..self.origin_bytes - from).step_by(index(REQUEST_BYTES)) {
            let len = REQUEST_BYTES.min(self.origin_bytes - from - offset);
            let data = self.engine.reader.read_bytes(from + offset, len).await?;
            let written = self.engine.target.device().write(to + offset, data).await;
            written.map_err(CopyError::target(format!("cannot write chunk {new}")))?;
        }
        Ok(())
    }

    /// Does the origin have the whole of this chunk?
    fn is_whole(&self, old: OriginChunk) -> bool {
        self.byte(old.get() + 1) <= self.origin_bytes
    }

    fn byte(&self, chunk: u64) -> u64 {
        chunk * self.chunk_size.bytes()
    }
}

/// What is about to be written.
pub(crate) struct Ready {
    moves: Moves,
    /// The chunk that the origin's end cuts short.
    cut: Option<Exception>,
}

/// The way of the data, against that of a merge.
fn swapped(Exception { old, new }: Exception) -> Exception {
    Exception { old: OriginChunk::new(new.get()), new: CowChunk::new(old.get()) }
}
