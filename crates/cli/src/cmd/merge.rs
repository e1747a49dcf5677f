use std::path::PathBuf;

use dmsnap::device::{AnyDevice, Mode};
use dmsnap::ops::{self, MergeOptions, MergePlan, Merged, Other, Which};
use dmsnap_images::Scan;
use dmsnap_serve::OnFull;
use serde::Serialize;

use super::lvm::merge::merge_snapshot;
use super::merging::{InGroup, Options, Planned, show_kept, show_plan_with_others, stopped};
use super::undoable::Task;
use crate::device_arg::{Address, DeviceArg};
use crate::devices::{Devices, origin_of, overlap};
use crate::exit::Outcome;
use crate::files::Io;
use crate::output::Output;
use crate::refusals::{about_volume, advise_merge, no_room, warn};
use crate::report::Failure;
use crate::size::{Bytes, Count};

/// Copy the snapshot's chunks back to the origin
///
/// Afterwards the origin holds what the snapshot showed, and the store is empty. The merge goes
/// in windows, from the newest exception back; a window's exceptions are cleared only when its
/// data is durable on the origin. So it may be stopped, killed or cut off at any time: the same
/// command goes on where it was, and so does a kernel.
///
/// Both devices are locked; a device that is mounted or mapped is refused. Everything is checked
/// before anything is written.
///
/// Ctrl-C (or SIGTERM) stops between two windows, and the last line tells how far it came. A second
/// one kills. SIGUSR1 prints one line of progress.
///
/// An LVM snapshot (lvm:IMAGE:VG/SNAPSHOT, without ORIGIN) is merged as `dmsnap lvm merge` does
/// it: other snapshots keep what they show, and it is removed from the volume group.
///
/// Elsewhere other snapshots of the origin are not known: name each with --keep, or what it shows
/// changes with the origin. They get the old data first; one that has no room for it is refused, or dropped
/// with --drop-full.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap merge [OPTIONS] <COW> <ORIGIN>
       dmsnap merge [OPTIONS] <lvm:IMAGE[,IMAGE]...:VG/SNAPSHOT>")]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin; left out if COW is an LVM snapshot
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    /// COW device of another snapshot of ORIGIN, which keeps what it shows; may be repeated
    ///
    /// A merge that was stopped is finished by the same command, with the same --keep.
    #[arg(long, value_name = "COW", value_parser = DeviceArg::parser())]
    keep: Vec<DeviceArg>,

    /// Keep a way back in UNDO: `dmsnap undo COW ORIGIN UNDO` then takes the merge back
    ///
    /// What the merge writes over is kept there first. UNDO is a file that is made, with the size that is needed
    /// (--dry-run tells it), or a blank device. A merge that was stopped is finished by the same command, and
    /// cancelled by `dmsnap undo`. While both stores are kept, nobody may write ORIGIN without UNDO: serve both.
    #[arg(long, value_name = "UNDO", value_parser = DeviceArg::parser())]
    undo: Option<DeviceArg>,

    /// Merge although the way back is lost by that: where it is kept while a server merges
    #[arg(long, conflicts_with = "undo")]
    forget_undo: bool,

    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    in_group: InGroup,
}

const EXAMPLES: &str = "\
Examples:
  What it would do:
    dmsnap merge --dry-run snap.cow disk.img
  Do it:
    dmsnap merge snap.cow disk.img
  The same, and another snapshot of the disk keeps what it shows:
    dmsnap merge --keep other.cow snap.cow disk.img
  The same, with a way back:
    dmsnap merge --undo undo.cow snap.cow disk.img";

/// A merge, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    merged: Merged,
    seconds: f64,
}

