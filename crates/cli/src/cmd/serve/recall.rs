//! What a state file says, put into the plan of a server.

use std::path::Path;

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, Which};
use dmsnap_serve::control::NewSnapshot;

use super::first_merge::FirstMerge;
use super::plan::Plan;
use super::state::{Content, Merge, MergeState, StateFile};
use crate::cmd::spec::Spec;
use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::report::{Failure, tell};

/// Plans what clients have added and nothing that they have removed, and the merge as they have left it. Where the command
/// line says something else, the file is right: it is younger.
pub(super) async fn recall(
    state: &mut StateFile,
    plan: &mut Plan,
    first: &mut FirstMerge,
) -> Result<(), Failure> {
    let path = state.path().to_owned();
    let merge = plan.merge.clone().or_else(|| first.merge.clone());
    let undo = merge.as_deref().map(way_back_of);
    let given = plan.cows().into_iter().map(|(name, _)| name).chain(undo).collect();
    let content = state.content_mut();
    for name in &content.removed {
        if plan.take_out(name) {
            tell(Failure::of(
                name,
                format_args!("was removed, says {}: not served", path.display()),
            ));
        }
    }
    let is_removed = |name: &str| content.removed.iter().any(|it| it == name);
    if merge.as_deref().is_some_and(is_removed) {
        (plan.merge, first.merge, first.undo) = (None, None, None);
    }
    if merge.as_deref().is_some_and(|merge| is_removed(&way_back_of(merge))) {
        first.undo = None;
    }
    for snapshot in content.snapshots.clone() {
        let name = &snapshot.name;
        if !is_valid(&snapshot, &path).await? {
            tell(Failure::of(name, "was dropped before: it is not served any more"));
            content.remove(name);
            continue;
        }
        if plan.take_out(name) {
            tell(Failure::of(name, format_args!("served as {} says", path.display())));
        }
        plan.refuse_known(Path::new(&snapshot.cow))?;
        plan.push(spec(&snapshot).map_err(|found| Failure::about(&path, found))?);
    }
    recall_merge(content, plan, first);
    state.know(given);
    Ok(())
}

fn recall_merge(content: &mut Content, plan: &mut Plan, first: &mut FirstMerge) {
    let asked = plan.merge.clone().or_else(|| first.merge.clone());
    let gone = content.merge.take_if(|it| !plan.has(&it.start.snapshot));
    if let Some(Merge { state: MergeState::Running | MergeState::Paused, start }) = gone {
        tell(Failure::of(&start.snapshot, "was merged, and is not served: its merge is forgotten"));
    }
    match &content.merge {
        Some(Merge { state: MergeState::Cancelled, start })
            if asked.as_ref() == Some(&start.snapshot) =>
        {
            tell(Failure::of(&start.snapshot, "its merge was cancelled: it is not merged"));
            (plan.merge, first.merge, first.undo) = (None, None, None);
        }
        Some(Merge { state: MergeState::Cancelled, .. }) | None => {}
        Some(Merge { state, start }) => {
            let name = &start.snapshot;
            if let Some(other) = asked.as_ref().filter(|it| *it != name) {
                tell(Failure::of(other, format_args!("not merged: {name} is")));
                (first.undo, first.max_size) = (None, None);
            }
            (plan.merge, first.merge) = (None, Some(name.clone()));
            if let Some(rate) = start.rate_bytes_per_second {
                first.rate = (rate > 0).then_some(rate);
            }
            first.window = start.window_bytes.unwrap_or(first.window);
            if let Some(undo) = &start.undo {
                forget_beginning(Path::new(&undo.cow));
                first.undo = Some(undo.cow.clone().into());
                (first.undo_name, first.max_size) = (undo.name.clone(), undo.max_size_bytes);
            }
            first.paused = *state == MergeState::Paused;
        }
    }
    // It is there, and served like any other.
    if first.merge.as_deref().is_some_and(|merge| plan.has(&way_back_of(merge))) {
        first.undo = None;
    }
}

/// Removes the file of a way back that a server was killed over when it had made its name and nothing else.
fn forget_beginning(undo: &Path) {
    if undo.symlink_metadata().is_ok_and(|it| it.is_file() && it.len() == 0) {
        // If that fails, what makes it says so.
        let _ = std::fs::remove_file(undo);
    }
}

/// The usual name.
fn way_back_of(merge: &str) -> String {
    format!("{merge}-undo")
}

/// False if it was dropped. A store that is not there, or cannot be read, is not passed over: without it what is
/// written to the origin would be lost to it.
async fn is_valid(snapshot: &NewSnapshot, state: &Path) -> Result<bool, Failure> {
    let advise = |failure: Failure| {
        let (name, state) = (&snapshot.name, state.display());
        failure.advise(format_args!("put it back, or take {name} out of {state}"))
    };
    let cow = DeviceArg::from(Path::new(&snapshot.cow).to_owned());
    let devices = Devices::of_cow(&cow);
    let device = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await.map_err(advise)?;
    let info = ops::info(&device).await;
    info.map(|it| it.valid).map_err(|error| advise(devices.failure(&error)))
}

fn spec(snapshot: &NewSnapshot) -> Result<Spec, String> {
    let mut spec = Spec::of_request(snapshot)?;
    // It may have been made longer than it would grow to by itself.
    if let (Some(most), Ok(found)) = (&mut spec.options.max_bytes, std::fs::metadata(&spec.cow)) {
        *most = found.len().max(*most);
    }
    Ok(spec)
}
