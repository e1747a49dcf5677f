use std::path::{Path, PathBuf};

use dmsnap::device::{Allocation, AnyDevice, Device, File, Mode};
use dmsnap::ops::{self, ExportOptions, Exported, MergeOptions, Which};
use dmsnap_images::refuse_raid_member;
use serde::Serialize;

use crate::device_arg::{DeviceArg, is_address};
use crate::devices::{Devices, VirtualSize};
use crate::exit::Outcome;
use crate::files::{Io, NewFile, open_file};
use crate::output::Output;
use crate::progress::Watch;
use crate::report::Failure;
use crate::size::{Bytes, Count};
use crate::stream::{Stream, named};

/// Write the snapshot's content as a raw image
///
/// OUTPUT becomes as long as the snapshot, which is as long as its origin (or shorter, where LVM knows that
/// the origin was extended later), and holds what the snapshot shows: the store's chunks where
/// there are exceptions, the origin's elsewhere. What is zero stays a hole. COW and ORIGIN are only
/// read, under a shared lock.
///
/// A new OUTPUT belongs to the user who has ORIGIN, with its mode: who may not read ORIGIN may not read
/// OUTPUT.
///
/// OUTPUT may also be - (standard output), a named pipe or a Unix socket: the image is written from front to
/// back, holes as zeroes. If it goes to standard output, the result is reported on stderr.
///
/// Any other OUTPUT must not exist, and is removed again if the export fails. With --force a file is emptied
/// first and a block device zeroed as far as the snapshot is long, after the store was checked.
///
/// Ctrl-C (or SIGTERM) ends the export. SIGUSR1 prints one line of progress.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap export [OPTIONS] <COW> <ORIGIN> <OUTPUT>
       dmsnap export [OPTIONS] <lvm:IMAGE[,IMAGE]...:VG/SNAPSHOT> <OUTPUT>")]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin; left out if COW is an LVM snapshot
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    /// Image to make, or with --force to overwrite; - is standard output
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

    /// Go on although the origin is not what the store remembers of it (`dmsnap create --base`)
    #[arg(long)]
    no_fence: bool,

    #[command(flatten)]
    size: VirtualSize,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    io: Io,

    /// Show progress even if stderr is not a terminal: one line per second
    #[arg(long)]
    progress: bool,

    /// The result as a JSON object; on stderr, if the image goes to standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  The snapshot as an image:
    dmsnap export snap.cow disk.img snap.img
  From LVM's devices to a spare disk:
    dmsnap export --force /dev/mapper/vg0-snap-cow /dev/mapper/vg0-lv-real /dev/sdx
  Compressed, over the network:
    dmsnap export snap.cow disk.img - | zstd | ssh backup 'cat > snap.img.zst'
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
        cow: &DeviceArg,
        origin: Option<&DeviceArg>,
        output: &'a Path,
        options: &'a Options,
    ) -> Result<Self, Failure> {
        if is_address(output) {
            return Err(Failure::about(output, "an export does not write to volume groups")
                .advise("name a file or a disk; a file of that name is ./lvm:..."));
        }
        // Standard output may be the file that is exported.
        let devices = Devices::pair(cow, origin, Some(named(output))).await?;
        let devices = devices.of_size(&options.size);
        Ok(Self { devices, output, options })
    }

    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let Self { devices, options, .. } = self;
        if let Some(stream) = Stream::open(self.output).await? {
            return self.stream(stream, out).await;
        }
        let exists = self.output.symlink_metadata().is_ok();
        if exists && !options.force {
            return Err(Failure::about(self.output, "exists already")
                .advise("choose another name, or give --force to overwrite it"));
        }
        let watch = Watch::new(options.progress, None)?;
        let cow = devices.open(Which::Cow, Mode::Read, options.io).await?;
        let origin = devices.open(Which::Origin, Mode::Read, options.io).await?;
        devices.refuse_cut_origin(&origin)?;
        let len = ops::shown_bytes(&cow, Some(&origin), devices.snapshot_bytes()).await;
        let len = len.map_err(|error| devices.failure(&error))?.unwrap_or(0);
        devices.warn_of_image(&origin).await;
        let exported = if exists {
            let output = open_file(self.output, Mode::Write, options.io.into()).await?;
            // A file is emptied whatever it held; a disk of a RAID is more than itself.
            if !self.output.is_file() {
                refuse_raid_member(self.output, &output).await?;
            }
            self.refuse_doubtful((&cow, &origin)).await?;
            empty(self.output, &output, len).await?;
            self.export((&cow, &origin, &output), &watch).await?
        } else {
            let (output, new) =
                NewFile::create(self.output, len, options.io, self.devices.access()).await?;
            let exported = self.export((&cow, &origin, &output), &watch).await?;
            new.keep();
            exported
        };
        watch.done();
        self.show(&Timed { exported, seconds: watch.seconds() }, out)?;
        Ok(Outcome::Yes)
    }

    /// From front to back, into a pipe or a socket. What is to be said goes to stderr if stdout has the
    /// image.
    async fn stream(&self, mut stream: Stream, out: &mut Output) -> Result<Outcome, Failure> {
        let Self { devices, options, .. } = self;
        let watch = Watch::new(options.progress, None)?;
        let cow = devices.open(Which::Cow, Mode::Read, options.io).await?;
        let origin = devices.open(Which::Origin, Mode::Read, options.io).await?;
        devices.refuse_cut_origin(&origin)?;
        devices.warn_of_image(&origin).await;
        let exported = match ops::stream(&cow, &origin, &mut stream, self.wanted(), &watch).await {
            Ok(exported) => exported,
            Err(error) => return Err(self.export_failure(&error, &cow).await),
        };
        watch.done();
        let timed = Timed { exported, seconds: watch.seconds() };
        match stream.is_stdout {
            true => self.show(&timed, &mut Output::stderr())?,
            false => self.show(&timed, out)?,
        }
        Ok(Outcome::Yes)
    }

    fn wanted(&self) -> ExportOptions {
        let (allow_invalid, len_bytes) =
            (self.options.allow_invalid, self.devices.snapshot_bytes());
        ExportOptions { allow_invalid, len_bytes, ignore_fence: self.options.no_fence }
    }

    async fn export(
        &self,
        (cow, origin, output): (&AnyDevice, &AnyDevice, &File),
        watch: &Watch,
    ) -> Result<Exported, Failure> {
        match ops::export(cow, origin, output, self.wanted(), watch).await {
            Ok(exported) => Ok(exported),
            Err(error) => Err(self.export_failure(&error, cow).await),
        }
    }

    /// An old output is worth more than an export that cannot be done, so what an export refuses is
    /// looked for before the output is emptied: the same as a merge does.
    async fn refuse_doubtful(
        &self,
        (cow, origin): (&AnyDevice, &AnyDevice),
    ) -> Result<(), Failure> {
        let len_bytes = self.devices.snapshot_bytes();
        let ignore_fence = self.options.no_fence;
        let options =
            MergeOptions { force: true, len_bytes, ignore_fence, ..MergeOptions::default() };
        match ops::plan_merge(cow, origin, options).await {
            Err(ops::Error::Invalid) if self.options.allow_invalid => Ok(()),
            // That is not about what it shows.
            Err(
                ops::Error::IsWayBack { .. }
                | ops::Error::PartnerMissing { .. }
                | ops::Error::OriginTooSmall { .. },
            ) => Ok(()),
            Err(error) => Err(self.export_failure(&error, cow).await),
            Ok(_) => Ok(()),
        }
    }

    async fn export_failure(&self, error: &ops::Error, cow: &AnyDevice) -> Failure {
        let failure = self.devices.explain(error, cow).await;
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
            format_args!("has {found} bytes, but the snapshot has {len}"),
        )
        .advise("give a larger device"));
    }
    output.write_zeroes(0, len, Allocation::MayPunch).await.map_err(failure)
}
