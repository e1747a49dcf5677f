//! What the origin holds where a merge is about to write, brought to another store.

use std::ops::Range;

use dmsnap_format::{Exception, Layout, OriginChunk, Tag, TagState};
use futures_util::future;

use super::{Error, MergeOptions, Observer, Which};
use crate::copy::{CopyError, Part};
use crate::device::Device;
use crate::merge::{Keep, Ready};
use crate::planted::{Planted, planted};
use crate::store::{Builder, Persistent, Store, StoreError, read_range};
use crate::table::Table;

/// The most data of a batch, in bytes; two are in memory at a time.
const BATCH_BYTES: u64 = 32 << 20;

/// The most exceptions of a batch.
const BATCH_EXCEPTIONS: u64 = 65_536;

/// The exceptions of a store that is about to be merged.
pub(super) struct Merging<'a, C> {
    pub(super) cow: &'a C,
    pub(super) layout: Layout,
    pub(super) exceptions: u64,
}

/// The origin that it is merged into, in bytes.
pub(super) struct Target<'a, O> {
    pub(super) origin: &'a O,
    pub(super) len_bytes: u64,
}

/// How data is kept, and who watches.
pub(super) struct How<'a, P> {
    pub(super) options: MergeOptions,
    pub(super) observer: &'a P,
}

/// They hold references: what those point to need not be copied.
macro_rules! copied {
    ($($name:ident),*) => {$(
        impl<T> Clone for $name<'_, T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<'_, T> {}
    )*};
}

copied!(Merging, Target, How);

impl<C: Device> Merging<'_, C> {
    fn chunk_bytes(&self) -> u64 {
        self.layout.chunk_size().bytes()
    }

    /// Indexes of exceptions, a batch each.
    fn batches(&self, options: MergeOptions) -> impl Iterator<Item = Range<u64>> + use<C> {
        let most_bytes = BATCH_BYTES.min(options.window_bytes);
        let most = (most_bytes / self.chunk_bytes()).clamp(1, BATCH_EXCEPTIONS);
        let end = self.exceptions;
        let count = end.div_ceil(most);
        (0..count).map(move |n| n * most..((n + 1) * most).min(end))
    }

    async fn slots(&self, range: Range<u64>) -> Result<Vec<Exception>, StoreError> {
        read_range(self.cow, self.layout, range).await
    }
}

/// A new store that holds what the origin holds wherever the merging store has an exception, in the order of
/// its list. `tag` comes with the header, which is the last to be written: `before_header` is called when all the rest
/// is durable.
///
/// # Ordering
///
/// That of [`Builder`]: the store exists when this returns, or not at all.
///
/// # Errors
///
/// Any error of a device; [`Error::Stopped`]. No store is there then.
pub(super) async fn keep_whole<C: Device, O: Device>(
    undo: &C,
    merging: Merging<'_, C>,
    target: Target<'_, O>,
    (tag, before_header): (Tag, impl AsyncFnOnce() -> Result<(), Error>),
    how: How<'_, impl Observer>,
) -> Result<Kept, Error> {
    let filling = Tag { state: TagState::Filling, ..tag };
    let builder = Builder::announced(undo, merging.layout.chunk_size(), &filling).await;
    let mut builder = builder.map_err(Error::of_undo)?;
    builder.set_tag(tag);
    let total = merging.exceptions * merging.chunk_bytes();
    let part = Part::first(how.observer, 2 * total);
    let keep = Keep::new((target.origin, target.len_bytes), (undo, merging.layout), total, &part);
    let mut ahead: Option<Ready> = None;
    for range in merging.batches(how.options) {
        if how.observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let first = range.start == 0;
        let mut placed = merging.slots(range).await?;
        for exception in &mut placed {
            exception.new = builder.place(exception.old).await.map_err(Error::of_undo)?;
        }
        if let Some(newest) = placed.first().filter(|_| first && how.options.share) {
            keep.try_sharing(*newest).await.map_err(of_keeping)?;
        }
        let reading = keep.read(placed, how.options.long_run_bytes);
        // Each is driven to its end, even if the other fails.
        let (written, read) = future::join(write(&keep, ahead.take()), reading).await;
        written?;
        ahead = Some(read.map_err(|error| of_keeping(error.into()))?);
    }
    write(&keep, ahead).await?;
    builder.complete().await.map_err(Error::of_undo)?;
    before_header().await?;
    let exceptions = builder.finish().await.map_err(Error::of_undo)?;
    Ok(Kept { exceptions, bytes: total, shared_bytes: keep.shared() })
}

