use std::cell::Cell;

use dmsnap_format::{Exception, Layout};
use futures_util::future;
use serde::Serialize;

use super::strays::refuse_lost_front;
use super::survey::{right_way_round, whole_sectors};
use super::{Error, Observer, Progress, Which};
use crate::device::{Device, share};
use crate::planted::{Planted, planted};
use crate::store::{Persistent, Store};
use crate::volume::window::{Move, REQUEST_BYTES, Reader, Source, Window, all, cut, index};

/// Writes to the origin in flight.
const WRITES: usize = 128;

/// Requests to share extents in flight; a file system takes them one by one.
const SHARES: usize = 2;

/// How to merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Most bytes of data in one window; two windows are in memory at a time. At least one chunk
    /// is taken, whatever this says.
    pub window_bytes: u64,
    /// Share extents where both devices are files of a file system that can.
    pub share: bool,
    /// Go on although the origin begins with a store's header, or exceptions were lost to an
    /// unaligned discard in a kernel.
    pub force: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { window_bytes: 64 << 20, share: true, force: false }
    }
}

impl MergeOptions {
    fn window_chunks(&self, layout: Layout) -> u64 {
        (self.window_bytes / layout.chunk_size().bytes()).max(1)
    }
}

/// What a merge would do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct MergePlan {
    /// Exceptions to copy back.
    pub exceptions: u64,
    /// Bytes to copy back.
    pub bytes: u64,
    /// Windows that takes.
    pub windows: u64,
    /// Flushes of origin and COW device together.
    pub flushes: u64,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Merged {
    /// True if the store is empty now; false if the observer asked to stop before.
    pub finished: bool,
    /// Exceptions copied back and cleared.
    pub exceptions: u64,
    /// Exceptions still in the store.
    pub left: u64,
    /// Bytes of data brought to the origin, shared ones included.
    pub bytes: u64,
    /// Of those, bytes whose extents are shared instead of copied.
    pub shared_bytes: u64,
    /// Windows.
    pub windows: u64,
    /// Flushes of the origin.
    pub origin_flushes: u64,
    /// Flushes of the COW device.
    pub cow_flushes: u64,
    /// Writes to areas of the COW device.
    pub metadata_writes: u64,
}

/// Checks everything a merge would and says what it would do. Writes nothing.
///
/// # Errors
///
/// Whatever [`merge`] would refuse for.
pub async fn plan_merge<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    options: MergeOptions,
) -> Result<MergePlan, Error> {
    let Checked { store, bytes, .. } = examine(cow, origin, options).await?;
    let layout = store.layout();
    let (mut end, mut windows) = (store.published(), 0);
    while end > 0 {
        end = cut(layout, store.unit_slots(), end, options.window_chunks(layout));
        windows += 1;
    }
    Ok(MergePlan { exceptions: store.published(), bytes, windows, flushes: 2 * windows })
}

/// Copies the snapshot's chunks back to the origin and forgets them, window by window from the
/// newest exception back.
///
/// # Ordering
///
/// For each window:
///
/// 1. write its chunks to the origin, in the order of the origin (meanwhile the next window's
///    chunks are read)
/// 2. flush the origin             - the merged data is durable
/// 3. zero the window's slots      - one write within one untorn unit
/// 4. flush the COW device         - the window is forgotten
///
/// A crash before 3 has reached the medium leaves the window's exceptions in place, and the next
/// merge, here or in a kernel, copies the same data again; after it, the window is done. Until the
/// last window is done the origin alone is neither its old self nor the snapshot: origin and store
/// are consistent only together.
///
/// # Errors
///
/// Before anything is written: devices that look swapped, an invalid store, an exception that
/// cannot be believed, an origin that is too small, exceptions whose neighbours a kernel's discard
/// has wiped. Later: any error of a device. The same call
/// then goes on where this one stopped.
pub async fn merge<C: Device, O: Device>(
    cow: C,
    origin: O,
    options: MergeOptions,
    observer: &impl Observer,
) -> Result<Merged, Error> {
    let Checked { store, origin_bytes, bytes: total } = examine(cow, &origin, options).await?;
    let store = store.into_writable().await?;
    let merge = Merge {
        origin: &origin,
        store: &store,
        window_chunks: options.window_chunks(store.layout()),
        observer,
        total,
        done: Cell::new(0),
        shared: Cell::new(0),
        sharing: Cell::new(options.share),
        origin_flushes: Cell::new(0),
    };
    merge.run(origin_bytes).await
}

/// What a merge knows before it begins.
struct Checked<C> {
    /// Only looked at so far.
    store: Persistent<C>,
    origin_bytes: u64,
    /// What has to be copied back.
    bytes: u64,
}

/// Everything that a merge refuses is refused here, before anything is written. The list is read
/// once.
async fn examine<C: Device, O: Device>(
    cow: C,
    origin: &O,
    options: MergeOptions,
) -> Result<Checked<C>, Error> {
    right_way_round(&cow, origin, options.force).await?;
    let origin_bytes = whole_sectors(origin, Which::Origin)?;
    let mut last = None;
    let visit = |it: Exception| last = last.max(Some(it.old));
    let store = Persistent::open_read_only(cow, Some(origin_bytes), visit).await?;
    if !options.force {
        refuse_lost_front(store.device(), store.layout(), store.published()).await?;
    }
    let chunk = store.layout().chunk_size().bytes();
    // Only the last chunk can be longer than what the origin has of it.
    let beyond = last.map_or(0, |old| ((old.get() + 1) * chunk).saturating_sub(origin_bytes));
    let bytes = store.published() * chunk - beyond;
    Ok(Checked { store, origin_bytes, bytes })
}

