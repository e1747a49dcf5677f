use std::cell::Cell;
use std::io;
use std::rc::Rc;

use dmsnap::device::AnyDevice;
use dmsnap::ops::{self, MergeOptions, MergePlan, Merged, Observer, Progress, Which};
use dmsnap_serve::{MergeControl, MergeState, OnFull, Snapshot, SnapshotOptions, State, Volume};
use serde::Serialize;

use super::Group;
use super::room::Holdings;
use crate::progress::Watch;
use crate::report::Failure;

/// A snapshot of LVM's on its way back into its origin, beside the others of that origin.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    group: Group<'a>,
    name: &'a str,
    cow: AnyDevice,
    origin: AnyDevice,
    others: Vec<Other<'a>>,
}

/// Another snapshot of the same origin, not an invalid one.
#[derive(Debug)]
struct Other<'a> {
    name: &'a str,
    cow: AnyDevice,
}

/// What becomes of another snapshot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kept {
    pub(crate) name: String,
    /// Chunks of the origin whose old content it takes over.
    pub(crate) chunks: u64,
    /// False if it has no room for that many, and is dropped.
    pub(crate) valid: bool,
}

impl<'a> Merge<'a> {
    /// Opens all volumes that have to do with it.
    pub(crate) async fn new(group: Group<'a>, name: &str) -> Result<Self, Failure> {
        let vg = &group.found.vg;
        let snapshot = group.snapshot(name)?;
        let mut others = Vec::new();
        for other in vg.snapshots_of(&snapshot.origin).filter(|other| other.name != name) {
            if other.merging {
                let found = format_args!("another snapshot merges into {}", snapshot.origin);
                return Err(group.failure(&other.name, found).advise("merge that one first"));
            }
            let cow = group.device(&other.name)?;
            let info = ops::info(&cow).await.map_err(|error| {
                let found = format_args!("cannot keep what it shows: {error}");
                group.failure(&other.name, found)
            })?;
            if info.valid {
                others.push(Other { name: &other.name, cow });
            }
        }
        let (cow, origin) = (group.device(name)?, group.device(&snapshot.origin)?);
        Ok(Self { group, name: &snapshot.name, cow, origin, others })
    }

    /// What a merge would do, to the others as well. Writes nothing.
    pub(crate) async fn plan(
        &self,
        options: MergeOptions,
    ) -> Result<(MergePlan, Vec<Kept>), Failure> {
        let plan = ops::plan_merge(&self.cow, &self.origin, options).await;
        let plan = plan.map_err(|error| self.failure(&error))?;
        let mut kept = Vec::new();
        for other in &self.others {
            kept.push(self.keeps(other).await?);
        }
        Ok((plan, kept))
    }

    /// Brings the data to the origin. The others get what they show of it first, durably. One that
    /// has no room for that is dropped, if `drop_full`; else the merge ends there.
    ///
    /// # Ordering
    ///
    /// That of [`ops::merge`]; or of a merge in a [`Volume`], if there are others.
    pub(crate) async fn run(
        self,
        options: MergeOptions,
        drop_full: bool,
        watch: &Watch,
    ) -> Result<(Merged, Vec<Kept>), Failure> {
        let (plan, _) = self.plan(options).await?;
        match self.others.is_empty() {
            true => {
                let merged = ops::merge(&self.cow, &self.origin, options, watch).await;
                merged.map(|merged| (merged, Vec::new())).map_err(|error| self.failure(&error))
            }
            false => self.run_beside(plan, options.window_bytes, drop_full, watch).await,
        }
    }

    async fn run_beside(
        self,
        plan: MergePlan,
        window_bytes: u64,
        drop_full: bool,
        watch: &Watch,
    ) -> Result<(Merged, Vec<Kept>), Failure> {
        let (group, name) = (self.group, self.name);
        let failed = |name: &str| {
            let name = name.to_owned();
            move |error: io::Error| group.failure(&name, error)
        };
        let volume = Volume::new(self.origin).map_err(failed(name))?;
        let on_full = if drop_full { OnFull::Invalidate } else { OnFull::Fail };
        let keeps = SnapshotOptions { on_full, ..SnapshotOptions::default() };
        let mut others = Vec::new();
        for other in self.others {
            let added = volume.open(other.name, other.cow, keeps.clone()).await;
            let added = added.map_err(failed(other.name))?;
            others.push((added.exceptions(), added));
        }
        let snapshot = volume.open(name, self.cow, SnapshotOptions::default()).await;
        let snapshot = snapshot.map_err(failed(name))?;
        volume.start_merge(&snapshot).await.map_err(failed(name))?;
        let control = Control { watch, volume: &volume, total: plan.bytes, done: Cell::new(0) };
        let state = volume.run_merge(window_bytes, &control).await.map_err(failed(name))?;
        volume.flush_all().await.map_err(failed(name))?;
        let left = snapshot.exceptions();
        let merged = Merged {
            finished: state == MergeState::Finished,
            exceptions: plan.exceptions - left,
            left,
            bytes: control.done.get(),
            ..Merged::default()
        };
        let kept = |(before, other): &(u64, Rc<Snapshot<AnyDevice>>)| Kept {
            name: other.name().into(),
            chunks: other.exceptions() - before,
            valid: other.state() != State::Invalid,
        };
        Ok((merged, others.iter().map(kept).collect()))
    }

    /// What another snapshot has to take over, held against its room.
    async fn keeps(&self, other: &Other<'_>) -> Result<Kept, Failure> {
        let failed = |error| self.group.failure(other.name, error);
        let doubt = ops::plan_merge(&other.cow, &self.origin, MergeOptions::default()).await;
        if let Err(error @ ops::Error::FrontZeroed { .. }) = doubt {
            return Err(failed(error));
        }
        let merging = Holdings::of(&self.cow).await.map_err(|error| self.failure(&error))?;
        let holdings = Holdings::of(&other.cow).await.map_err(failed)?;
        let (chunks, valid) = holdings.takes_over(&merging);
        Ok(Kept { name: other.name.into(), chunks, valid })
    }

    fn failure(&self, error: &ops::Error) -> Failure {
        let vg = &self.group.found.vg;
        let name = match error.device() {
            Which::Origin => vg.snapshot(self.name).map_or(self.name, |it| &it.origin),
            _ => self.name,
        };
        let failure = self.group.failure(name, error);
        advise(failure, error)
    }
}

/// What can be done about a merge that was refused.
pub(crate) fn advise(failure: Failure, error: &ops::Error) -> Failure {
    match error {
        ops::Error::OriginIsStore => failure.advise("if it is the origin, --force goes on"),
        ops::Error::FrontZeroed { .. } => failure.advise("--force merges what is left"),
        ops::Error::Invalid => failure.advise("it cannot be merged"),
        _ => failure,
    }
}

/// Paces a merge, counts for the one who watches, and pauses it when asked to stop.
struct Control<'a> {
    watch: &'a Watch,
    volume: &'a Volume<AnyDevice, AnyDevice>,
    total: u64,
    done: Cell<u64>,
}

impl MergeControl for Control<'_> {
    async fn pace(&self, bytes: u64) {
        Observer::pace(self.watch, bytes).await;
        self.done.set(self.done.get() + bytes);
        self.watch.progress(Progress { done: self.done.get(), total: self.total });
        if self.watch.stop_requested() {
            self.volume.pause_merge();
        }
    }
}
