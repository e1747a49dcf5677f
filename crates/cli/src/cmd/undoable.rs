//! A merge with a way back, and the way back, as both commands run them.

use std::path::Path;

use dmsnap::device::{AnyDevice, Device, Mode};
use dmsnap::ops::{self, Error, Other, UndoOptions, UndoPlan, Undoable, Which};
use dmsnap_serve::OnFull;
use serde::Serialize;

use super::merging::{Options, show_kept, stopped};
use crate::device_arg::{DeviceArg, is_address};
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::files::{NewFile, new_id, open_file};
use crate::output::Output;
use crate::refusals::{advise_merge, advise_undo, no_room};
use crate::report::Failure;
use crate::size::{Bytes, Count};

/// What both commands are given.
pub(super) struct Task<'a> {
    pub(super) devices: &'a Devices<'a>,
    pub(super) cow: &'a DeviceArg,
    /// The device with the way back.
    pub(super) undo: &'a DeviceArg,
    /// Other snapshots.
    pub(super) keep: &'a [DeviceArg],
    pub(super) drop_full: bool,
    pub(super) drop_snapshot: bool,
    pub(super) options: &'a Options,
}

/// The devices of a task, open, but for the undo store.
struct Opened {
    cow: AnyDevice,
    origin: AnyDevice,
    others: Vec<Other<AnyDevice>>,
}

/// What was done, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    done: Undoable,
    seconds: f64,
}

