mod teller; // findings, and what is done about them

use std::fmt::Display;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use dmsnap::device::{AnyDevice, Caching, Device, File, Mode};
use dmsnap::format::{ChunkSize, SECTOR_BYTES};
use dmsnap::ops::{
    self, Condition, Duplicates, Error, RepairOptions, RepairPlan, RepairTarget, Repaired, Salvage,
    Which,
};
use dmsnap_images::refuse_raid_member;
use serde::Serialize;

use self::teller::Teller;
use super::check::open_origin;
use crate::device_arg::{DeviceArg, is_address};
use crate::devices::{Devices, access_of};
use crate::exit::Outcome;
use crate::files::{Io, NewFile, Written, new_id, open_file};
use crate::output::Output;
use crate::progress::Watch;
use crate::report::Failure;
use crate::size::{self, Bytes, Count, Sectors};

/// Make a sound store of what is left of a damaged one
///
/// Without --output and --in-place this prints the plan: everything that `dmsnap check` finds, and below each finding what a
/// repair does about it. Nothing is written, and no lock is taken.
///
/// With --output NEW the store is built there, with a copy of its data; COW is only read. NEW has no store until
/// everything in it is durable.
///
/// With --in-place the metadata is written anew where it is; data does not move. All of it that is about to be written
/// over goes to the file of --backup first: if the repair is cut off, no command takes COW for a store until `dmsnap
/// unpack` has brought the old metadata back from there.
///
/// What would be lost is named with its bytes of the origin, and is lost only with --drop: from then on the
/// snapshot shows there what the origin holds. Name ORIGIN as well: exceptions beyond its end are found by it.
///
/// An origin that begins with a store's header is not repaired; the plan says which chunk holds its first bytes.
///
/// The exit status is 0 if the store is sound or has been repaired, 1 if a plan was printed, whatever that needs,
/// and 3 if the repair that was asked for is not possible, or needs an option more.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    /// File to make, or with --force file or disk to overwrite
    ///
    /// A new file is as long as COW, or longer where the store needs it, sparse, and for those who may use COW.
    #[arg(long, value_name = "NEW")]
    output: Option<PathBuf>,

    /// Repair the store where it is
    #[arg(long, requires = "backup", conflicts_with = "output")]
    in_place: bool,

    /// File to make, with the metadata as it was
    #[arg(long, requires = "in_place", value_name = "FILE")]
    backup: Option<PathBuf>,

    /// Drop exceptions without data, and go on without those that are lost
    #[arg(long)]
    drop: bool,

    /// Which one is kept of several exceptions for one chunk of the origin whose data differ
    #[arg(long, value_enum, value_name = "WHICH")]
    duplicates: Option<Keep>,

    /// Unit of copying, whatever the header says
    ///
    /// Where the header is lost it is guessed: that size, of all possible ones, which makes a list of at least
    /// two exceptions of what is there.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_chunk_size)]
    chunk_size: Option<ChunkSize>,

    /// Make a snapshot valid again that was dropped
    ///
    /// What was written to the origin since it was dropped has not been copied: the snapshot shows that, too.
    #[arg(long)]
    revive: bool,

    /// Overwrite a NEW that exists
    #[arg(long, requires = "output")]
    force: bool,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    io: Io,

    /// Show progress even if stderr is not a terminal: one line per second
    #[arg(long)]
    progress: bool,

    /// One finding per line as a JSON object, all of them, and the plan and the result as the last line
    #[arg(long)]
    json: bool,
}

/// Which of several exceptions counts
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Keep {
    /// The first: Linux 6.1 shows it, and every merge ends with it
    First,
    /// The last: Linux 6.12 shows it
    Last,
}

const EXAMPLES: &str = "\
Examples:
  What is wrong, and what a repair would do about it:
    dmsnap repair snap.cow disk.img
  Do it, with a new store:
    dmsnap repair --output repaired.cow snap.cow disk.img
  Without room for a copy:
    dmsnap repair --in-place --backup snap.pack snap.cow disk.img
  The same as a copy where chunks are lost:
    dmsnap repair --drop --output repaired.cow snap.cow disk.img";

