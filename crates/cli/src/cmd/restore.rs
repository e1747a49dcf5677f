use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, Entry, Error, ListError, Restored, Which};

use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;
use crate::rereadable::Rereadable;
use crate::size::Count;

/// Make a store's metadata again from a dump
///
/// DUMP is what `dmsnap dump --restorable` printed. Header and areas are written, with each exception in the
/// slot and at the chunk it had; chunks of data are left as they are. So this brings back a store whose header
/// or areas were lost, on the device that has its data, or on a copy of it.
///
/// The whole dump is checked before anything is written: its end line, its checksum, and every exception. The
/// device must be large enough; one with a valid store, or with anything else that is known, is refused without
/// --force, and a disk of a RAID in any case.
///
/// The header is written last: after a crash there is no store, or the whole one, and the same command makes it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// What `dmsnap dump --restorable` printed; - is standard input
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// COW device or image that becomes the store
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Overwrite a device that holds a valid store or something else
    #[arg(long)]
    force: bool,

    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,

    /// The result as a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Keep the metadata of a snapshot:
    dmsnap dump --restorable /dev/mapper/vg0-snap-cow > snap.dump
  Back with it, after its header was overwritten:
    dmsnap restore snap.dump /dev/mapper/vg0-snap-cow
  Is the dump whole, and would it fit?
    dmsnap restore --dry-run snap.dump snap.cow";

/// The longest line that is read: a run takes less than 150 bytes.
const LINE_BYTES: u64 = 4096;

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let dump = Rereadable::open(&self.dump)?;
        let read = || dump.reader().map(Lines::new).map_err(ListError::Read);
        let devices = Devices::of_cow(&self.cow);
        let cow = devices.open(Which::Cow, Mode::Write, Caching::Buffered).await?;
        let restored = match self.dry_run {
            true => ops::plan_restore(&cow, read, self.force).await,
            false => ops::restore(&cow, read, self.force).await,
        };
        let restored = restored.map_err(|error| self.failure(&devices, &error))?;
        self.show(&restored, out)?;
        Ok(Outcome::Yes)
    }

    fn failure(&self, devices: &Devices<'_>, error: &Error) -> Failure {
        match error {
            Error::List(found) => Failure::about(&self.dump, found),
            error => devices.refused_target(error),
        }
    }

    fn show(&self, restored: &Restored, out: &mut Output) -> Result<(), Failure> {
        if self.json {
            return out.json(restored);
        }
        let Restored { exceptions, status, .. } = restored;
        let exceptions = Count(*exceptions, "exception");
        match self.dry_run {
            true => out.line(format_args!("would restore {exceptions}; nothing was written")),
            false => out.line(format_args!("restored {exceptions}, status {status}")),
        }
    }
}

/// The lines of a dump. Takes no more memory than one of them.
struct Lines<R> {
    from: R,
    /// Read so far.
    count: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn new(from: R) -> Self {
        Self { from, count: 0, line: Vec::new() }
    }

    fn wrong(&self, found: &'static str) -> ListError {
        match self.count {
            1 => ListError::NoStore,
            line => ListError::Line { line, found },
        }
    }

    fn entry(&mut self) -> io::Result<Option<Result<Entry, ListError>>> {
        self.line.clear();
        self.from.by_ref().take(LINE_BYTES).read_until(b'\n', &mut self.line)?;
        self.count += 1;
        Ok(match self.line.last() {
            None => None,
            Some(b'\n') => {
                let entry = serde_json::from_slice(&self.line);
                Some(entry.map_err(|_| self.wrong("is not one of a dump")))
            }
            Some(_) if self.line.len() as u64 == LINE_BYTES => {
                Some(Err(self.wrong("is too long for one of a dump")))
            }
            Some(_) if self.count == 1 => Some(Err(ListError::NoStore)),
            // The end of a line is missing, or of the last line.
            Some(_) => Some(Err(ListError::CutOff { lines: self.count - 1 })),
        })
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Entry, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry().unwrap_or_else(|error| Some(Err(ListError::Read(error))))
    }
}
