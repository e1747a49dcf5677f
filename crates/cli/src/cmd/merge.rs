use std::path::{Path, PathBuf};

use dmsnap::device::Mode;
use dmsnap::ops::{self, MergeOptions, MergePlan, Merged, Which};
use serde::Serialize;

use crate::devices::{Devices, Io};
use crate::exit::Outcome;
use crate::output::Output;
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
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW")]
    cow: PathBuf,

    /// Its origin
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    /// Check everything and tell what would be done, but write nothing
    #[arg(long)]
    dry_run: bool,

    /// Most bytes a second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    rate: Option<u64>,

    /// Most data in one window; two windows are in memory at a time
    ///
    /// Larger windows take fewer flushes and larger requests. With --rate, a window is at most
    /// what a second moves; it is always at least one chunk.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    window: u64,

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
    io: Io,

    /// Show progress even if stderr is no terminal: a line a second
    #[arg(long)]
    progress: bool,

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
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
        let devices = Devices::new(&self.cow, Some(&self.origin), None)?;
        match self.dry_run {
            true => self.plan(&devices, out).await,
            false => self.merge(&devices, out).await,
        }
    }

    async fn plan(&self, devices: &Devices<'_>, out: &mut Output) -> Result<Outcome, Failure> {
        let cow = devices.open(Which::Cow, Mode::Look, self.io).await?;
        let origin = devices.open(Which::Origin, Mode::Look, self.io).await?;
        let plan = ops::plan_merge(&cow, &origin, self.options())
            .await
            .map_err(|error| self.merge_failure(devices, &error))?;
        match self.json {
            true => out.json(&plan)?,
            false => show_plan(plan, out)?,
        }
        Ok(Outcome::Yes)
    }

    async fn merge(&self, devices: &Devices<'_>, out: &mut Output) -> Result<Outcome, Failure> {
        let watch = Watch::new(self.progress, self.rate)?;
        let cow = devices.open(Which::Cow, Mode::Write, self.io).await?;
        let origin = devices.open(Which::Origin, Mode::Write, self.io).await?;
        let merged = ops::merge(cow, origin, self.options(), &watch)
            .await
            .map_err(|error| self.merge_failure(devices, &error))?;
        watch.done();
        let timed = Timed { merged, seconds: watch.seconds() };
        match self.json {
            true => out.json(&timed)?,
            false => show(&timed, out)?,
        }
        match merged.finished {
            true => Ok(Outcome::Yes),
            false => Err(stopped(&self.cow, merged)),
        }
    }

    fn options(&self) -> MergeOptions {
        let window_bytes = self.window.min(self.rate.unwrap_or(u64::MAX));
        MergeOptions { window_bytes, share: !self.no_share, force: self.force }
    }

    fn merge_failure(&self, devices: &Devices<'_>, error: &ops::Error) -> Failure {
        let failure = devices.failure(error);
        match error {
            ops::Error::OriginIsStore => failure.advise("if it is the origin, --force goes on"),
            ops::Error::FrontZeroed { .. } => failure.advise("--force merges what is left"),
            ops::Error::Invalid => failure.advise("it cannot be merged"),
            _ => failure,
        }
    }
}

fn stopped(cow: &Path, merged: Merged) -> Failure {
    let done = Count(merged.exceptions, "exception");
    let found = format_args!(
        "stopped: {done} merged, {} left; origin and store are consistent together",
        merged.left
    );
    Failure::about(cow, found).advise("the same command goes on")
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
