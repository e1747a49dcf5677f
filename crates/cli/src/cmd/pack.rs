use std::io::{self, Write};
use std::path::PathBuf;

use dmsnap::device::{AnyDevice, Caching, Mode};
use dmsnap::format::ChunkSize;
use dmsnap::ops::{self, Error, PackOptions, Packed, Which};

use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::files::Written;
use crate::output::Output;
use crate::report::Failure;
use crate::size::{self, Bytes, Count};

/// Pack a store's metadata into one small file
///
/// OUTPUT gets the beginning of the header's chunk, every exception, and what lies after the end of the list in
/// its area; none of the data of any chunk. It can be attached to a bug report, or kept as a backup of the
/// metadata. `dmsnap unpack` makes a sparse device of it on which `info`, `check` and `dump` say the same.
///
/// A store may be invalid or damaged. Nothing is written to it and no lock is taken, so it is safe on a device
/// in use. With areas that were never zeroed, what lies there looks like exceptions and is packed as well.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// File to make; - is standard output
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    /// Take a device whose header no kernel opens, too
    ///
    /// What looks like areas of any chunk size is kept byte for byte, up to 64 MiB. In rare cases that is data.
    #[arg(long)]
    raw: bool,

    /// Read it as a store with this chunk size, whatever its header says
    #[arg(long, value_name = "SIZE", value_parser = size::parse_chunk_size)]
    chunk_size: Option<ChunkSize>,

    /// The result as a JSON object; on stderr, if the pack goes to standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  For a bug report:
    dmsnap pack snap.cow snap.pack
  From a machine that is far away:
    ssh server dmsnap pack /dev/mapper/vg0-snap-cow - > snap.pack
  Of a device whose header was overwritten:
    dmsnap pack --raw broken.cow broken.pack";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let devices = Devices::of_cow(&self.cow);
        let cow = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
        if self.output.as_os_str() == "-" {
            let packed = self.pack(&devices, &cow, &mut io::stdout().lock()).await?;
            self.show(&packed, &mut Output::stderr())?;
            return Ok(Outcome::Yes);
        }
        let mut written = Written::create(&self.output)?;
        let packed = self.pack(&devices, &cow, &mut written).await?;
        written.finish()?;
        self.show(&packed, out)?;
        Ok(Outcome::Yes)
    }

    async fn pack(
        &self,
        devices: &Devices<'_>,
        cow: &AnyDevice,
        to: &mut impl Write,
    ) -> Result<Packed, Failure> {
        let options = PackOptions { raw: self.raw, chunk_size: self.chunk_size };
        match ops::pack(cow, to, options).await {
            Ok(packed) => Ok(packed),
            Err(Error::Consumer(error)) => Err(Failure::about(&self.output, error)),
            Err(error @ (Error::Header(_) | Error::Store(_))) if !self.raw => {
                let failure = devices.explain(&error, cow).await;
                Err(failure.advise("--raw packs what looks like areas"))
            }
            Err(error) => Err(devices.explain(&error, cow).await),
        }
    }

    fn show(&self, packed: &Packed, out: &mut Output) -> Result<(), Failure> {
        if self.json {
            return out.json(packed);
        }
        let Packed { exceptions, raw_bytes, pack_bytes, .. } = *packed;
        let raw = match raw_bytes {
            0 => String::new(),
            bytes => format!(" and {} of areas as they are", Bytes(bytes)),
        };
        let exceptions = Count(exceptions, "exception");
        out.line(format_args!("packed {exceptions}{raw} into {}", Bytes(pack_bytes)))
    }
}
