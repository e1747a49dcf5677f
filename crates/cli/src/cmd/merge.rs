use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, MergeOptions, MergePlan, Merged, Which};
use serde::Serialize;

use crate::cmd::lvm::merge::{InGroup, merge_snapshot};
use crate::devices::{Devices, Io, overlap};
use crate::exit::Outcome;
use crate::lvm::{Images, Scan, advise};
use crate::output::Output;
use crate::place::{Address, Place};
use crate::progress::Watch;
use crate::report::Failure;
use crate::size::{self, Bytes, Count};

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
/// A snapshot of LVM's (lvm:IMAGE:VG/SNAPSHOT, without ORIGIN) is merged as `dmsnap lvm merge` does
/// it: other snapshots keep what they show, and it is removed from the volume group.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap merge [OPTIONS] <COW> <ORIGIN>
       dmsnap merge [OPTIONS] <lvm:IMAGE[,IMAGE]...:VG/SNAPSHOT>")]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = Place::parser())]
    cow: Place,

    /// Its origin; left out if COW is a snapshot of LVM's
    #[arg(value_name = "ORIGIN", value_parser = Place::parser())]
    origin: Option<Place>,

    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    in_group: InGroup,
}

/// How to merge.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Check everything and tell what would be done, but write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Most bytes a second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    rate: Option<u64>,

    /// Most data in one window; two windows are in memory at a time
    ///
    /// Larger windows take fewer flushes and larger requests. With --rate, a window is at most
    /// what a second moves; it is always at least one chunk. By default it is a 32nd of the
    /// machine's memory, but not less than 32M and not more than 256M.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    window: Option<u64>,

    /// Copy, even where both files could share extents instead
    #[arg(long)]
    no_share: bool,

    /// Go on although the origin begins with a store's header, or exceptions were lost
    ///
    /// Either is what a defect of kernels leaves; `dmsnap check` tells.
    #[arg(long)]
    force: bool,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub(crate) io: Io,

    /// Show progress even if stderr is no terminal: a line a second
    #[arg(long)]
    progress: bool,

    /// The result as a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  What it would do:
    dmsnap merge --dry-run snap.cow disk.img
  Do it:
    dmsnap merge snap.cow disk.img
  Beside other work on the disks:
    dmsnap merge --rate 50M /dev/mapper/vg0-snap-cow /dev/mapper/vg0-lv-real";

/// A merge, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    merged: Merged,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let own = match &self.cow {
            Place::Volume(address) => address.origin().await?.map(|origin| (address, origin)),
            Place::Path(_) => None,
        };
        if let Some((snapshot, own)) = own {
            self.refuse_foreign(&own)?;
            return merge_snapshot(snapshot, &self.options, &self.in_group, out).await;
        }
        if self.in_group.is_given() {
            return Err(Failure::of(&self.cow.to_string(), "is no snapshot in a volume group")
                .advise("--no-metadata, --backup and --drop-full are for those"));
        }
        let devices = Devices::pair(&self.cow, self.origin.as_ref(), None).await?;
        if let Some(Place::Volume(origin)) = &self.origin {
            refuse_with_snapshots(origin).await?;
        }
        match self.options.dry_run {
            true => self.plan(&devices, out).await,
            false => self.merge(&devices, out).await,
        }
    }

    /// A snapshot whose exceptions went elsewhere would be lost to its own origin.
    fn refuse_foreign(&self, own: &Address) -> Result<(), Failure> {
        let own = Place::Volume(own.clone());
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
        let cow = devices.open(Which::Cow, Mode::Look, options.io).await?;
        let origin = devices.open(Which::Origin, Mode::Look, options.io).await?;
        let plan = ops::plan_merge(&cow, &origin, options.merge_options())
            .await
            .map_err(|error| advise(devices.failure(&error), &error))?;
        match options.json {
            true => out.json(&plan)?,
            false => show_plan(plan, out)?,
        }
        Ok(Outcome::Yes)
    }

    async fn merge(&self, devices: &Devices<'_>, out: &mut Output) -> Result<Outcome, Failure> {
        let options = &self.options;
        let watch = options.watch()?;
        let cow = devices.open(Which::Cow, Mode::Write, options.io).await?;
        let origin = devices.open(Which::Origin, Mode::Write, options.io).await?;
        let merged = ops::merge(cow, origin, options.merge_options(), &watch)
            .await
            .map_err(|error| advise(devices.failure(&error), &error))?;
        watch.done();
        let timed = Timed { merged, seconds: watch.seconds() };
        match options.json {
            true => out.json(&timed)?,
            false => show(&timed, out)?,
        }
        match merged.finished {
            true => Ok(Outcome::Yes),
            false => Err(stopped(&self.cow.to_string(), merged)),
        }
    }
}

impl Options {
    pub(super) fn merge_options(&self) -> MergeOptions {
        let window = self.window.unwrap_or_else(usual_window);
        let window_bytes = window.min(self.rate.unwrap_or(u64::MAX));
        let (share, force) = (!self.no_share, self.force);
        MergeOptions { window_bytes, share, force, ..MergeOptions::default() }
    }

    pub(super) fn watch(&self) -> Result<Watch, Failure> {
        Watch::new(self.progress, self.rate)
    }
}

/// What the machine's memory has room for, in bytes.
fn usual_window() -> u64 {
    let memory = rustix::system::sysinfo();
    let bytes = memory.totalram.saturating_mul(memory.mem_unit.into());
    (bytes / 32).clamp(32 << 20, 256 << 20)
}

/// Writing to an origin of LVM's changes what its snapshots show.
async fn refuse_with_snapshots(origin: &Address) -> Result<(), Failure> {
    let images = Images::default();
    let scan = Scan::of(&images, &origin.images, Mode::Look, Caching::Buffered).await?;
    let group = scan.group_of(&origin.name)?;
    match group.found.vg.snapshots_of(&origin.name.volume).next() {
        None => Ok(()),
        Some(snapshot) => {
            let found = format_args!("has the snapshot {}, which must not change", snapshot.name);
            Err(group
                .failure(&origin.name.volume, found)
                .advise("only its own snapshots are merged into it, with `dmsnap lvm merge`"))
        }
    }
}

pub(super) fn stopped(cow: &str, merged: Merged) -> Failure {
    let done = Count(merged.exceptions, "exception");
    let found = format_args!(
        "stopped: {done} merged, {} left; origin and store are consistent together",
        merged.left
    );
    Failure::of(cow, found).advise("the same command goes on")
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
