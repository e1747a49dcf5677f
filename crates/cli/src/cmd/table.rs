use std::path::{Path, PathBuf};

use dmsnap::device::{Caching, Device, Mode};
use dmsnap::format::SECTOR_BYTES;
use dmsnap::ops::{self, Which};

use crate::device_arg::DeviceArg;
use crate::devices::{Devices, VirtualSize};
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::{Failure, tell};

/// Print the device-mapper tables with which a kernel shows a snapshot
///
/// Lines as `dmsetup table` prints them, with NAME before the colon. For a snapshot of its origin's size, or a smaller
/// one, that is one line. One that is larger needs a device below, NAME-base: the origin, followed by zeroes.
/// Comments say how to map them. `dmsnap serve --table` takes the lines of a snapshot that has the origin's size.
///
/// Nothing is written or mapped. A kernel needs block devices: a file has to be attached to a loop device
/// first, whose name then stands in the table in its place.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW")]
    cow: PathBuf,

    /// Its origin
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    #[command(flatten)]
    size: VirtualSize,

    /// Name of the device that shows the snapshot
    #[arg(long, value_name = "NAME", default_value = "snapshot", value_parser = name)]
    name: String,
}

const EXAMPLES: &str = "\
Examples:
  The line for a snapshot of a disk, mapped:
    dmsnap table /dev/vdc /dev/vdb --name vm | sed -n 's/^vm: //p' | dmsetup create vm
  A disk of 20 GiB on a smaller golden image, with loop devices:
    image=$(losetup --find --show --read-only golden.img)
    cow=$(losetup --find --show vm1.cow)
    dmsnap table --virtual-size 20G $cow $image --name vm > table
    sed -n 's/^vm-base: //p' table | dmsetup create --readonly vm-base
    sed -n 's/^vm: //p' table | dmsetup create vm";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let [cow, origin] = [&self.cow, &self.origin].map(|it| DeviceArg::from(it.clone()));
        let devices = Devices::pair(&cow, Some(&origin), None).await?.of_size(&self.size);
        let cow = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
        let origin = devices.open(Which::Origin, Mode::Look, Caching::Buffered).await?;
        let info = match ops::info(&cow).await {
            Ok(info) => info,
            Err(error) => return Err(devices.explain(&error, &cow).await),
        };
        let shown = ops::shown_bytes(&cow, Some(&origin), devices.snapshot_bytes()).await;
        let shown = shown.map_err(|error| devices.failure(&error))?.unwrap_or(0);
        let bytes = origin.len_bytes().map_err(|error| Failure::about(&self.origin, error))?;
        if !bytes.is_multiple_of(SECTOR_BYTES) {
            let found = "warning: its last sector is cut short, and kernels do not see it";
            tell(Failure::about(&self.origin, found).advise("make it longer"));
        }
        let (shown, there) = (shown / SECTOR_BYTES, bytes / SECTOR_BYTES);
        self.say_what_is_a_file(out)?;
        let below = match shown > there {
            true => self.base(there, shown, out)?,
            false => word(&self.origin),
        };
        let (name, cow, chunk) = (&self.name, word(&self.cow), info.chunk_size_sectors);
        out.line(format_args!("# sed -n 's/^{name}: //p' THIS | dmsetup create {name}"))?;
        out.line(format_args!("{name}: 0 {shown} snapshot {below} {cow} P {chunk}"))?;
        Ok(Outcome::Yes)
    }

    fn say_what_is_a_file(&self, out: &mut Output) -> Result<(), Failure> {
        for (path, option) in [(&self.origin, " --read-only"), (&self.cow, "")] {
            if path.is_file() {
                let path = path.display();
                out.line(format_args!(
                    "# {path} is a file: put the disk here that `losetup --find --show{option} {path}` prints"
                ))?;
            }
        }
        Ok(())
    }

    /// The origin, followed by zeroes. Returns the name of its device.
    fn base(&self, there: u64, shown: u64, out: &mut Output) -> Result<String, Failure> {
        let (name, origin, zeroes) = (&self.name, word(&self.origin), shown - there);
        out.line(format_args!(
            "# sed -n 's/^{name}-base: //p' THIS | dmsetup create --readonly {name}-base"
        ))?;
        out.line(format_args!("{name}-base: 0 {there} linear {origin} 0"))?;
        out.line(format_args!("{name}-base: {there} {zeroes} zero"))?;
        Ok(format!("/dev/mapper/{name}-base"))
    }
}

/// A path as a word of a table: kernels take what follows a backslash as it is.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let escaped =
        |it: char| if it == '\\' || it.is_whitespace() { vec!['\\', it] } else { vec![it] };
    text.chars().flat_map(escaped).collect()
}

/// What device-mapper and udev take as a name without escaping it.
fn name(text: &str) -> Result<String, String> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "#+-.=@_".contains(it);
    match text.chars().all(is_plain) && !text.is_empty() && text.len() < 120 {
        true => Ok(text.into()),
        false => Err("a name is letters, digits and some of #+-.=@_".into()),
    }
}
