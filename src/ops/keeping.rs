use std::rc::Rc;

use super::devices::{merged_bytes, shown_bytes};
use super::merge::{MergeOptions, MergePlan, Merged, merge, plan_merge_beside};
use super::room::Holdings;
use super::{Error, Observer};
use crate::copy::Part;
use crate::device::Device;
use crate::store::Strays;
use crate::volume::{MergeState, OnFull, Snapshot, SnapshotOptions, State, Volume, VolumeError};

/// Another snapshot of the origin, which is to keep what it shows.
#[derive(Debug)]
pub struct Other<C> {
    /// For messages; none twice.
    pub name: String,
    /// Its COW device.
    pub cow: C,
    /// Its size; by default that of the origin.
    pub len_bytes: Option<u64>,
}

/// What becomes of another snapshot of the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Chunks of the origin whose old content it takes over.
    pub chunks: u64,
    /// False if it has no room for that many, and is dropped.
    pub valid: bool,
}

/// What [`merge_keeping`] would do, to the others as well. Writes nothing.
///
/// # Errors
///
/// As [`plan_merge`](super::plan_merge); [`Error::Other`] for what keeps another snapshot from being kept. That one has no room is
/// not an error here.
pub async fn plan_merge_keeping<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    others: &[Other<C>],
    options: MergeOptions,
) -> Result<(MergePlan, Vec<Kept>), Error> {
    plan_keeping(cow, origin, others, options, false).await
}

/// The same; see [`plan_merge_beside`].
pub(super) async fn plan_keeping<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    others: &[Other<C>],
    options: MergeOptions,
    has_partner: bool,
) -> Result<(MergePlan, Vec<Kept>), Error> {
    let plan = plan_merge_beside(cow, origin, options, has_partner).await?;
    if others.is_empty() {
        return Ok((plan, Vec::new()));
    }
    let len_bytes = merged_bytes(cow, origin, options.len_bytes).await?;
    let merging = Holdings::of(cow, len_bytes, options.force).await?;
    let mut kept = Vec::new();
    for other in others {
        let failed = |error| Error::other(&other.name, error);
        let other_bytes = shown_bytes(&other.cow, Some(origin), other.len_bytes).await;
        let other_bytes = other_bytes.map_err(failed)?.unwrap_or(len_bytes);
        let holdings = Holdings::of(&other.cow, other_bytes, false).await.map_err(failed)?;
        let (chunks, valid) = holdings.takes_over(&merging.before(len_bytes.min(other_bytes)));
        kept.push(Kept { name: other.name.clone(), chunks, valid });
    }
    Ok((plan, kept))
}

/// Merges a snapshot into its origin, and lets other snapshots of that origin keep what they show: they get
/// the old data first. `on_full` says what becomes of the merge if one of them has no room for that.
///
/// # Ordering
///
/// Without others that of [`merge`]. Otherwise that of [`Volume::run_merge`]: for each window every other snapshot gets
/// published exceptions before the origin changes. A crash leaves origin and store consistent together, and
/// the others with what they showed; the same call, with the same others, goes on.
///
/// # Errors
///
/// What [`plan_merge_keeping`] refuses, before anything is written; later whatever a device says, and
/// [`Error::Live`] for "no space" with [`OnFull::Fail`].
pub async fn merge_keeping<C: Device, O: Device>(
    cow: C,
    origin: O,
    others: Vec<Other<C>>,
    options: MergeOptions,
    on_full: OnFull,
    observer: &impl Observer,
) -> Result<(Merged, Vec<Kept>), Error> {
    let (plan, _) = plan_merge_keeping(&cow, &origin, &others, options).await?;
    if others.is_empty() {
        return Ok((merge(cow, origin, options, observer).await?, Vec::new()));
    }
    let volume = Volume::new(origin).map_err(Error::Live)?;
    let mut kept = Vec::new();
    for other in others {
        let len_bytes = other.len_bytes;
        let keeps = SnapshotOptions { on_full, len_bytes, ..SnapshotOptions::default() };
        let opened = volume.open(&other.name, other.cow, keeps).await;
        let opened = opened.map_err(|error| Error::other(&other.name, Error::Live(error)))?;
        kept.push((opened.exceptions(), opened));
    }
    // What is left of a store that has lost exceptions goes only if it is to be merged all the same.
    let strays = if options.force { Strays::Wipe } else { Strays::Refuse };
    let own =
        SnapshotOptions { len_bytes: options.len_bytes, strays, ..SnapshotOptions::default() };
    let merged = run(&volume, cow, own, plan, options.window_bytes, observer).await;
    let merged = merged.map_err(Error::Live)?;
    Ok((merged, kept.iter().map(after).collect()))
}

/// The merge itself. No other snapshot has an empty name.
async fn run<C: Device, O: Device>(
    volume: &Volume<O, C>,
    cow: C,
    own: SnapshotOptions,
    plan: MergePlan,
    window_bytes: u64,
    observer: &impl Observer,
) -> Result<Merged, VolumeError> {
    let snapshot = volume.open("", cow, own).await?;
    volume.start_merge(&snapshot).await?;
    // The volume counts in whole chunks.
    let counted = Part::first(observer, plan.bytes);
    let state = volume.run_merge(window_bytes, &counted).await?;
    volume.flush_all().await?;
    let left = snapshot.exceptions();
    Ok(Merged {
        finished: state == MergeState::Finished,
        exceptions: plan.exceptions - left,
        left,
        bytes: counted.done(),
        ..Merged::default()
    })
}

fn after<C: Device>((before, other): &(u64, Rc<Snapshot<C>>)) -> Kept {
    Kept {
        name: other.name().into(),
        chunks: other.exceptions() - before,
        valid: other.state() != State::Invalid,
    }
}
