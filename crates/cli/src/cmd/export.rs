use std::path::{Path, PathBuf};

use dmsnap::device::{Allocation, AnyDevice, Device, File, Mode};
use dmsnap::format::SECTOR_BYTES;
use dmsnap::ops::{self, ExportOptions, Exported, MergeOptions, Which};
use serde::Serialize;

use crate::devices::{Devices, Io, NewFile, open_file};
use crate::exit::Outcome;
use crate::output::Output;
use crate::place::{Place, is_address};
use crate::progress::Watch;
use crate::report::Failure;
use crate::size::{Bytes, Count};

/// Write the snapshot's content as a raw image
///
/// OUTPUT becomes as long as the origin and holds what the snapshot shows: the store's chunks where
/// there are exceptions, the origin's elsewhere. What is zero stays a hole. COW and ORIGIN are only
/// read, under a shared lock.
///
/// OUTPUT must not exist, and is removed again if the export fails. With --force a file is emptied
/// first and a block device zeroed as far as the origin is long, after the store was checked.
///
/// Ctrl-C (or SIGTERM) ends the export. SIGUSR1 prints one line of progress.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap export [OPTIONS] <COW> <ORIGIN> <OUTPUT>
       dmsnap export [OPTIONS] <lvm:IMAGE[,IMAGE]...:VG/SNAPSHOT> <OUTPUT>")]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = Place::parser())]
    cow: Place,

    /// Its origin; left out if COW is a snapshot of LVM's
    #[arg(value_name = "ORIGIN", value_parser = Place::parser())]
    origin: Option<Place>,

    /// Image to make, or with --force to overwrite
    #[arg(value_name = "OUTPUT", required = true)]
    output: PathBuf,

    #[command(flatten)]
    options: Options,
}

/// How to export.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Overwrite an OUTPUT that exists
    #[arg(long)]
    force: bool,

    /// Export a snapshot that was dropped, too
    ///
    /// The origin may have changed since without copies: chunks without an exception show what it
    /// holds now.
    #[arg(long)]
    allow_invalid: bool,

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
  The snapshot as an image:
    dmsnap export snap.cow disk.img snap.img
  From LVM's devices to a spare disk:
    dmsnap export --force /dev/mapper/vg0-snap-cow /dev/mapper/vg0-lv-real /dev/sdx
  A snapshot of LVM's, from a disk image:
    dmsnap export lvm:disk.img:vg0/snap snap.img
  What an overflowed snapshot still has:
    dmsnap export --allow-invalid snap.cow disk.img rescued.img";

/// An export, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    exported: Exported,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let origin = self.origin.as_ref();
        Export::new(&self.cow, origin, &self.output, &self.options).await?.run(out).await
    }
}

/// An export with its devices named.
pub(super) struct Export<'a> {
    devices: Devices<'a>,
    output: &'a Path,
    options: &'a Options,
}

impl<'a> Export<'a> {
    pub(super) async fn new(
        cow: &Place,
        origin: Option<&Place>,
        output: &'a Path,
        options: &'a Options,
    ) -> Result<Self, Failure> {
        if output.to_str().is_some_and(is_address) {
            return Err(Failure::about(output, "an export does not write to volume groups")
                .advise("name a file or a disk; a file of that name is ./lvm:..."));
        }
        let devices = Devices::pair(cow, origin, Some(output)).await?;
        Ok(Self { devices, output, options })
    }

    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let Self { devices, options, .. } = self;
        let exists = self.output.symlink_metadata().is_ok();
        if exists && !options.force {
            return Err(Failure::about(self.output, "exists already")
                .advise("choose another name, or give --force to overwrite it"));
        }
        let watch = Watch::new(options.progress, None)?;
        let cow = devices.open(Which::Cow, Mode::Read, options.io).await?;
        let origin = devices.open(Which::Origin, Mode::Read, options.io).await?;
        let len =
            origin.len_bytes().map_err(|error| Failure::of(&devices.name(Which::Origin), error))?;
        let len = len - len % SECTOR_BYTES;
        let exported = if exists {
            let output = open_file(self.output, Mode::Write, options.io.into()).await?;
            self.refuse_doubtful((&cow, &origin)).await?;
            empty(self.output, &output, len).await?;
            self.export((&cow, &origin, &output), &watch).await?
        } else {
            let (output, new) = NewFile::create(self.output, len, options.io).await?;
            let exported = self.export((&cow, &origin, &output), &watch).await?;
            new.keep();
            exported
        };
        watch.done();
        self.show(&Timed { exported, seconds: watch.seconds() }, out)?;
        Ok(Outcome::Yes)
    }

    async fn export(
        &self,
        (cow, origin, output): (&AnyDevice, &AnyDevice, &File),
        watch: &Watch,
    ) -> Result<Exported, Failure> {
        let options = ExportOptions { allow_invalid: self.options.allow_invalid };
        ops::export(cow, origin, output, options, watch)
            .await
            .map_err(|error| self.export_failure(&error))
    }

    /// An old output is worth more than an export that cannot be done, so what an export refuses is
    /// looked for before the output is emptied: the same as a merge does.
    async fn refuse_doubtful(
        &self,
        (cow, origin): (&AnyDevice, &AnyDevice),
    ) -> Result<(), Failure> {
        let options = MergeOptions { force: true, ..MergeOptions::default() };
        match ops::plan_merge(cow, origin, options).await {
            Err(ops::Error::Invalid) if self.options.allow_invalid => Ok(()),
            Err(error) => Err(self.export_failure(&error)),
            Ok(_) => Ok(()),
        }
    }

    fn export_failure(&self, error: &ops::Error) -> Failure {
        let failure = self.devices.failure(error);
        match error {
            ops::Error::Invalid => failure.advise("--allow-invalid exports it all the same"),
            ops::Error::Stopped => Failure::about(self.output, "stopped before it was whole")
                .advise("the same command begins again"),
            _ => failure,
        }
    }

    fn show(&self, timed: &Timed, out: &mut Output) -> Result<(), Failure> {
        if self.options.json {
            return out.json(timed);
        }
        let Timed { exported, seconds } = timed;
        let shared = match exported.shared_bytes {
            0 => String::new(),
            bytes => format!(", {} shared", Bytes(bytes)),
        };
        out.line(format_args!(
            "exported {} ({} written{shared}) with {}, {seconds:.1} s",
            Bytes(exported.image_bytes),
            Bytes(exported.written_bytes),
            Count(exported.exceptions, "exception"),
        ))
    }
}

/// Makes an output that exists read as zeroes over the length of the image.
async fn empty(path: &Path, output: &File, len: u64) -> Result<(), Failure> {
    let failure = |error| Failure::about(path, format_args!("cannot be emptied: {error}"));
    if path.metadata().map_err(failure)?.is_file() {
        output.set_len(0).await.map_err(failure)?;
        return output.set_len(len).await.map_err(failure);
    }
    let found = output.len_bytes().map_err(failure)?;
    if found < len {
        return Err(Failure::about(
            path,
            format_args!("has {found} bytes, but the origin has {len}"),
        )
        .advise("give a larger device"));
    }
    output.write_zeroes(0, len, Allocation::MayPunch).await.map_err(failure)
}
