use std::fmt::Display;

use dmsnap::device::{Caching, Mode};
use dmsnap::format::SECTOR_BYTES;
use dmsnap::ops::{self, Info, Which};

use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;
use crate::size::{Bytes, Sectors};

/// Show what a store holds and how full it is
///
/// Reads the header and every area. Nothing is written and no lock is taken, so it is safe on a
/// device in use; while that changes, the numbers may be of different moments.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// A JSON object instead of lines
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Everything, for reading:
    dmsnap info snap.cow
  The fill level of an LVM snapshot, for a script:
    dmsnap info --json /dev/mapper/vg0-snap-cow | jq .percent";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let devices = Devices::of_cow(&self.cow);
        let cow = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
        let info = match ops::info(&cow).await {
            Ok(info) => info,
            Err(error) => return Err(devices.explain(&error, &cow).await),
        };
        match self.json {
            true => out.json(&info)?,
            false => show(&info, out)?,
        }
        Ok(Outcome::Yes)
    }
}

fn show(info: &Info, out: &mut Output) -> Result<(), Failure> {
    let chunk_bytes = u64::from(info.chunk_size_sectors) * SECTOR_BYTES;
    let chunks = |count: u64| format!("{count} ({})", Bytes(count.saturating_mul(chunk_bytes)));
    let mut line = |name: &str, value: &dyn Display| {
        let name = format!("{name}:");
        out.line(format_args!("{name:<18} {value}"))
    };
    line("valid", &if info.valid { "yes" } else { "no (the snapshot was dropped)" })?;
    line("version", &info.version)?;
    line("chunk size", &Sectors(info.chunk_size_sectors.into()))?;
    line("status", &info.status)?;
    line("used", &format_args!("{:.2} %", info.percent))?;
    line("size", &Sectors(info.total_sectors))?;
    line("allocated", &Sectors(info.allocated_sectors))?;
    line("metadata", &Sectors(info.metadata_sectors))?;
    line("exceptions", &chunks(info.exceptions))?;
    line("runs", &info.runs)?;
    line("capacity", &chunks(info.capacity_exceptions))?;
    line("holes", &chunks(info.holes))?;
    line("next free chunk", &info.next_free_chunk)?;
    line("out of order", &info.out_of_order)?;
    line("origin at least", &Sectors(info.origin_at_least_sectors))?;
    if let Some(owner) = &info.owner {
        line("id", &owner.id)?;
        match (owner.state.as_str(), &owner.partner) {
            ("undo", Some(partner)) => line("way back of", partner)?,
            ("merging", Some(partner)) => line("merging, way back", partner)?,
            (_, Some(partner)) => line("partner", partner)?,
            _ => {}
        }
        if owner.snapshot_bytes > 0 {
            line("virtual size", &Sectors(owner.snapshot_bytes / SECTOR_BYTES))?;
        }
        if owner.origin_samples > 0 {
            line("origin", &Sectors(owner.origin_bytes / SECTOR_BYTES))?;
        }
    }
    if info.kernel_loses_last_chunk {
        line("warning", &"a kernel that fills this size to the last chunk drops the snapshot")?;
    }
    Ok(())
}
