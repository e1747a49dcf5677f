use std::path::PathBuf;

use dmsnap::device::{Access, Caching, Device, Mode};
use dmsnap::format::{ChunkSize, Tag};
use dmsnap::ops::{self, Created, Error, Which};
use dmsnap_images::Volumes;

use crate::device_arg::{DeviceArg, is_address};
use crate::devices::{Devices, access_of, open_device};
use crate::exit::Outcome;
use crate::files::{new_id, open_or_make};
use crate::output::Output;
use crate::refusals::warn;
use crate::report::{Failure, tell};
use crate::size::{self, Bytes, CHUNK_SIZE, Sectors, whole_sectors};

/// Format a new, empty store
///
/// COW is a block device or a file. A file that does not exist is made, sparse, with --size bytes, and
/// nobody but its owner may use it: it will hold what the origin held.
/// The header and the first area are written; everything else stays as it is.
///
/// What the store would overwrite must be zero, and nothing that is known may lie anywhere on the device:
/// no file system, RAID member, physical volume, encrypted container, partition table or image, at its
/// beginning or its end. Anything else is refused without --force. A disk of a RAID is refused in any case.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device, or the file to make
    #[arg(value_name = "COW")]
    cow: PathBuf,

    /// Unit of copying: a power of two from 512 bytes to 1 GiB
    ///
    /// 4k is what LVM takes by default. Kernels that are given no size, and `dmsnap serve --table` where it
    /// says 0, take 16k.
    #[arg(long, value_name = "SIZE", default_value = CHUNK_SIZE, value_parser = size::parse_chunk_size)]
    chunk_size: ChunkSize,

    /// Size of the file to make, rounded up to whole sectors
    ///
    /// Required if COW does not exist, unless --for says it. If it does, it is not resized: the size must be the
    /// one it has.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "room_for")]
    size: Option<u64>,

    /// Make the file large enough for every chunk of this origin to change, metadata included
    #[arg(long = "for", value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    room_for: Option<DeviceArg>,

    /// Make it large enough for this part of the chunks of --for
    #[arg(long, value_name = "NUMBER", requires = "room_for", conflicts_with = "size")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100))]
    percent: Option<u64>,

    /// Remember which origin it is for
    ///
    /// The store remembers the size of ORIGIN and samples of its content. `check`, `export`, `merge` and
    /// `serve` refuse another origin then, or one that was written without this store, unless they are
    /// given --no-fence. Kernels do not look at it; a kernel that merges the store makes it a false alarm.
    #[arg(long, value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    base: Option<DeviceArg>,

    /// Remember the size of the snapshot, where it is another than its origin's
    ///
    /// Zeroes follow an origin that is shorter; of one that is longer the rest is not a part of the snapshot. `check`,
    /// `export` and `serve` go by it. Kernels need a table for it, which `dmsnap table` prints.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_sectors)]
    virtual_size: Option<u64>,

    /// Format a device that holds something else
    #[arg(long)]
    force: bool,

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  A file of 1 GiB, with chunks of 4 KiB:
    dmsnap create --size 1G snap.cow
  A file with room for everything, which knows its origin again:
    dmsnap create --for golden.img --base golden.img vm1.cow
  A disk, with chunks of 64 KiB:
    dmsnap create --chunk-size 64k /dev/vg0/snap
  The same with the chunk size in sectors:
    dmsnap create --chunk-size 128s /dev/vg0/snap";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        if is_address(&self.cow) {
            return Err(Failure::about(&self.cow, "no store is made in a volume group")
                .advise("LVM makes snapshots there; a file of that name is ./lvm:..."));
        }
        let cow = DeviceArg::from(self.cow.clone());
        let devices = Devices::maybe_pair(&cow, self.base.as_ref(), None).await?;
        let base = match &self.base {
            Some(_) => Some(devices.open(Which::Origin, Mode::Read, Caching::Buffered).await?),
            None => None,
        };
        let wanted = self.wanted_bytes().await?;
        let access = self.base.as_ref().map_or_else(Access::default, access_of);
        let (cow, new) = open_or_make(&self.cow, wanted, Caching::Buffered, access).await?;
        let created = match (&base, self.virtual_size) {
            (None, None) => ops::create(&cow, self.chunk_size, self.force).await,
            (base, virtual_size) => {
                let tag = match base {
                    Some(base) => ops::tag_for(base, new_id()?, self.chunk_size).await,
                    None => Ok(Tag::new(new_id()?)),
                };
                let tag = tag.map_err(|error| devices.failure(&error))?;
                let tag = Tag { snapshot_bytes: virtual_size.unwrap_or(0), ..tag };
                ops::create_tagged(&cow, self.chunk_size, tag, self.force).await
            }
        };
        let created = created.map_err(|error| match &error {
            Error::Occupied { .. } | Error::NotEmpty { .. } | Error::PartBlocks { .. } => {
                devices.failure(&error).advise("--force overwrites it")
            }
            _ => devices.failure(&error),
        })?;
        if let Some(new) = new {
            new.keep();
        }
        self.show(created, out)?;
        Ok(Outcome::Yes)
    }

    /// The size of the file to make, if one was asked for.
    async fn wanted_bytes(&self) -> Result<Option<u64>, Failure> {
        let Some(origin) = &self.room_for else {
            let wanted = self.size.map(whole_sectors).transpose();
            return wanted.map_err(|found| Failure::of("--size", found));
        };
        let volumes = Volumes::new(warn);
        let (mode, caching) = (Mode::Read, Caching::Buffered);
        let device = open_device(&volumes, origin, Which::Origin, mode, caching).await?;
        let bytes = device.len_bytes();
        let bytes = bytes.map_err(|error| Failure::of(&origin.to_string(), error))?;
        let bytes = self.virtual_size.unwrap_or(bytes);
        Ok(Some(ops::size_for(bytes, self.chunk_size, self.percent.unwrap_or(100))))
    }

    fn show(&self, created: Created, out: &mut Output) -> Result<(), Failure> {
        if self.json {
            return out.json(&created);
        }
        let exceptions = created.capacity_exceptions;
        out.line(format_args!("chunk size: {}", Sectors(created.chunk_size_sectors.into())))?;
        out.line(format_args!("size:       {}", Sectors(created.total_sectors)))?;
        out.line(format_args!(
            "capacity:   {exceptions} exceptions ({})",
            Bytes(exceptions.saturating_mul(self.chunk_size.bytes()))
        ))?;
        if created.kernel_loses_last_chunk {
            tell(
                Failure::about(
                    &self.cow,
                    "warning: a kernel that fills it to the last chunk drops the snapshot",
                )
                .advise("a size of one chunk more or less avoids it"),
            );
        }
        Ok(())
    }
}
