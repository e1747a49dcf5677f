use std::cell::Cell;

use futures_util::future;

use super::window::window_start;
use crate::copy::{Alone, CopyError, Engine, InFlight, Moves, Observer, Reader, Target};
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Persistent, Store, StoreError};

/// Requests in flight.
const IN_FLIGHT: InFlight = InFlight { writes: 128, copies: 16 };

/// A window that is ready to be brought to the origin.
struct Window {
    /// The index of its first exception.
    first: u64,
    /// How many exceptions it has.
    exceptions: u64,
    moves: Moves,
}

/// What a merge has done.
pub(crate) struct Finished {
    pub(crate) windows: u64,
    pub(crate) origin_flushes: u64,
}

/// A merge that has both devices for itself.
///
/// # Ordering
///
/// For each window, from the newest exception back:
///
/// 1. write its chunks to the origin, in the order of the origin
/// 2. flush the origin             - the merged data is durable
/// 3. zero the window's slots      - one write within one untorn unit
/// 4. flush the COW device         - the window is forgotten
///
/// While a window is in 2 to 4 the next one, whose exceptions are older, is in 1, and the one after
/// that is read; none is overtaken. So a crash finds up to two windows in part or whole on the origin
/// and still in the store.
pub(crate) struct Merge<'a, C, O, P> {
    pub(crate) engine: Engine<'a, C, Alone<'a, O>, P>,
    pub(crate) store: &'a Persistent<C>,
    pub(crate) window_chunks: u64,
    /// See [`Engine::moves`].
    pub(crate) long_run_bytes: u64,
    origin_flushes: Cell<u64>,
}

impl<'a, C: Device, O: Device, P: Observer> Merge<'a, C, O, P> {
    pub(crate) fn new(
        (reader, origin, observer): (Reader<'a, C>, &'a O, &'a P),
        total: u64,
        store: &'a Persistent<C>,
        window_chunks: u64,
        long_run_bytes: u64,
    ) -> Self {
        let engine = Engine::new(reader, Alone(origin), observer, IN_FLIGHT);
        engine.set_total(total);
        Self { engine, store, window_chunks, long_run_bytes, origin_flushes: Cell::default() }
    }

    /// Merges until nothing is left or the observer asks to stop; `share` extents where that works.
    pub(crate) async fn run(&self, share: bool) -> Result<Finished, CopyError> {
        let end = self.store.published();
        if share {
            let newest = self.store.read_range(end.saturating_sub(2)..end).await?;
            self.engine.try_sharing(&newest).await?;
        }
        let windows = self.windows(end).await?;
        Ok(Finished { windows, origin_flushes: self.origin_flushes.get() })
    }

    /// Merges window by window, and says how many. Three are at work at a time, so that no device waits
    /// for the other: one is read, one written, and one, whose data is with the origin, is made durable
    /// and forgotten.
    async fn windows(&self, end: u64) -> Result<u64, CopyError> {
        let mut windows = 0;
        let mut ahead = self.read(end).await;
        let mut brought = 0;
        while !self.engine.observer.stop_requested()
            && let Ok(Some(window)) = ahead
        {
            let Window { first, exceptions, moves } = window;
            // Each is driven to its end, even if another one fails.
            let (forgotten, bringing, next) =
                future::join3(self.forget(brought), self.engine.bring(moves), self.read(first))
                    .await;
            forgotten?;
            bringing?;
            windows += 1;
            (brought, ahead) = (exceptions, next);
        }
        self.forget(brought).await?;
        Ok(ahead.map(|_| windows)?)
    }

    /// Reads the window that ends with exception `end`, if there is one.
    async fn read(&self, end: u64) -> Result<Option<Window>, StoreError> {
        if end == 0 {
            return Ok(None);
        }
        let reader = &self.engine.reader;
        let first = window_start(reader.layout, self.store.unit_slots(), end, self.window_chunks);
        let slots = reader.slots(first..end).await?;
        let moves = self.engine.moves(slots, self.long_run_bytes).await?;
        Ok(Some(Window { first, exceptions: end - first, moves }))
    }

    /// Makes durable what was brought to the origin, and forgets this many of the newest exceptions, which
    /// are those.
    async fn forget(&self, exceptions: u64) -> Result<(), CopyError> {
        if exceptions == 0 {
            return Ok(());
        }
        self.origin_flushes.set(self.origin_flushes.get() + 1);
        let flushed = match planted(Planted::OfflineClearBeforeFlush) {
            true => Ok(()),
            false => self.engine.target.device().flush().await,
        };
        flushed.map_err(CopyError::target("cannot make merged data durable"))?;
        self.store.clear(exceptions).await?;
        Ok(())
    }
}
