use dmsnap_format::{ChunkSize, Layout, StoreId, Tag};

use super::create::refuse_content;
use super::devices::{
    begins_with_store, merged_bytes, refuse_changed, right_way_round, whole_sectors,
};
use super::exchange::{Exchange, Found, Known, drop_snapshot, keep_new, load, settle, tags};
use super::keeping::{Kept, Other, merge_keeping, plan_keeping};
use super::merge::{MergeOptions, MergePlan, Merged};
use super::old_data::{self, How, Keeper, Merging, Target};
use super::{Error, Observer, Which, pair};
use crate::copy::Part;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::Loaded;
use crate::table::Table;
use crate::volume::OnFull;

/// How to merge so that it can be taken back, and how to take a merge back.
#[derive(Clone, Copy, Debug, Default)]
pub struct UndoOptions {
    /// How to merge.
    pub merge: MergeOptions,
    /// What becomes of the task if one of the other snapshots has no room for what it shows.
    pub on_full: OnFull,
    /// For [`undo`]: do not keep what the merged snapshot shows, but drop it, durably and before anything else.
    pub drop_snapshot: bool,
}

/// What a merge with a way back would do.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct UndoPlan {
    /// The merge itself.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub merge: MergePlan,
    /// Chunks that are kept first.
    pub keep_chunks: u64,
    /// The same in bytes.
    pub keep_bytes: u64,
    /// How large the undo store has to be, in bytes.
    pub undo_bytes: u64,
    /// Flushes of the undo store, and of the COW device for its tag; besides those of the merge.
    pub keep_flushes: u64,
    /// What becomes of other snapshots.
    pub others: Vec<Kept>,
}

/// What a merge with a way back did, or an undo.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Undoable {
    /// The merge itself.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub merged: Merged,
    /// Chunks that were kept first.
    pub kept_chunks: u64,
    /// The same in bytes.
    pub kept_bytes: u64,
    /// Of these, those whose extents are shared instead of copied.
    pub kept_shared_bytes: u64,
    /// What became of other snapshots.
    pub others: Vec<Kept>,
}

impl Undoable {
    fn of(merged: Merged, kept: old_data::Kept, others: Vec<Kept>) -> Self {
        let old_data::Kept { exceptions, bytes, shared_bytes } = kept;
        let (kept_chunks, kept_bytes, kept_shared_bytes) = (exceptions, bytes, shared_bytes);
        Self { merged, kept_chunks, kept_bytes, kept_shared_bytes, others }
    }
}

/// Checks everything that [`merge_undoable`] would, and says what it would do. Writes nothing.
///
/// `undo` is looked at if it is given; else a blank device of the size that the plan tells is thought of.
///
/// # Errors
///
/// As [`merge_undoable`].
pub async fn plan_merge_undoable<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    undo: Option<&C>,
    others: &[Other<C>],
    options: UndoOptions,
) -> Result<UndoPlan, Error> {
    let known = Known::of(cow, origin, options.merge).await?;
    let (layout, exceptions) = (known.merging.layout, known.merging.exceptions);
    let undo_bytes = undo_bytes(layout, exceptions);
    let found = match undo {
        Some(undo) => known.look_at(undo, undo_bytes, options.merge).await?,
        None => known.blank(options.merge)?,
    };
    let planned = plan_keeping(&cow, origin, &borrowed(others), options.merge, true).await;
    let (merge, others) = planned?;
    let keep_chunks = match (found, undo) {
        (Found::Partner, Some(undo)) => {
            let mut table = Table::new();
            let store = load(undo, known.target.len_bytes, &mut table).await;
            let store = store.map_err(Error::of_undo)?.into_read_only();
            Keeper { store: &store, table: &table }.missing(known.merging).await?
        }
        _ => exceptions,
    };
    // Data and header, or a publish; the tags.
    let untagged = u64::from(known.tag.is_none());
    let keep_flushes = untagged + if found == Found::Blank || keep_chunks > 0 { 5 } else { 2 };
    let keep_bytes = keep_chunks * layout.chunk_size().bytes();
    Ok(UndoPlan { merge, keep_chunks, keep_bytes, undo_bytes, keep_flushes, others })
}

