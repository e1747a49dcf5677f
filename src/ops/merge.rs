use dmsnap_format::{Exception, Layout, Tag};

use super::devices::{refuse_changed, right_way_round, shown_bytes, whole_sectors};
use super::{Error, Observer, Which, pair};
use crate::copy::{LARGE_READS, REQUEST_BYTES, Reader};
use crate::device::Device;
use crate::merge::{Finished, Merge, window_start};
use crate::planted::{Planted, planted};
use crate::store::{BaseFence, Loaded, Persistent, Store, StoreError, Strays};

/// How to merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Most bytes of data in one window; two windows are in memory at a time. At least one chunk
    /// is taken, whatever this says.
    pub window_bytes: u64,
    /// A window whose chunks lie in runs of at least this many bytes on average, on both devices, is copied
    /// run by run, with little memory: to read all of it in the order of one device and to write it in
    /// that of the other gains nothing then. With 0 every window is.
    pub long_run_bytes: u64,
    /// Share extents where both devices are files of a file system that can.
    pub share: bool,
    /// Go on although the origin begins with a store's header, or exceptions were lost to an
    /// unaligned discard in a kernel.
    pub force: bool,
    /// The size of the snapshot; by default what its store says, or else that of the origin. Nothing is written to the
    /// origin past it, whatever the last chunk holds. One that is told must not be larger than the origin.
    pub len_bytes: Option<u64>,
    /// Read the origin first, and write only what differs: where it may hold much of the snapshot already.
    pub skip_equal: bool,
    /// Give the way back up, if the store has one that a merge without it would lose.
    pub forget_undo: bool,
    /// Go on although the origin is not what the store remembers of it.
    pub ignore_fence: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            window_bytes: 128 << 20,
            long_run_bytes: 64 << 10,
            share: true,
            force: false,
            len_bytes: None,
            skip_equal: false,
            forget_undo: false,
            ignore_fence: false,
        }
    }
}

impl MergeOptions {
    fn window_chunks(&self, layout: Layout) -> u64 {
        (self.window_bytes / layout.chunk_size().bytes()).max(1)
    }
}

/// What a merge would do.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    plan_merge_beside(cow, origin, options, false).await
}

/// The same; or with the other store of a merge that can be taken back at hand, which nobody has to forget.
pub(super) async fn plan_merge_beside<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    options: MergeOptions,
    has_partner: bool,
) -> Result<MergePlan, Error> {
    let Checked { store, bytes, .. } = examine(cow, origin, options, has_partner).await?;
    let layout = store.layout();
    let (mut end, mut windows) = (store.published(), 0);
    while end > 0 {
        end = window_start(layout, store.unit_slots(), end, options.window_chunks(layout));
        windows += 1;
    }
    Ok(MergePlan { exceptions: store.published(), bytes, windows, flushes: 2 * windows })
}

/// Copies the snapshot's chunks back to the origin and forgets them, window by window from the
/// newest exception back.
///
/// # Ordering
///
/// Before the first window: if the store remembers chunks that it will write, its tag without them, flush.
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
    let Checked { store, origin_bytes, bytes: total } =
        examine(cow, &origin, options, false).await?;
    let strays = if options.force { Strays::Wipe } else { Strays::Refuse };
    let fence = store.fence().clone();
    let store = store.into_writable(strays).await?;
    forget_merged(&store, &fence).await?;
    let (layout, before) = (store.layout(), store.published());
    let cow = store.device();
    let reader =
        Reader { cow, layout, origin_bytes, request_bytes: REQUEST_BYTES, reads: LARGE_READS };
    let window_chunks = options.window_chunks(layout);
    let merge = Merge::new(
        (reader, &origin, observer),
        total,
        &store,
        window_chunks,
        options.long_run_bytes,
    );
    if options.skip_equal {
        merge.engine.skip_equal();
    }
    let Finished { windows, origin_flushes } = merge.run(options.share).await?;
    let left = store.published();
    Ok(Merged {
        finished: left == 0,
        exceptions: before - left,
        left,
        bytes: merge.engine.done(),
        shared_bytes: merge.engine.shared(),
        windows,
        origin_flushes,
        cow_flushes: store.flushes(),
        metadata_writes: store.metadata_writes(),
    })
}

/// A merge writes what has exceptions, and nothing else: samples of other chunks stay right.
async fn forget_merged<C: Device>(
    store: &Persistent<C>,
    fence: &BaseFence,
) -> Result<(), StoreError> {
    let left = fence.without_exceptions();
    match store.tag() {
        Some(tag) if tag.fence != left && !planted(Planted::KeepFence) => {
            store.set_tag(Tag { fence: left, ..tag }).await
        }
        _ => Ok(()),
    }
}

/// What a merge knows before it begins.
struct Checked<C> {
    /// Only looked at so far.
    store: Loaded<C>,
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
    has_partner: bool,
) -> Result<Checked<C>, Error> {
    right_way_round(&cow, origin, options.force).await?;
    let origin_bytes = whole_sectors(origin, Which::Origin)?;
    let shown = shown_bytes(&cow, Some(origin), options.len_bytes).await?;
    let shown_bytes = shown.unwrap_or(origin_bytes);
    let mut last = None;
    let visit = |it: Exception| last = last.max(Some(it.old));
    let mut store = Loaded::read(cow, Some(shown_bytes), visit).await?;
    if !options.force {
        store.refuse_lost_front().await?;
    }
    if !options.ignore_fence {
        refuse_changed(store.fence(), origin).await?;
    }
    // Last: an export asks what else a merge refuses.
    if !has_partner {
        pair::refuse_alone(store.tag(), options.forget_undo)?;
    }
    let chunk = store.layout().chunk_size().bytes();
    // Only the last chunk can be longer than what the origin has of it.
    let end = last.map_or(0, |old| (old.get() + 1) * chunk);
    // A longer snapshot may hold nothing that the origin has no place for. One that was made on an origin as long
    // (LVM says so) has lost what it showed.
    let was_cut = options.len_bytes.is_some_and(|told| told > origin_bytes);
    if was_cut || end.min(shown_bytes) > origin_bytes {
        return Err(Error::OriginTooSmall { origin_bytes, snapshot_bytes: shown_bytes });
    }
    let origin_bytes = shown_bytes.min(origin_bytes);
    let bytes = store.published() * chunk - end.saturating_sub(origin_bytes);
    Ok(Checked { store, origin_bytes, bytes })
}
