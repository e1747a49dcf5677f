use dmsnap::device::Device;
use dmsnap::volume::VolumeError;

use super::api::{StartMerge, TuneMerge};
use super::call::Answer;
use super::change::StateChange;
use super::controller::{Controller, refuse_invalid};
use super::opener::StoreOpener;
use super::refusal::{Code, Refusal};
use crate::MergeProgress;

impl<O: Device + 'static, C: Device + 'static, P: StoreOpener<O, C>> Controller<O, C, P> {
    pub(super) fn merge(&self) -> Result<Answer, Refusal> {
        self.merger.progress().map(Answer::Merge).ok_or_else(not_merging)
    }

    /// # Ordering
    ///
    /// Here, and with every change of a merge, the change is kept before it is made. After a crash between the two the
    /// next server makes it: it was asked for. A change that then cannot be made is taken back.
    pub(super) async fn start_merge(&self, start: &StartMerge) -> Result<Answer, Refusal> {
        let name = &start.snapshot;
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        if !snapshot.is_persistent() {
            let found = format_args!("{name}: a transient snapshot cannot be merged");
            return Err(Refusal::new(Code::Unsupported, found));
        }
        let _held = self.hold(name)?;
        if let Some(merge) = self.unfinished_merge() {
            return Err(Refusal::new(Code::Merging, format_args!("{merge} is merging")));
        }
        if let Some(MergeProgress { snapshot, .. }) = self.merger.progress() {
            return Err(Refusal::of(name, VolumeError::Merged { snapshot }));
        }
        self.opener.may_merge(&self.volume).await?;
        let (rate, window) = (start.rate_bytes_per_second, start.window_bytes);
        self.tune(TuneMerge { rate_bytes_per_second: rate, window_bytes: window })?;
        self.opener.keep(StateChange::MergeStarted(start)).await?;
        let started = match &start.undo {
            Some(wanted) => self.start_undoable(&snapshot, wanted).await.map(drop),
            None => {
                let started = self.merger.start(&snapshot).await;
                started.map_err(|error| Refusal::of(name, error))
            }
        };
        if let Err(refusal) = started {
            self.opener.keep(StateChange::MergeCancelled(name)).await?;
            return Err(refusal);
        }
        self.merge()
    }

    pub(super) async fn tune_merge(&self, tune: TuneMerge) -> Result<Answer, Refusal> {
        if self.merger.progress().is_none() {
            return Err(not_merging());
        }
        self.tune(tune)?;
        self.opener.keep(StateChange::MergeTuned(tune)).await?;
        self.merge()
    }

    pub(super) async fn pause_merge(&self) -> Result<Answer, Refusal> {
        self.opener.keep(StateChange::MergePaused(&self.unfinished()?)).await?;
        self.merge_did(self.merger.pause())
    }

    pub(super) async fn resume_merge(&self) -> Result<Answer, Refusal> {
        let name = self.unfinished()?;
        let _held = self.hold(&name)?;
        self.opener.keep(StateChange::MergeResumed(&name)).await?;
        self.merge_did(self.merger.resume())
    }

    fn tune(&self, tune: TuneMerge) -> Result<(), Refusal> {
        if tune.window_bytes == Some(0) {
            return Err(Refusal::new(Code::BadRequest, "found a window of 0 bytes"));
        }
        if let Some(bytes) = tune.window_bytes {
            self.merger.set_window(bytes);
        }
        if let Some(rate) = tune.rate_bytes_per_second {
            self.merger.set_rate((rate > 0).then_some(rate));
        }
        Ok(())
    }

    fn merge_did(&self, done: bool) -> Result<Answer, Refusal> {
        if done { self.merge() } else { Err(not_merging()) }
    }

    pub(super) async fn cancel_merge(&self) -> Result<Answer, Refusal> {
        let name = self.unfinished()?;
        let _held = self.hold(&name)?;
        self.opener.keep(StateChange::MergeCancelled(&name)).await?;
        match self.merger.cancel().await {
            Ok(Some(name)) => self.shown(&name),
            Ok(None) => {
                // It has finished meanwhile: it still is the origin's other name.
                self.opener.keep(StateChange::MergeResumed(&name)).await?;
                Err(not_merging())
            }
            Err(error) => {
                self.opener.keep(StateChange::MergeResumed(&name)).await?;
                Err(Refusal::of(&name, error))
            }
        }
    }

    /// The name of the snapshot whose merge can be changed.
    fn unfinished(&self) -> Result<String, Refusal> {
        self.unfinished_merge().ok_or_else(not_merging)
    }
}

fn not_merging() -> Refusal {
    Refusal::new(Code::NotMerging, "no merge is there, or it has finished")
}