/// Merges a snapshot into its origin so that it can be taken back: everything that the merge writes over is kept
/// first, in `undo`, which is then an ordinary store that shows the old origin. [`undo`] takes the merge back, also half-way.
///
/// `undo` is blank, or holds the undo store of this very merge; `ids` are new names, for `undo` and for a store that
/// has none yet. Other snapshots keep what they show, as with [`merge_keeping`].
///
/// # Ordering
///
/// 1. if the store has no tag: its tag, flush                           - it can be named
/// 2. the undo store: a tag without a header, flush; data and slots, flush; header with its tag, flush: it shows
///    what the origin holds
/// 3. the tag of the store names its partner, flush
/// 4. the merge ([`merge_keeping`])
/// 5. the tag says that it is done, flush
///
/// A crash in 1 or 2 leaves the origin and the snapshot as they were, and no undo store. From 3 on the undo store shows the
/// old origin over whatever the origin is, and the store its snapshot; the same call goes on, as does a plain merge, here
/// or in a kernel, and the way back stays right.
///
/// # Errors
///
/// Before anything is written: what [`plan_merge_keeping`](super::plan_merge_keeping) refuses; [`Error::OfUndo`] for an undo store that is none, is
/// another's, or is too small; [`Error::PartnerMissing`] while another undo store has the way back. Later: any
/// error of a device; [`Error::Stopped`] while old data is kept.
pub async fn merge_undoable<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    (undo, ids): (&C, [StoreId; 2]),
    others: &[Other<C>],
    options: UndoOptions,
    observer: &impl Observer,
) -> Result<Undoable, Error> {
    let known = Known::of(cow, origin, options.merge).await?;
    let layout = known.merging.layout;
    let undo_bytes = undo_bytes(layout, known.merging.exceptions);
    let found = known.look_at(undo, undo_bytes, options.merge).await?;
    // The partner is here.
    let merge = MergeOptions { forget_undo: true, ..options.merge };
    let options = UndoOptions { merge, ..options };
    plan_keeping(&cow, origin, &borrowed(others), options.merge, true).await?;
    let how = How { options: options.merge, observer };
    let kept = match found {
        Found::Blank if planted(Planted::KeepAfterMerge) => old_data::Kept::default(),
        Found::Blank => Box::pin(keep_new(undo, ids, &known, how)).await?,
        Found::Partner => {
            let exchange = Exchange { keeper: undo, merging: known.merging, undone: false };
            Box::pin(exchange.keep(known.target, how)).await.map_err(Error::of_undo)?.0
        }
    };
    let rest = merge_rest((cow, origin), others, options, (kept.bytes, observer));
    let (merged, others) = Box::pin(rest).await?;
    if planted(Planted::KeepAfterMerge) {
        Box::pin(keep_new(undo, ids, &known, how)).await?;
    }
    if merged.finished {
        settle(cow, layout).await?;
    }
    Ok(Undoable::of(merged, kept, others))
}

/// Steps 1 to 3 of [`merge_undoable`] by themselves: everything that the merge will write over is kept, and the origin is
/// not changed. The merge goes on from there. Returns how many chunks were kept, and their bytes.
///
/// # Errors
///
/// As [`merge_undoable`].
pub async fn keep_way_back<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    (undo, ids): (&C, [StoreId; 2]),
    others: &[Other<C>],
    options: UndoOptions,
    observer: &impl Observer,
) -> Result<(u64, u64), Error> {
    let known = Known::of(cow, origin, options.merge).await?;
    let undo_bytes = undo_bytes(known.merging.layout, known.merging.exceptions);
    let found = known.look_at(undo, undo_bytes, options.merge).await?;
    plan_keeping(&cow, origin, &borrowed(others), options.merge, true).await?;
    let how = How { options: options.merge, observer };
    let kept = match found {
        Found::Blank => Box::pin(keep_new(undo, ids, &known, how)).await?,
        Found::Partner => {
            let exchange = Exchange { keeper: undo, merging: known.merging, undone: false };
            Box::pin(exchange.keep(known.target, how)).await.map_err(Error::of_undo)?.0
        }
    };
    Ok((kept.exceptions, kept.bytes))
}

/// Checks everything that [`undo`] would, and says what it would do. Writes nothing. The size of a new undo store is 0:
/// there is none.
///
/// # Errors
///
/// As [`undo`].
pub async fn plan_undo<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    undo: &C,
    others: &[Other<C>],
    options: UndoOptions,
) -> Result<UndoPlan, Error> {
    let (_, target, layout, exceptions) = way_back((cow, origin), undo, options).await?;
    let merging = Merging { cow: undo, layout, exceptions };
    let planned = plan_keeping(&undo, origin, &borrowed(others), options.merge, true).await;
    let (merge, others) = planned.map_err(Error::of_undo)?;
    let (keep_chunks, keep_flushes) = match options.drop_snapshot {
        true => (0, 3),
        false => {
            let exchange = Exchange { keeper: cow, merging, undone: true };
            let missing = exchange.plan(target.len_bytes).await?;
            (missing, if missing > 0 { 6 } else { 4 })
        }
    };
    let keep_bytes = keep_chunks * layout.chunk_size().bytes();
    Ok(UndoPlan { merge, keep_chunks, keep_bytes, undo_bytes: 0, keep_flushes, others })
}