/// The last line of `--json`.
#[derive(Serialize)]
struct LastLine<'a> {
    plan: &'a RepairPlan,
    /// Missing if nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<Timed>,
}

/// A repair, with the time it took.
#[derive(Clone, Copy, Serialize)]
struct Timed {
    #[serde(flatten)]
    repaired: Repaired,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        if let Some(output) = self.output.as_deref().filter(|output| is_address(output)) {
            return Err(Failure::about(output, "a repair does not write to volume groups")
                .advise("name a file or a disk; a file of that name is ./lvm:..."));
        }
        let output = self.output.as_deref();
        let devices = Devices::maybe_pair(&self.cow, self.origin.as_ref(), output).await?;
        let (mode, io) = match output {
            Some(_) => (Mode::Read, self.io.into()),
            None if self.in_place => (Mode::Write, self.io.into()),
            None => (Mode::Look, Caching::Buffered),
        };
        let cow = devices.open(Which::Cow, mode, io).await?;
        let origin = open_origin(&devices, self.origin.is_some()).await?;
        let mut teller = Teller::new(out, self.json);
        let options = self.options(&devices);
        let salvage = ops::salvage(&cow, origin.as_ref(), options, |it, by| teller.tell(it, by));
        let salvage = match salvage.await {
            Ok(salvage) => salvage,
            Err(error) => {
                let failure = devices.explain(&error, &cow).await;
                return Err(match error {
                    Error::Header(_) => failure.advise("--chunk-size reads it as a store"),
                    _ => failure,
                });
            }
        };
        teller.finish()?;
        let plan = salvage.plan();
        match (output, &self.backup) {
            (Some(output), _) if !plan.sound => {
                let timed = self.copy(&devices, (&cow, &salvage), output).await?;
                self.show_repaired(plan, timed, &output.display(), out)?;
                Ok(Outcome::Yes)
            }
            (_, Some(backup)) if !plan.sound => {
                let timed = self.repair_in_place(&devices, &salvage, backup).await?;
                self.show_repaired(plan, timed, &self.cow, out)?;
                Ok(Outcome::Yes)
            }
            _ => {
                self.show_plan(plan, out)?;
                Ok(if plan.sound { Outcome::Yes } else { Outcome::No })
            }
        }
    }

    fn options(&self, devices: &Devices<'_>) -> RepairOptions {
        RepairOptions {
            drop_lost: self.drop,
            duplicates: self.duplicates.map(|keep| match keep {
                Keep::First => Duplicates::First,
                Keep::Last => Duplicates::Last,
            }),
            chunk_size: self.chunk_size,
            revive: self.revive,
            len_bytes: devices.snapshot_bytes(),
            target: match &self.cow {
                _ if !self.in_place => RepairTarget::Copy,
                DeviceArg::Path(path) => RepairTarget::InPlace { can_grow: path.is_file() },
                DeviceArg::Volume(_) => RepairTarget::InPlace { can_grow: false },
            },
        }
    }

    async fn copy(
        &self,
        devices: &Devices<'_>,
        (cow, salvage): (&AnyDevice, &Salvage<'_, AnyDevice>),
        output: &Path,
    ) -> Result<Timed, Failure> {
        salvage.refuse_unmet().map_err(|error| self.failure(devices, &error))?;
        let exists = output.symlink_metadata().is_ok();
        if exists && !self.force {
            return Err(Failure::about(output, "exists already")
                .advise("choose another name, or give --force to overwrite it"));
        }
        let watch = Watch::new(self.progress, None)?;
        let copied = async |file: &File| {
            let copied = salvage.copy_to(file, &watch).await;
            copied.map_err(|error| self.failure(devices, &error))
        };
        let repaired = if exists {
            let file = open_file(output, Mode::Write, self.io.into()).await?;
            if output.is_file() {
                let grown = file.grow(salvage.plan().needed_bytes).await;
                grown.map_err(|error| Failure::about(output, error))?;
            } else {
                refuse_raid_member(output, &file).await?;
            }
            copied(&file).await?
        } else {
            let len = cow.len_bytes().map_err(|error| Failure::about(output, error))?;
            let len = salvage.plan().needed_bytes.max(len - len % SECTOR_BYTES);
            let access = access_of(&self.cow);
            let (file, new) = NewFile::create(output, len, self.io, access).await?;
            let repaired = copied(&file).await?;
            new.keep();
            repaired
        };
        watch.done();
        Ok(Timed { repaired, seconds: watch.seconds() })
    }

    async fn repair_in_place(
        &self,
        devices: &Devices<'_>,
        salvage: &Salvage<'_, AnyDevice>,
        backup: &Path,
    ) -> Result<Timed, Failure> {
        salvage.refuse_unmet().map_err(|error| self.failure(devices, &error))?;
        let mut written = Written::create(backup)?;
        salvage.back_up(&mut written).await.map_err(|error| match error {
            Error::Consumer(error) => Failure::about(backup, error),
            error => self.failure(devices, &error),
        })?;
        written.finish()?;
        let watch = Watch::new(self.progress, None)?;
        let repaired = salvage.in_place(new_id()?, &watch).await;
        let repaired = repaired.map_err(|error| {
            let failure = self.failure(devices, &error);
            match error {
                Error::CowTooSmall { .. } => failure.advise("--output makes a copy"),
                _ => failure.advise(format_args!(
                    "`dmsnap unpack --force {} {}` brings the old metadata back",
                    backup.display(),
                    self.cow
                )),
            }
        })?;
        watch.done();
        Ok(Timed { repaired, seconds: watch.seconds() })
    }

    fn failure(&self, devices: &Devices<'_>, error: &Error) -> Failure {
        let failure = devices.failure(error);
        match error {
            Error::Needs(condition) => match wanted(*condition) {
                Some(option) => failure.advise(format_args!("{option} goes on")),
                None => failure,
            },
            Error::NoRoomForStore { .. } => failure.advise("give a larger device"),
            Error::Stopped => failure.advise("the same command begins again"),
            _ => failure,
        }
    }

    fn show_plan(&self, plan: &RepairPlan, out: &mut Output) -> Result<(), Failure> {
        if self.json {
            return out.json(&LastLine { plan, repaired: None });
        }
        if plan.sound {
            return out.line("sound, nothing to do");
        }
        if let Some(sectors) = plan.chunk_size_sectors {
            out.line(format_args!(
                "would keep {} of {}, with chunks of {}; a copy needs {}",
                plan.kept,
                Count(plan.exceptions, "exception"),
                Sectors(sectors.into()),
                Bytes(plan.needed_bytes),
            ))?;
        }
        for condition in &plan.needs {
            match wanted(*condition) {
                Some(option) => out.line(format_args!("needs {option}: {condition}"))?,
                None => out.line(condition)?,
            }
        }
        out.line("nothing was written")
    }

    fn show_repaired(
        &self,
        plan: &RepairPlan,
        timed: Timed,
        store: &dyn Display,
        out: &mut Output,
    ) -> Result<(), Failure> {
        if self.json {
            return out.json(&LastLine { plan, repaired: Some(timed) });
        }
        let Timed { repaired, seconds } = timed;
        let shared = match repaired.shared_bytes {
            0 => String::new(),
            bytes => format!(", {} of it shared", Bytes(bytes)),
        };
        out.line(format_args!(
            "repaired {}{store}: {} of {} ({}{shared}), {seconds:.1} s",
            if self.in_place { "" } else { "to " },
            repaired.exceptions,
            Count(plan.exceptions, "exception"),
            Bytes(repaired.bytes),
        ))
    }
}

/// The option that says what a repair has to know, if there is one.
fn wanted(condition: Condition) -> Option<&'static str> {
    match condition {
        Condition::ChunkSize => Some("--chunk-size"),
        Condition::Revive => Some("--revive"),
        Condition::Duplicates => Some("--duplicates"),
        Condition::Drop => Some("--drop"),
        _ => None,
    }
}