/// A merge that other snapshots did not notice.
#[derive(Serialize)]
struct Keeping {
    finished: bool,
    exceptions: u64,
    left: u64,
    bytes: u64,
    /// Those of --keep.
    others: Vec<ops::Kept>,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let own = match &self.cow {
            DeviceArg::Volume(address) => {
                origin_of(address).await?.map(|(origin, _)| (address, origin))
            }
            DeviceArg::Path(_) => None,
        };
        if let Some((snapshot, own)) = own {
            self.refuse_foreign(&own)?;
            if let Some(other) = self.keep.first() {
                return Err(Failure::of(&other.to_string(), "cannot be named here")
                    .advise("a volume group knows the other snapshots, and they are kept"));
            }
            let undo = self.undo.as_ref().map(|undo| PathBuf::from(undo.clone().into_os_string()));
            let options = (&self.options, &self.in_group, undo.as_deref());
            return merge_snapshot(snapshot, options, out).await;
        }
        if self.in_group.is_given() || self.in_group.drop_full && self.keep.is_empty() {
            return Err(Failure::of(&self.cow.to_string(), "is not a snapshot in a volume group")
                .advise("--no-metadata, --backup and --drop-full are for those"));
        }
        let devices = Devices::pair(&self.cow, self.origin.as_ref(), None).await?;
        if let Some(DeviceArg::Volume(origin)) = &self.origin {
            refuse_with_snapshots(origin).await?;
        }
        if let Some(undo) = &self.undo {
            let task = Task {
                devices: &devices,
                cow: &self.cow,
                undo,
                keep: &self.keep,
                drop_full: self.in_group.drop_full,
                drop_snapshot: false,
                options: &self.options,
            };
            return task.merge(out).await;
        }
        match (self.keep.is_empty(), self.options.dry_run) {
            (true, true) => self.plan(&devices, out).await,
            (true, false) => self.merge(&devices, out).await,
            (false, _) => self.merge_keeping(&devices, out).await,
        }
    }

    /// Plans or merges, with other snapshots of the origin.
    async fn merge_keeping(
        &self,
        devices: &Devices<'_>,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        let (options, drop_full) = (&self.options, self.in_group.drop_full);
        let (cow, origin) = open_pair(devices, options.io).await?;
        devices.warn_of_image(&origin).await;
        let mut others = Vec::new();
        for place in &self.keep {
            let device = devices.open_other(&self.keep, place, options.io).await?;
            others.push(Other { name: place.to_string(), cow: device, len_bytes: None });
        }
        let failed = |error: ops::Error| advise_merge(devices.failure(&error), &error);
        let planned = ops::plan_merge_keeping(&cow, &origin, &others, self.merge_options());
        let (plan, kept) = planned.await.map_err(failed)?;
        if let Some(full) = kept.iter().find(|it| !it.valid && !drop_full) {
            return Err(no_room(&full.name, full.chunks));
        }
        if options.dry_run {
            let MergePlan { exceptions, bytes, .. } = plan;
            show_plan_with_others(Planned { exceptions, bytes, others: kept }, options.json, out)?;
            return Ok(Outcome::Yes);
        }
        let watch = options.watch()?;
        let on_full = if drop_full { OnFull::Invalidate } else { OnFull::Fail };
        let merged = ops::merge_keeping(cow, origin, others, self.merge_options(), on_full, &watch);
        let (merged, others) = merged.await.map_err(failed)?;
        watch.done();
        let Merged { finished, exceptions, left, bytes, .. } = merged;
        let seconds = watch.seconds();
        let done = Keeping { finished, exceptions, left, bytes, others, seconds };
        match options.json {
            true => out.json(&done)?,
            false => {
                out.line(format_args!(
                    "merged {} ({}), {seconds:.1} s",
                    Count(exceptions, "exception"),
                    Bytes(bytes)
                ))?;
                show_kept(&done.others, str::to_owned, out)?;
            }
        }
        self.ended(merged)
    }

    fn merge_options(&self) -> MergeOptions {
        MergeOptions { forget_undo: self.forget_undo, ..self.options.merge_options() }
    }

    fn ended(&self, merged: Merged) -> Result<Outcome, Failure> {
        match merged.finished {
            true => Ok(Outcome::Yes),
            false => Err(Failure::of(&self.cow.to_string(), stopped(merged))
                .advise("the same command goes on")),
        }
    }

    /// A snapshot whose exceptions went elsewhere would be lost to its own origin.
    fn refuse_foreign(&self, own: &Address) -> Result<(), Failure> {
        let own = DeviceArg::Volume(own.clone());
        match &self.origin {
            Some(origin) if overlap(&own, origin).is_none() => {
                let found = format!("is a snapshot of {own}");
                Err(Failure::of(&self.cow.to_string(), found)
                    .advise("leave ORIGIN out; `dmsnap export` makes an image of it"))
            }
            _ => Ok(()),
        }
    }

    async fn plan(&self, devices: &Devices<'_>, out: &mut Output) -> Result<Outcome, Failure> {
        let options = &self.options;
        let (cow, origin) = open_pair(devices, options.io).await?;
        devices.warn_of_image(&origin).await;
        let plan = match ops::plan_merge(&cow, &origin, self.merge_options()).await {
            Ok(plan) => plan,
            Err(error) => return Err(advise_merge(devices.explain(&error, &cow).await, &error)),
        };
        match options.json {
            true => out.json(&plan)?,
            false => show_plan(plan, out)?,
        }
        Ok(Outcome::Yes)
    }

    async fn merge(&self, devices: &Devices<'_>, out: &mut Output) -> Result<Outcome, Failure> {
        let options = &self.options;
        let watch = options.watch()?;
        let (cow, origin) = open_pair(devices, options.io).await?;
        devices.warn_of_image(&origin).await;
        let merged = match ops::merge(&cow, &origin, self.merge_options(), &watch).await {
            Ok(merged) => merged,
            Err(error) => return Err(advise_merge(devices.explain(&error, &cow).await, &error)),
        };
        watch.done();
        let timed = Timed { merged, seconds: watch.seconds() };
        match options.json {
            true => out.json(&timed)?,
            false => show(&timed, out)?,
        }
        self.ended(merged)
    }
}