/// Takes a merge back, or an undo: keeps in `cow` what the origin holds wherever `undo` has an exception, then
/// merges `undo`. Afterwards the origin is what it was before the merge, `cow` shows its snapshot again, and `undo` is empty.
/// With [`UndoOptions::drop_snapshot`] `cow` is dropped instead.
///
/// # Ordering
///
/// 1. what is missing in `cow` is kept and published, batch by batch     - it shows its snapshot, whatever the origin is
/// 2. the tag of `cow`, flush; the tag of `undo`, flush                  - the roles are exchanged
/// 3. `undo` is merged ([`merge_keeping`])
/// 4. both tags say that it is done, each with a flush
///
/// To drop the snapshot: `cow` is marked as dropped, flush; the tag of `undo`, flush; 3 and 4.
///
/// A crash leaves both stores valid and showing what they showed. The same call goes on.
///
/// # Errors
///
/// Before anything is written: stores that are not partners, or in the wrong order; an invalid store; an origin that
/// is not what the stores remember; [`Error::NoRoomToKeep`]. Later: any error of a device; [`Error::Stopped`] while data
/// is kept.
pub async fn undo<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    undo: &C,
    others: &[Other<C>],
    options: UndoOptions,
    observer: &impl Observer,
) -> Result<Undoable, Error> {
    let (merged, target, layout, exceptions) = way_back((cow, origin), undo, options).await?;
    let merging = Merging { cow: undo, layout, exceptions };
    let how = How { options: options.merge, observer };
    let (kept, half_way) = match options.drop_snapshot {
        true => (drop_snapshot(cow, target.len_bytes, &merged, merging).await?, true),
        false => {
            let exchange = Exchange { keeper: cow, merging, undone: true };
            let (kept, held) = Box::pin(exchange.keep(target, how)).await?;
            // What still has its exception there was perhaps never merged.
            (kept, held > 0)
        }
    };
    let skip_equal = options.merge.skip_equal || half_way;
    let merge = MergeOptions { skip_equal, ignore_fence: true, ..options.merge };
    let options = UndoOptions { merge, ..options };
    let rest = merge_rest((undo, origin), others, options, (kept.bytes, observer));
    let (merged, others) = Box::pin(rest).await.map_err(Error::of_undo)?;
    if merged.finished {
        settle(undo, layout).await.map_err(Error::of_undo)?;
        if !options.drop_snapshot {
            settle(cow, layout).await?;
        }
    }
    Ok(Undoable::of(merged, kept, others))
}

/// What both stores are, if the one can be merged back and the other kept: the tag of the undo store, the origin, and the
/// exceptions of the undo store.
async fn way_back<'a, C: Device, O: Device>(
    (cow, origin): (&C, &'a O),
    undo: &C,
    options: UndoOptions,
) -> Result<(Tag, Target<'a, O>, Layout, u64), Error> {
    right_way_round(cow, origin, options.merge.force).await?;
    let (shown, merged) = tags(cow, undo).await?;
    pair::refuse_wrong_order(&shown, &merged)?;
    let len_bytes = merged_bytes(cow, origin, options.merge.len_bytes).await?;
    let target = Target { origin, len_bytes };
    let loaded = Loaded::read(undo, Some(target.len_bytes), |_| {}).await;
    let loaded = loaded.map_err(Error::of_undo)?;
    if !options.merge.ignore_fence {
        refuse_changed(loaded.fence(), origin).await?;
    }
    Ok((merged, target, loaded.layout(), loaded.published()))
}

/// How large an undo store has to be, in bytes, for a store with so many exceptions.
pub fn undo_bytes(layout: Layout, exceptions: u64) -> u64 {
    layout.chunks_needed(exceptions).saturating_mul(layout.chunk_size().bytes())
}

/// For a merge alongside clients: refuses a device that cannot become its undo store. Nothing is written.
///
/// # Errors
///
/// As [`merge_undoable`] of an undo store: [`Error::HoldsStore`], [`Error::UndoTooSmall`], and for other content.
pub async fn refuse_undo_device<C: Device>(
    undo: &C,
    chunk_size: ChunkSize,
    exceptions: u64,
) -> Result<(), Error> {
    if begins_with_store(undo, Which::Cow).await? {
        return Err(Error::HoldsStore);
    }
    let needed_bytes = undo_bytes(Layout::new(chunk_size), exceptions);
    let found_bytes = whole_sectors(undo, Which::Cow)?;
    if found_bytes < needed_bytes {
        return Err(Error::UndoTooSmall { found_bytes, needed_bytes });
    }
    refuse_content(undo, found_bytes, chunk_size, false).await
}

/// The merge after what came before it.
async fn merge_rest<C: Device, O: Device>(
    (cow, origin): (&C, &O),
    others: &[Other<C>],
    options: UndoOptions,
    (before, observer): (u64, &impl Observer),
) -> Result<(Merged, Vec<Kept>), Error> {
    let merge = MergeOptions { ignore_fence: true, ..options.merge };
    let rest = Part::after(observer, before);
    merge_keeping(cow, origin, borrowed(others), merge, options.on_full, &rest).await
}

fn borrowed<'a, C>(others: &'a [Other<C>]) -> Vec<Other<&'a C>> {
    let borrow =
        |it: &'a Other<C>| Other { name: it.name.clone(), cow: &it.cow, len_bytes: it.len_bytes };
    others.iter().map(borrow).collect()
}