async fn write<C: Device, O: Device, P: Observer>(
    keep: &Keep<'_, O, C, P>,
    ready: Option<Ready>,
) -> Result<(), Error> {
    match ready {
        Some(ready) => keep.write(ready).await.map_err(of_keeping),
        None => Ok(()),
    }
}

/// What was kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    pub(super) exceptions: u64,
    /// Of their chunks.
    pub(super) bytes: u64,
    /// Bytes whose extents are shared instead of copied.
    pub(super) shared_bytes: u64,
}

/// A store that is to hold what the origin holds wherever another one has an exception.
pub(super) struct Keeper<'a, C> {
    pub(super) store: &'a Persistent<&'a C>,
    /// Its exceptions.
    pub(super) table: &'a Table,
}

impl<C: Device> Keeper<'_, C> {
    /// Is the chunk of the origin not in it yet?
    fn misses(&self, old: OriginChunk) -> bool {
        self.table.get(old).is_none()
    }

    /// How many chunks it still has to keep.
    pub(super) async fn missing(&self, merging: Merging<'_, C>) -> Result<u64, Error> {
        let mut missing = 0;
        for range in merging.batches(MergeOptions::default()) {
            let slots = merging.slots(range).await?;
            missing += slots.iter().filter(|it| self.misses(it.old)).count() as u64;
        }
        Ok(missing)
    }

    /// Keeps what is missing, and publishes it. The origin does not change meanwhile.
    ///
    /// # Ordering
    ///
    /// For each batch: its data, then [`Store::publish`]. A crash leaves a valid store that shows what it showed, and
    /// the next call goes on.
    ///
    /// # Errors
    ///
    /// Any error of a device; [`Error::Stopped`].
    pub(super) async fn keep_missing<O: Device>(
        &self,
        merging: Merging<'_, C>,
        target: Target<'_, O>,
        missing: u64,
        how: How<'_, impl Observer>,
    ) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        if missing == 0 || planted(Planted::UndoWithoutKeeping) {
            return Ok(kept);
        }
        let total = missing * merging.chunk_bytes();
        let whole = total + merging.exceptions * merging.chunk_bytes();
        let part = Part::first(how.observer, whole);
        let to = (*self.store.device(), merging.layout);
        let keep = Keep::new((target.origin, target.len_bytes), to, total, &part);
        for range in merging.batches(how.options) {
            let mut batch = merging.slots(range).await?;
            batch.retain(|it| self.misses(it.old));
            if batch.is_empty() {
                continue;
            }
            if how.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let mut prepared = Vec::with_capacity(batch.len());
            for exception in &mut batch {
                let chunk = self.store.prepare()?;
                exception.new = chunk.chunk();
                prepared.push((chunk, exception.old));
            }
            if kept.exceptions == 0 && how.options.share {
                keep.try_sharing(batch[0]).await.map_err(of_keeping)?;
            }
            let read = keep.read(batch, how.options.long_run_bytes).await;
            write(&keep, Some(read.map_err(|error| of_keeping(error.into()))?)).await?;
            kept.exceptions += prepared.len() as u64;
            for (chunk, old) in prepared {
                self.store.commit(chunk, old);
            }
            self.store.publish().await?;
        }
        Ok(Kept { bytes: total, shared_bytes: keep.shared(), ..kept })
    }
}

/// What failed while old data was kept: it comes from the origin.
fn of_keeping(error: CopyError) -> Error {
    match error {
        CopyError::Source(StoreError::Io { doing, source }) => {
            Error::Io { device: Which::Origin, doing, source }
        }
        CopyError::Source(error) => error.into(),
        CopyError::Target(doing, source) => {
            Error::of_undo(Error::Io { device: Which::Cow, doing, source })
        }
    }
}