impl Task<'_> {
    /// Merges with a way back.
    pub(super) async fn merge(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let opened = self.open().await?;
        let path = self.undo.paths().first().map(Path::new).unwrap_or(Path::new(""));
        if is_address(path) {
            return Err(Failure::about(path, "is in a volume group")
                .advise("name a file or a disk for the way back"));
        }
        let found = path.symlink_metadata().ok();
        // A command that was killed may have made the file, and no more.
        let is_empty = found.as_ref().is_some_and(|it| it.is_file() && it.len() == 0);
        let there = match found {
            Some(_) if !is_empty => Some(self.open_undo().await?),
            _ => None,
        };
        let pair = (&opened.cow, &opened.origin);
        let options = self.undo_options();
        let plan = ops::plan_merge_undoable(pair, there.as_ref(), &opened.others, options).await;
        let plan = plan.map_err(|error| self.failure(&error))?;
        self.refuse_full(&plan)?;
        if self.options.dry_run {
            return show_undo_plan(&plan, self.options.json, out);
        }
        let (undo, new) = match there {
            Some(undo) => (undo, None),
            None => self.make_undo(path, is_empty, plan.undo_bytes).await?,
        };
        let watch = self.options.watch()?;
        let ids = [new_id()?, new_id()?];
        let way = (&undo, ids);
        let done = ops::merge_undoable(pair, way, &opened.others, options, &watch).await;
        // From the moment it is a store, it is the way back, whatever came after.
        let is_store = ops::begins_with_store(&undo, Which::Undo).await.unwrap_or(true);
        if let Some(new) = new.filter(|_| is_store) {
            new.keep();
        }
        let done = done.map_err(|error| self.failure(&error))?;
        watch.done();
        self.show(&Timed { done, seconds: watch.seconds() }, "merged", out)?;
        Ok(Outcome::Yes)
    }

    /// A file for the way back, of this length: a new one, or the one that is there and empty.
    async fn make_undo<'p>(
        &self,
        path: &'p Path,
        is_there: bool,
        len_bytes: u64,
    ) -> Result<(AnyDevice, Option<NewFile<'p>>), Failure> {
        let io = self.options.io;
        if is_there {
            let file = open_file(path, Mode::Write, io.into()).await?;
            let grown = file.grow(len_bytes).await;
            grown.map_err(|error| Failure::about(path, error))?;
            return Ok((file.into(), None));
        }
        let (file, new) = NewFile::create(path, len_bytes, io, self.devices.access()).await?;
        Ok((file.into(), Some(new)))
    }

    /// Takes a merge back.
    pub(super) async fn undo(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let opened = self.open().await?;
        let undo = self.open_undo().await?;
        let pair = (&opened.cow, &opened.origin);
        let options = self.undo_options();
        let plan = ops::plan_undo(pair, &undo, &opened.others, options).await;
        let plan = plan.map_err(|error| self.failure(&error))?;
        self.refuse_full(&plan)?;
        if self.options.dry_run {
            return show_undo_plan(&plan, self.options.json, out);
        }
        let watch = self.options.watch()?;
        let done = ops::undo(pair, &undo, &opened.others, options, &watch).await;
        let done = done.map_err(|error| self.failure(&error))?;
        watch.done();
        self.show(&Timed { done, seconds: watch.seconds() }, "took back", out)?;
        Ok(Outcome::Yes)
    }

    async fn open(&self) -> Result<Opened, Failure> {
        let io = self.options.io;
        let cow = self.devices.open(Which::Cow, Mode::Write, io).await?;
        let origin = self.devices.open(Which::Origin, Mode::Write, io).await?;
        self.devices.warn_of_image(&origin).await;
        let mut others = Vec::new();
        for place in self.keep {
            let device = self.devices.open_other(self.keep, place, io).await?;
            others.push(Other { name: place.to_string(), cow: device, len_bytes: None });
        }
        Ok(Opened { cow, origin, others })
    }

    async fn open_undo(&self) -> Result<AnyDevice, Failure> {
        let given: Vec<DeviceArg> = self.keep.iter().chain([self.undo]).cloned().collect();
        let Some(undo) = given.last() else {
            return Err(Failure::of(&self.undo.to_string(), "was not given"));
        };
        self.devices.open_other(&given, undo, self.options.io).await
    }

    fn undo_options(&self) -> UndoOptions {
        let len_bytes = self.devices.snapshot_bytes();
        let merge = ops::MergeOptions { len_bytes, ..self.options.merge_options() };
        let on_full = if self.drop_full { OnFull::Invalidate } else { OnFull::Fail };
        UndoOptions { merge, on_full, drop_snapshot: self.drop_snapshot }
    }

    fn refuse_full(&self, plan: &UndoPlan) -> Result<(), Failure> {
        match plan.others.iter().find(|it| !it.valid && !self.drop_full) {
            Some(full) => Err(no_room(&full.name, full.chunks)),
            None => Ok(()),
        }
    }

    fn failure(&self, error: &Error) -> Failure {
        let failure = match error.device() {
            Which::Undo => Failure::of(&self.undo.to_string(), error),
            _ => self.devices.failure(error),
        };
        let names = (self.cow.to_string(), self.devices.name(Which::Origin), self.undo.to_string());
        advise_merge(advise_undo(failure, error, &names), error)
    }

    fn show(&self, timed: &Timed, did: &str, out: &mut Output) -> Result<(), Failure> {
        let Timed { done, seconds } = timed;
        let merged = done.merged;
        match self.options.json {
            true => out.json(timed)?,
            false => {
                let shared = match done.kept_shared_bytes {
                    0 => String::new(),
                    bytes => format!(", {} of it shared", Bytes(bytes)),
                };
                out.line(format_args!(
                    "kept {} ({}{shared}), {did} {}, {seconds:.1} s",
                    Count(done.kept_chunks, "chunk"),
                    Bytes(done.kept_bytes),
                    Count(merged.exceptions, "exception"),
                ))?;
                show_kept(&done.others, str::to_owned, out)?;
            }
        }
        match merged.finished {
            true => Ok(()),
            false => Err(Failure::of(&self.cow.to_string(), stopped(merged))
                .advise("the same command goes on")),
        }
    }
}

/// What a merge with a way back, or an undo, would do.
pub(super) fn show_undo_plan(
    plan: &UndoPlan,
    json: bool,
    out: &mut Output,
) -> Result<Outcome, Failure> {
    if json {
        out.json(plan)?;
        return Ok(Outcome::Yes);
    }
    let UndoPlan { merge, keep_chunks, keep_bytes, undo_bytes, keep_flushes, others } = plan;
    out.line(format_args!(
        "would keep {} ({}) first, {keep_flushes} flushes",
        Count(*keep_chunks, "chunk"),
        Bytes(*keep_bytes)
    ))?;
    if *undo_bytes > 0 {
        out.line(format_args!("the way back takes {undo_bytes} bytes ({})", Bytes(*undo_bytes)))?;
    }
    out.line(format_args!(
        "would merge {} ({}) in {}, {} flushes; nothing was written",
        Count(merge.exceptions, "exception"),
        Bytes(merge.bytes),
        Count(merge.windows, "window"),
        merge.flushes
    ))?;
    show_kept(others, str::to_owned, out)?;
    Ok(Outcome::Yes)
}
