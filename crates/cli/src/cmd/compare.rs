use dmsnap::device::Mode;
use dmsnap::ops::{self, Compared, ExportOptions, Which};
use dmsnap_images::Volumes;
use serde::Serialize;

use crate::device_arg::DeviceArg;
use crate::devices::{Devices, VirtualSize, open_device};
use crate::exit::Outcome;
use crate::files::Io;
use crate::output::Output;
use crate::progress::Watch;
use crate::refusals::warn;
use crate::report::Failure;

/// Tell whether a snapshot is the same bytes as an image
///
/// Reads what the store shows over its origin, and the image, from the first byte to the last: after an export, a
/// merge or a transfer this is the proof. What is known to be a hole is not read. Of both sides the size and
/// a BLAKE3 hash are told, and of two that differ the first byte.
///
/// COW, ORIGIN and IMAGE are only read, under a shared lock. Ctrl-C (or SIGTERM) ends it. SIGUSR1 prints one
/// line of progress.
///
/// The exit status is 0 if they are the same, and 1 if they differ.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap compare [OPTIONS] <COW> <ORIGIN> <IMAGE>
       dmsnap compare [OPTIONS] <lvm:IMAGE[,IMAGE]...:VG/SNAPSHOT> <IMAGE>")]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin; left out if COW is an LVM snapshot
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    /// What it is compared with: a raw image, or a device
    #[arg(value_name = "IMAGE", required = true, value_parser = DeviceArg::parser())]
    image: DeviceArg,

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

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Is the backup the snapshot?
    dmsnap compare snap.cow disk.img backup.img
  In a script, with an image that came from elsewhere:
    dmsnap compare snap.cow disk.img /dev/sdx && dmsnap wipe snap.cow";

/// A comparison, with the time it took.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    compared: Compared,
    seconds: f64,
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let devices = Devices::pair(&self.cow, self.origin.as_ref(), None).await?;
        let devices = devices.of_size(&self.size);
        let watch = Watch::new(self.progress, None)?;
        let cow = devices.open(Which::Cow, Mode::Read, self.io).await?;
        let origin = devices.open(Which::Origin, Mode::Read, self.io).await?;
        devices.refuse_cut_origin(&origin)?;
        devices.warn_of_image(&origin).await;
        let volumes = Volumes::new(warn);
        let io = self.io.into();
        let image = open_device(&volumes, &self.image, Which::Origin, Mode::Read, io).await?;
        let len_bytes = devices.snapshot_bytes();
        let options =
            ExportOptions { allow_invalid: false, len_bytes, ignore_fence: self.no_fence };
        let compared = match ops::compare(&cow, &origin, &image, options, &watch).await {
            Ok(compared) => compared,
            Err(error) if error.device() == Which::Output => {
                return Err(Failure::of(&self.image.to_string(), error));
            }
            Err(error) => return Err(devices.explain(&error, &cow).await),
        };
        watch.done();
        let same = compared.same;
        let timed = Timed { compared, seconds: watch.seconds() };
        match self.json {
            true => out.json(&timed)?,
            false => show(&timed.compared, out)?,
        }
        Ok(if same { Outcome::Yes } else { Outcome::No })
    }
}

fn show(compared: &Compared, out: &mut Output) -> Result<(), Failure> {
    let Compared { snapshot_bytes, image_bytes, snapshot_blake3, image_blake3, .. } = compared;
    let Some(at) = compared.first_difference else {
        return out
            .line(format_args!("the same: {snapshot_bytes} bytes, BLAKE3 {snapshot_blake3}"));
    };
    out.line(format_args!("different from byte {at} on"))?;
    out.line(format_args!("snapshot: {snapshot_bytes} bytes, BLAKE3 {snapshot_blake3}"))?;
    out.line(format_args!("image:    {image_bytes} bytes, BLAKE3 {image_blake3}"))
}
