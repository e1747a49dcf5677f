use std::path::PathBuf;

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, Error, Which, WipeOptions, WipePlan, Wiped};
use serde::Serialize;

use crate::device_arg::is_address;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::output::Output;
use crate::progress::Watch;
use crate::report::Failure;
use crate::size::{Bytes, Count};

/// Zero what a store has used of its device, before that is given away
///
/// The header, every area, and every chunk up to the last one that an exception names become zero, and the
/// snapshot is lost. What is not a store is refused, and so is a device in use. Space after that is left as it
/// is: it may hold what was merged, or what a crash kept from being listed. --all zeroes the whole device.
///
/// First the store is marked as invalid, durably, so that nobody reads half of it; the header is zeroed last.
/// After a crash, or Ctrl-C, it is an invalid store with a part of its data, or it is wiped: the same command
/// goes on. SIGUSR1 prints one line of progress.
///
/// The zeroes are what anybody reads from the device. What flash or a file system underneath keeps of old
/// blocks is out of reach.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW")]
    cow: PathBuf,

    /// The whole device, not only what the store has used
    #[arg(long)]
    all: bool,

    /// Discard the range as well, once it is zeroed
    #[arg(long)]
    discard: bool,

    /// Say what would be wiped and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Show progress even if stderr is not a terminal: one line per second
    #[arg(long)]
    progress: bool,

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  How much would be wiped?
    dmsnap wipe --dry-run snap.cow
  Before the disk goes to somebody else:
    dmsnap wipe --all --discard /dev/sdx";

/// A wipe, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    wiped: Wiped,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        if is_address(&self.cow) {
            return Err(Failure::about(&self.cow, "no store in a volume group is wiped")
                .advise("remove the snapshot with LVM; a file of that name is ./lvm:..."));
        }
        let watch = Watch::new(self.progress, None)?;
        let devices = Devices::of_cow(&self.cow.clone().into());
        let cow = devices.open(Which::Cow, Mode::Write, Caching::Buffered).await?;
        let options = WipeOptions { all: self.all, discard: self.discard };
        if self.dry_run {
            return match ops::plan_wipe(&cow, options).await {
                Ok(plan) => self.show_plan(&plan, out),
                Err(error) => Err(devices.explain(&error, &cow).await),
            };
        }
        match ops::wipe(&cow, options, &watch).await {
            Ok(wiped) => {
                watch.done();
                self.show(&Timed { wiped, seconds: watch.seconds() }, out)
            }
            Err(Error::Stopped) => Err(Failure::about(&self.cow, "stopped before all was wiped")
                .advise("the snapshot is lost; the same command goes on")),
            Err(error) => Err(devices.explain(&error, &cow).await),
        }
    }

    fn show_plan(&self, plan: &WipePlan, out: &mut Output) -> Result<Outcome, Failure> {
        if self.json {
            out.json(plan)?;
            return Ok(Outcome::Yes);
        }
        let (exceptions, bytes) = (Count(plan.exceptions, "exception"), Bytes(plan.bytes));
        out.line(format_args!("would wipe {bytes} ({exceptions}); nothing was written"))?;
        Ok(Outcome::Yes)
    }

    fn show(&self, timed: &Timed, out: &mut Output) -> Result<Outcome, Failure> {
        if self.json {
            out.json(timed)?;
            return Ok(Outcome::Yes);
        }
        let Timed { wiped: Wiped { exceptions, bytes, discarded_bytes }, seconds } = *timed;
        let discarded = if discarded_bytes > 0 { " and discarded" } else { "" };
        let (exceptions, bytes) = (Count(exceptions, "exception"), Bytes(bytes));
        out.line(format_args!("wiped{discarded} {bytes} ({exceptions}), {seconds:.1} s"))?;
        Ok(Outcome::Yes)
    }
}
