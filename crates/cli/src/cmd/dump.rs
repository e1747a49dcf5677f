use std::fmt;
use std::io;

use clap::ValueEnum;
use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, PlacedRun, Which};

use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// List every run of exceptions
///
/// A run is consecutive chunks on both devices, in consecutive slots. Runs come in the order of
/// the slots, which is the order in which the chunks were copied. In text:
///
///   AREA:SLOT  OLD[..LAST] -> NEW[..LAST]  LEN
///
/// where OLD are chunks of the origin and NEW those of the COW device.
///
/// Nothing is written and no lock is taken, so it is safe on a device in use.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, verbatim_doc_comment)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// How each run is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// JSON that `dmsnap restore` makes the store's metadata from
    ///
    /// A first line describes the store, and a last one has the number of exceptions and a checksum.
    #[arg(long, conflicts_with_all = ["format", "json"])]
    restorable: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line of text
    #[default]
    Text,
    /// A JSON object on a line
    Json,
}

const EXAMPLES: &str = "\
Examples:
  The first runs:
    dmsnap dump snap.cow | head
  To keep, and to restore:
    dmsnap dump --restorable snap.cow > snap.dump
  How many chunks of the origin have changed:
    dmsnap dump --json snap.cow | jq -s 'map(.len) | add'";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let devices = Devices::of_cow(&self.cow);
        let cow = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
        let json = self.json || self.format == Format::Json;
        let mut stopped = None;
        let mut ended = |told: Result<(), Failure>, is_closed: bool| match told {
            Ok(()) if !is_closed => Ok(()),
            // The error only ends the dump; what it was stays here.
            told => {
                stopped = Some(told);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        };
        let dumped = match (self.restorable, json) {
            (true, _) => ops::list(&cow, |entry| ended(out.json(&entry), out.closed())).await,
            (_, true) => ops::dump(&cow, |run| ended(out.json(&run), out.closed())).await,
            _ => ops::dump(&cow, |run| ended(out.line(Line(run)), out.closed())).await,
        };
        match stopped {
            Some(told) => told?,
            None => {
                if let Err(error) = dumped {
                    return Err(devices.explain(&error, &cow).await);
                }
            }
        }
        Ok(Outcome::Yes)
    }
}

struct Line(PlacedRun);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlacedRun { old, new, len, area, slot } = self.0;
        write!(f, "{area}:{slot}  {} -> {}  {len}", Chunks(old, len), Chunks(new, len))
    }
}

/// `FIRST..LAST`, or just the one.
struct Chunks(u64, u64);

impl fmt::Display for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(first, ..=1) => write!(f, "{first}"),
            // A damaged store may name chunks up to the last number there is.
            Self(first, len) => write!(f, "{first}..{}", first.saturating_add(len - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_slot_chunks_and_length() {
        let run = PlacedRun { old: 10, new: 2, len: 3, area: 0, slot: 7 };
        assert_eq!(Line(run).to_string(), "0:7  10..12 -> 2..4  3");
        assert_eq!(Line(PlacedRun { len: 1, ..run }).to_string(), "0:7  10 -> 2  1");
    }
}