/// For a merge and for a dry run of it, which refuses the same: it needs what the merge needs, and takes the
/// same locks.
async fn open_pair(devices: &Devices<'_>, io: Io) -> Result<(AnyDevice, AnyDevice), Failure> {
    let cow = devices.open(Which::Cow, Mode::Write, io).await?;
    let origin = devices.open(Which::Origin, Mode::Write, io).await?;
    Ok((cow, origin))
}

/// Writing to an LVM origin changes what its snapshots show.
async fn refuse_with_snapshots(origin: &Address) -> Result<(), Failure> {
    let scan = Scan::look(&origin.images, warn).await?;
    let group = scan.group_of(&origin.name)?;
    match group.found.vg.snapshots_of(&origin.name.volume).next() {
        None => Ok(()),
        Some(snapshot) => {
            let found = format_args!("has the snapshot {}, which must not change", snapshot.name);
            Err(about_volume(group, &origin.name.volume, found)
                .advise("only its own snapshots are merged into it, with `dmsnap lvm merge`"))
        }
    }
}

fn show_plan(plan: MergePlan, out: &mut Output) -> Result<(), Failure> {
    out.line(format_args!(
        "would merge {} ({}) in {}, {} flushes; nothing was written",
        Count(plan.exceptions, "exception"),
        Bytes(plan.bytes),
        Count(plan.windows, "window"),
        plan.flushes,
    ))
}

fn show(timed: &Timed, out: &mut Output) -> Result<(), Failure> {
    let Timed { merged, seconds } = timed;
    let shared = match merged.shared_bytes {
        0 => String::new(),
        bytes => format!(", {} of it shared", Bytes(bytes)),
    };
    out.line(format_args!(
        "merged {} ({}{shared}) in {}, {seconds:.1} s",
        Count(merged.exceptions, "exception"),
        Bytes(merged.bytes),
        Count(merged.windows, "window"),
    ))?;
    out.line(format_args!(
        "flushes: {} of the origin, {} of the COW device; metadata writes: {}",
        merged.origin_flushes, merged.cow_flushes, merged.metadata_writes
    ))
}
