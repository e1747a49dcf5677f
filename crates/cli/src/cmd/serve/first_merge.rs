use std::path::PathBuf;
use std::rc::Rc;

use dmsnap::device::AnyDevice;
use dmsnap_serve::control::WayBack;
use dmsnap_serve::{Service, Snapshot};

use super::disk::Disk;
use super::opener::FileOpener;
use super::plan::Plan;
use super::state::StateFile;
use super::way_back::Wanted;
use crate::report::Failure;
use crate::size;

/// The merge that begins with a server.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FirstMerge {
    /// Merge this snapshot into the origin while clients go on
    ///
    /// From now on both exports are one device with the snapshot's content; clients may go on
    /// writing to it.
    #[arg(long, value_name = "NAME")]
    pub(super) merge: Option<String>,

    /// Keep a way back of the merge in UNDO: `dmsnap ctl merge undo NAME` takes the merge back
    ///
    /// UNDO is a file that is made, or a blank device: a snapshot of the origin as it is when the merge begins. It is
    /// served for reading, as NAME-undo, and grows with what clients write. A server that ended before the
    /// merge is gone on with by the same command. If UNDO can grow no further, or its device fails, it is dropped: the
    /// merge goes on without a way back, and the exit status is 1.
    #[arg(long, value_name = "UNDO", requires = "merging", conflicts_with = "read_only")]
    pub(super) undo: Option<PathBuf>,

    /// UNDO grows up to this; by default as far as it can ever have to
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "undo")]
    pub(super) max_size: Option<u64>,

    /// Limit the merge to this many bytes per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "merging")]
    pub(super) rate: Option<u64>,

    /// Most data in one window of the merge; at most 64M, and a 16th of --memory
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size::parse)]
    pub(super) window: u64,

    /// The name of the way back, if a client has given one.
    #[arg(skip)]
    pub(super) undo_name: Option<String>,

    /// It moves nothing for the time being.
    #[arg(skip)]
    pub(super) paused: bool,
}

impl FirstMerge {
    /// The snapshot that is to merge: by the command line, by the table, or by LVM.
    pub(super) fn of(&self, plan: &Plan) -> Result<Option<String>, Failure> {
        match (&plan.merge, &self.merge) {
            (Some(planned), Some(wanted)) if planned != wanted => {
                let found = format_args!("found {wanted}, but {planned} merges already");
                Err(Failure::of("--merge", found))
            }
            (Some(name), _) | (None, Some(name)) if plan.has(name) => Ok(Some(name.clone())),
            (Some(name), _) | (None, Some(name)) => {
                Err(Failure::of("--merge", format_args!("no snapshot is named {name}")))
            }
            (None, None) => Ok(None),
        }
    }

    /// What is to be made for --undo, if anything is.
    pub(super) async fn way_back(
        &self,
        plan: &mut Plan,
        merge: Option<&str>,
    ) -> Result<Option<WayBack>, Failure> {
        match (&self.undo, merge) {
            (Some(path), Some(merge)) => {
                let name = self.undo_name.clone().unwrap_or_else(|| format!("{merge}-undo"));
                Wanted { path, name, max_bytes: self.max_size }.plan(plan, merge).await
            }
            _ => Ok(None),
        }
    }

    /// Starts the merge, if there is one; what clients change is kept from now on.
    pub(super) async fn begin(
        &self,
        (service, volume): (&Service<AnyDevice, AnyDevice, FileOpener>, &Disk),
        snapshot: Option<Rc<Snapshot<AnyDevice>>>,
        (way_back, state): (Option<&WayBack>, Option<&StateFile>),
    ) -> Result<Option<Rc<Snapshot<AnyDevice>>>, Failure> {
        if let Some(state) = state {
            state.begin().await?;
        }
        let Some(snapshot) = snapshot else { return Ok(None) };
        // A server may have been killed after it was written down that the merge is taken back, and before it was.
        let snapshot = match volume.partner(&snapshot) {
            Some(partner) if snapshot.is_way_back() && state.is_some() => partner,
            _ => snapshot,
        };
        self.start(service, &snapshot, way_back).await?;
        if let Some(state) = state {
            state.keep_first_merge(snapshot.name()).await?;
        }
        Ok(Some(snapshot))
    }

    async fn start(
        &self,
        service: &Service<AnyDevice, AnyDevice, FileOpener>,
        snapshot: &Rc<Snapshot<AnyDevice>>,
        way_back: Option<&WayBack>,
    ) -> Result<(), Failure> {
        if let Some(wanted) = way_back {
            let started = service.controller().start_undoable(snapshot, wanted).await;
            started.map_err(|refusal| Failure::of("--undo", refusal))?;
        } else {
            let found = |error| format!("cannot be merged: {error}");
            let started = service.start_merge(snapshot).await;
            started.map_err(|error| Failure::of(snapshot.name(), found(error)))?;
        }
        if self.paused {
            service.pause_merge();
        }
        Ok(())
    }
}
