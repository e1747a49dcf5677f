use std::io;
use std::path::PathBuf;

use dmsnap::device::{Access, AnyDevice, Caching, Mode};
use dmsnap::ops::{self, Error, PackError, Unpacked, Which};

use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::files::NewFile;
use crate::output::Output;
use crate::report::Failure;
use crate::rereadable::Rereadable;
use crate::size::{Bytes, Count};

/// Write the metadata in a pack to a device, or to a new sparse file
///
/// PACK is what `dmsnap pack` wrote. A COW that does not exist is made, sparse, in the size of the device that
/// was packed: `info`, `check` and `dump` say of it what they said of that device. It has no data, so it shows
/// nothing of the snapshot.
///
/// On the device that was packed, this brings the old metadata back over whatever is there now, and leaves all
/// data as it is. A device with a valid store, or with anything else that is known, is refused without --force.
///
/// The whole pack is checked before anything is written. The header is written last: after a crash there is no
/// store, and the same command brings it back.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// What `dmsnap pack` wrote; - is standard input
    #[arg(value_name = "PACK")]
    pack: PathBuf,

    /// Device, or the file to make
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Overwrite a device that holds a valid store or something else
    #[arg(long)]
    force: bool,

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Look at what somebody has sent:
    dmsnap unpack snap.pack snap.cow
    dmsnap check snap.cow
  Back to the metadata as it was:
    dmsnap unpack before.pack /dev/mapper/vg0-snap-cow";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let pack = Rereadable::open(&self.pack)?;
        let read = || pack.reader().map_err(PackError::Read);
        let checked = read().and_then(|mut from| ops::read_pack(&mut from));
        let (head, _) = checked.map_err(|error| Failure::about(&self.pack, error))?;
        let devices = Devices::of_cow(&self.cow);
        let unpacked = match &self.cow {
            DeviceArg::Path(path) if is_missing(path.symlink_metadata()) => {
                let access = Access::default();
                let (cow, new) =
                    NewFile::create(path, head.cow_bytes, Caching::Buffered, access).await?;
                let unpacked = self.unpack(&devices, &cow.into(), &pack).await?;
                new.keep();
                unpacked
            }
            _ => {
                let cow = devices.open(Which::Cow, Mode::Write, Caching::Buffered).await?;
                self.unpack(&devices, &cow, &pack).await?
            }
        };
        self.show(&unpacked, out)?;
        Ok(Outcome::Yes)
    }

    async fn unpack(
        &self,
        devices: &Devices<'_>,
        cow: &AnyDevice,
        pack: &Rereadable,
    ) -> Result<Unpacked, Failure> {
        let from = pack.reader().map_err(|error| Failure::about(&self.pack, error));
        let unpacked = ops::unpack(&mut from?, cow, self.force).await;
        unpacked.map_err(|error| match error {
            Error::Pack(found) => Failure::about(&self.pack, found),
            error => devices.refused_target(&error),
        })
    }

    fn show(&self, unpacked: &Unpacked, out: &mut Output) -> Result<(), Failure> {
        if self.json {
            return out.json(unpacked);
        }
        let Unpacked { cow_bytes, exceptions, raw_bytes, .. } = *unpacked;
        let raw = match raw_bytes {
            0 => String::new(),
            bytes => format!(" and {} of areas as they were", Bytes(bytes)),
        };
        let (exceptions, size) = (Count(exceptions, "exception"), Bytes(cow_bytes));
        out.line(format_args!("unpacked {exceptions}{raw} of a device of {size}"))
    }
}

fn is_missing<T>(looked: io::Result<T>) -> bool {
    looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
