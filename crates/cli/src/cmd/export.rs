use std::path::{Path, PathBuf};

use dmsnap::device::{Allocation, Device, File, Mode};
use dmsnap::format::SECTOR_BYTES;
use dmsnap::ops::{self, ExportOptions, Exported, MergeOptions, Which};
use serde::Serialize;

use crate::devices::{Devices, Io, NewFile};
use crate::exit::Outcome;
use crate::output::Output;
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
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW")]
    cow: PathBuf,

    /// Its origin
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    /// Image to make, or with --force to overwrite
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

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
        let devices = Devices::new(&self.cow, Some(&self.origin), Some(&self.output))?;
        let exists = self.output.symlink_metadata().is_ok();
        if exists && !self.force {
            return Err(Failure::about(&self.output, "exists already")
                .advise("choose another name, or give --force to overwrite it"));
        }
        let watch = Watch::new(self.progress, None)?;
        let cow = devices.open(Which::Cow, Mode::Read, self.io).await?;
        let origin = devices.open(Which::Origin, Mode::Read, self.io).await?;
        let len = origin.len_bytes().map_err(|error| Failure::about(&self.origin, error))?;
        let len = len - len % SECTOR_BYTES;
        let exported = if exists {
            let output = devices.open(Which::Output, Mode::Write, self.io).await?;
            self.refuse_doubtful(&devices, (&cow, &origin)).await?;
            empty(&self.output, &output, len).await?;
            self.export(&devices, (&cow, &origin, &output), &watch).await?
        } else {
            let (output, new) = NewFile::create(&self.output, len, self.io).await?;
            let exported = self.export(&devices, (&cow, &origin, &output), &watch).await?;
            new.keep();
            exported
        };
        watch.done();
        self.show(&Timed { exported, seconds: watch.seconds() }, out)?;
        Ok(Outcome::Yes)
    }

    async fn export(
        &self,
        devices: &Devices<'_>,
        (cow, origin, output): (&File, &File, &File),
        watch: &Watch,
    ) -> Result<Exported, Failure> {
        let options = ExportOptions { allow_invalid: self.allow_invalid };
        ops::export(cow, origin, output, options, watch)
            .await
            .map_err(|error| self.export_failure(devices, &error))
    }

    /// An old output is worth more than an export that cannot be done, so what an export refuses is
    /// looked for before the output is emptied: the same as a merge does.
    async fn refuse_doubtful(
        &self,
        devices: &Devices<'_>,
        (cow, origin): (&File, &File),
    ) -> Result<(), Failure> {
        let options = MergeOptions { force: true, ..MergeOptions::default() };
        match ops::plan_merge(cow, origin, options).await {
            Err(ops::Error::Invalid) if self.allow_invalid => Ok(()),
            Err(error) => Err(self.export_failure(devices, &error)),
            Ok(_) => Ok(()),
        }
    }

    fn export_failure(&self, devices: &Devices<'_>, error: &ops::Error) -> Failure {
        let failure = devices.failure(error);
        match error {
            ops::Error::Invalid => failure.advise("--allow-invalid exports it all the same"),
            ops::Error::Stopped => Failure::about(&self.output, "stopped before it was whole")
                .advise("the same command begins again"),
            _ => failure,
        }
    }

    fn show(&self, timed: &Timed, out: &mut Output) -> Result<(), Failure> {
        if self.json {
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
