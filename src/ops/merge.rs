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
use crate::volume::window::{Copy, REQUEST_BYTES, Reader, Write, all, cut};

/// Writes to the origin in flight.
const WRITES: usize = 128;

/// Requests to share extents in flight; a file system takes them one by one.
const SHARES: usize = 2;

/// Copies in flight, each of up to a request.
const COPIES: usize = 16;

/// How to merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Most bytes of data in one window; two windows are in memory at a time. At least one chunk
    /// is taken, whatever this says.
    pub window_bytes: u64,
    /// A window whose chunks lie in runs of at least so many bytes on average, on both devices, is copied
    /// run by run, with little memory: to read all of it in the order of one device and to write it in
    /// that of the other gains nothing then. With 0 every window is.
    pub long_run_bytes: u64,
    /// Share extents where both devices are files of a file system that can.
    pub share: bool,
    /// Go on although the origin begins with a store's header, or exceptions were lost to an
    /// unaligned discard in a kernel.
    pub force: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { window_bytes: 128 << 20, long_run_bytes: 64 << 10, share: true, force: false }
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
/// 1. write its chunks to the origin, in the order of the origin
/// 2. flush the origin             - the merged data is durable
/// 3. zero the window's slots      - one write within one untorn unit
/// 4. flush the COW device         - the window is forgotten
///
/// While a window is in 2 to 4 the next one, whose exceptions are older, is in 1, and the one after
/// that is read; none is overtaken. So a crash finds up to two windows in part or whole on the origin
/// and still in the store.
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
        long_run_bytes: options.long_run_bytes,
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

/// A window that is ready to be brought to the origin.
struct Window {
    /// The index of its first exception.
    first: u64,
    /// How many exceptions it has.
    exceptions: u64,
    /// In the order of the origin.
    moves: Moves,
}

enum Moves {
    Writes(Vec<Write>),
    Copies(Vec<Copy>),
}

struct Merge<'a, C, O, P> {
    origin: &'a O,
    store: &'a Persistent<C>,
    window_chunks: u64,
    long_run_bytes: u64,
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
        self.find_out_about_sharing(&reader).await?;
        let windows = self.windows(&reader, before).await?;
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

    /// Merges window by window, and says how many. Three are at work at a time, so that no device waits
    /// for the other: one is read, one written, and one, whose data is with the origin, is made durable
    /// and forgotten.
    async fn windows(&self, reader: &Reader<'_, C>, end: u64) -> Result<u64, Error> {
        let mut windows = 0;
        let mut ahead = self.read(reader, end).await;
        let mut brought = 0;
        while !self.observer.stop_requested()
            && let Ok(Some(window)) = ahead
        {
            let Window { first, exceptions, moves } = window;
            // Each is driven to its end, also beside one that fails.
            let (forgotten, bringing, next) = future::join3(
                self.forget(brought),
                self.bring_all(reader, moves),
                self.read(reader, first),
            )
            .await;
            forgotten?;
            bringing?;
            windows += 1;
            (brought, ahead) = (exceptions, next);
        }
        self.forget(brought).await?;
        ahead.map(|_| windows)
    }

    /// Reads the window that ends with exception `end`, if there is one.
    async fn read(&self, reader: &Reader<'_, C>, end: u64) -> Result<Option<Window>, Error> {
        if end == 0 {
            return Ok(None);
        }
        let first = cut(reader.layout, self.store.unit_slots(), end, self.window_chunks);
        let slots = reader.slots(first..end).await?;
        let bytes = (end - first) * reader.layout.chunk_size().bytes();
        let runs = reader.runs(slots.clone());
        let are_long = bytes / (runs.len() as u64).max(1) >= self.long_run_bytes;
        let moves = match self.sharing.get() || are_long {
            true => Moves::Copies(runs),
            false => Moves::Writes(reader.read(slots, async |_| ()).await?),
        };
        Ok(Some(Window { first, exceptions: end - first, moves }))
    }

    /// Brings a window's data to the origin. Every request is driven to its end, also beside one that
    /// fails: a write that was given up might come later than the caller's next.
    async fn bring_all(&self, reader: &Reader<'_, C>, moves: Moves) -> Result<(), Error> {
        match moves {
            Moves::Writes(writes) => all(WRITES, writes.into_iter().map(|it| self.write(it))).await,
            Moves::Copies(runs) if self.sharing.get() => {
                all(SHARES, runs.into_iter().map(|it| self.share_or_copy(reader, it))).await
            }
            Moves::Copies(runs) => {
                let pieces = runs.into_iter().flat_map(|run| run.pieces(REQUEST_BYTES));
                all(COPIES, pieces.map(|it| self.copy(reader, it))).await
            }
        }
    }

    /// Makes durable what was brought to the origin, and forgets the newest so many exceptions: those
    /// it was. See [`merge`] for the order.
    async fn forget(&self, exceptions: u64) -> Result<(), Error> {
        if exceptions == 0 {
            return Ok(());
        }
        self.origin_flushes.set(self.origin_flushes.get() + 1);
        let flushed = match planted(Planted::OfflineClearBeforeFlush) {
            true => Ok(()),
            false => self.origin.flush().await,
        };
        flushed.map_err(Error::io(Which::Origin, "cannot make merged data durable"))?;
        self.store.clear(exceptions).await?;
        Ok(())
    }

    async fn write(&self, Write { at, len, pieces }: Write) -> Result<(), Error> {
        self.observer.pace(len).await;
        let written = self.origin.write_vectored(at, pieces).await;
        written.map_err(Error::io(Which::Origin, format!("cannot write at byte {at}")))?;
        self.count(len);
        Ok(())
    }

    /// Copies at most a request.
    async fn copy(&self, reader: &Reader<'_, C>, it: Copy) -> Result<(), Error> {
        let Copy { at, len, from } = it;
        self.observer.pace(len).await;
        let data = reader.read_bytes(from, len).await?;
        let written = self.origin.write(at, data).await;
        written.map_err(Error::io(Which::Origin, format!("cannot write at byte {at}")))?;
        self.count(len);
        Ok(())
    }

    async fn share_or_copy(&self, reader: &Reader<'_, C>, it: Copy) -> Result<(), Error> {
        if self.share(reader, it).await? {
            self.shared.set(self.shared.get() + it.len);
            self.count(it.len);
            return Ok(());
        }
        for piece in it.pieces(REQUEST_BYTES) {
            self.copy(reader, piece).await?;
        }
        Ok(())
    }

    fn count(&self, len: u64) {
        self.done.set(self.done.get() + len);
        self.observer.progress(Progress { done: self.done.get(), total: self.total });
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
                let (at, from) = (old.get() * chunk, new.get() * chunk);
                self.share(reader, Copy { at, len: chunk, from }).await?
            }
            None => false,
        };
        self.sharing.set(sharing);
        Ok(())
    }

    async fn share(&self, reader: &Reader<'_, C>, it: Copy) -> Result<bool, Error> {
        let Copy { at, len, from } = it;
        let shared = share((reader.cow, from), (self.origin, at), len).await;
        shared.map_err(Error::io(Which::Origin, format!("cannot share extents at byte {at}")))
    }
}