struct Merge<'a, C, O, P> {
    origin: &'a O,
    store: &'a Persistent<C>,
    window_chunks: u64,
    observer: &'a P,
    total: u64,
    done: Cell<u64>,
    shared: Cell<u64>,
    /// Asked for, and found to work before the first window.
    sharing: Cell<bool>,
    origin_flushes: Cell<u64>,
}

impl<C: Device, O: Device, P: Observer> Merge<'_, C, O, P> {
    async fn run(&self, origin_bytes: u64) -> Result<Merged, Error> {
        let (cow, layout) = (self.store.device(), self.store.layout());
        let reader = Reader { cow, layout, origin_bytes, request_bytes: REQUEST_BYTES };
        let before = self.store.published();
        let mut windows = 0;
        self.find_out_about_sharing(&reader).await?;
        let mut ahead = self.read(&reader, before).await?;
        while let Some(window) = ahead.take() {
            if self.observer.stop_requested() {
                break;
            }
            let first = window.first;
            let settle = self.settle(&reader, window);
            // A window is settled to its end, also beside a read that fails.
            let (settled, next) = future::join(settle, self.read(&reader, first)).await;
            settled?;
            windows += 1;
            ahead = next?;
        }
        let left = self.store.published();
        Ok(Merged {
            finished: left == 0,
            exceptions: before - left,
            left,
            bytes: self.done.get(),
            shared_bytes: self.shared.get(),
            windows,
            origin_flushes: self.origin_flushes.get(),
            cow_flushes: self.store.flushes(),
            metadata_writes: self.store.metadata_writes(),
        })
    }

    /// Reads the window that ends with exception `end`, if there is one.
    async fn read(&self, reader: &Reader<'_, C>, end: u64) -> Result<Option<Window>, Error> {
        if end == 0 {
            return Ok(None);
        }
        let first = cut(reader.layout, self.store.unit_slots(), end, self.window_chunks);
        match self.sharing.get() {
            true => Ok(Some(reader.read_runs(first..end).await?)),
            false => Ok(Some(reader.read(first..end, async |_| ()).await?)),
        }
    }

    /// Brings a window to the origin and forgets it. See [`merge`] for the order.
    async fn settle(&self, reader: &Reader<'_, C>, window: Window) -> Result<(), Error> {
        let Window { first, exceptions, moves } = window;
        let at_once = if self.sharing.get() { SHARES } else { WRITES };
        let moves = moves.into_iter().map(|it| self.bring(reader, it));
        // Also beside one that fails: a write that was given up might come later than the caller's next.
        all(at_once, moves).await?;
        self.origin_flushes.set(self.origin_flushes.get() + 1);
        let flushed = match planted(Planted::OfflineClearBeforeFlush) {
            true => Ok(()),
            false => self.origin.flush().await,
        };
        flushed.map_err(Error::io(Which::Origin, "cannot make merged data durable"))?;
        debug_assert_eq!(self.store.published(), first + exceptions);
        self.store.clear(exceptions).await?;
        Ok(())
    }

    async fn bring(&self, reader: &Reader<'_, C>, it: Move) -> Result<(), Error> {
        let Move { at, len, from } = it;
        match from {
            Source::Data(pieces) => {
                self.observer.pace(len).await;
                let written = self.origin.write_vectored(at, pieces).await;
                written.map_err(Error::io(Which::Origin, format!("cannot write at byte {at}")))?;
            }
            Source::Extents(byte) => self.share_or_copy(reader, byte, at, len).await?,
        }
        self.done.set(self.done.get() + len);
        self.observer.progress(Progress { done: self.done.get(), total: self.total });
        Ok(())
    }

    /// Tries to share one chunk, the newest that the origin has whole. It belongs to the first
    /// window and is brought again with it, which changes nothing.
    async fn find_out_about_sharing(&self, reader: &Reader<'_, C>) -> Result<(), Error> {
        let chunk = reader.layout.chunk_size().bytes();
        let end = self.store.published();
        let newest = match self.sharing.get() {
            true => self.store.read_range(end.saturating_sub(2)..end).await?,
            false => return Ok(()),
        };
        let whole = |old: u64| (old + 1) * chunk <= reader.origin_bytes;
        let sharing = match newest.iter().rfind(|exception| whole(exception.old.get())) {
            Some(Exception { old, new }) => {
                self.share(reader, new.get() * chunk, old.get() * chunk, chunk).await?
            }
            None => false,
        };
        self.sharing.set(sharing);
        Ok(())
    }

    async fn share(
        &self,
        reader: &Reader<'_, C>,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<bool, Error> {
        let shared = share((reader.cow, from), (self.origin, to), len).await;
        shared.map_err(Error::io(Which::Origin, format!("cannot share extents at byte {to}")))
    }

    async fn share_or_copy(
        &self,
        reader: &Reader<'_, C>,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), Error> {
        if self.share(reader, from, to, len).await? {
            self.shared.set(self.shared.get() + len);
            return Ok(());
        }
        for offset in (0..len).step_by(index(REQUEST_BYTES)) {
            let piece = REQUEST_BYTES.min(len - offset);
            self.observer.pace(piece).await;
            let data = reader.read_bytes(from + offset, piece).await?;
            let written = self.origin.write(to + offset, data).await;
            written.map_err(Error::io(Which::Origin, format!("cannot write at byte {to}")))?;
        }
        Ok(())
    }
}
