use std::collections::BTreeMap;

use dmsnap::device::{AnyDevice, Caching, Mode};
use dmsnap::ops::{self, Finding, Report, Severity, Which};
use serde::Serialize;

use crate::device_arg::DeviceArg;
use crate::devices::{Devices, VirtualSize};
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::{Failure, tell};
use crate::size::Count;

/// Check a store without changing it
///
/// Reads the header and every area and tells what the kernel would refuse or misread (damage), and
/// what is only worth knowing (notes). With ORIGIN, also whether every exception lies on it.
///
/// Nothing is written and no lock is taken, so it is safe on a device in use; one that changes
/// meanwhile may be reported as damaged. The exit status is 0 if the store is sound, 1 if it is
/// damaged, and 3 if it could not be read or there is no store at all.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// COW device or image
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    #[command(flatten)]
    size: VirtualSize,

    /// One finding per line as a JSON object, all of them, and the report as the last line
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Before activating a snapshot:
    dmsnap check /dev/mapper/vg0-snap-cow /dev/mapper/vg0-lv-real
  In a script:
    dmsnap check snap.cow > findings.txt || echo damaged
  The kinds of findings and how many there are of each:
    dmsnap check --json snap.cow | jq -r '.kind // empty' | sort | uniq -c";

/// Findings of one kind that are told in words; a store full of stray slots has thousands.
pub(super) const OF_ONE_KIND: u64 = 20;

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        check(&self.cow, self.origin.as_ref(), (self.size, self.json), out).await
    }
}

pub(super) async fn check(
    cow: &DeviceArg,
    origin: Option<&DeviceArg>,
    (size, json): (VirtualSize, bool),
    out: &mut Output,
) -> Result<Outcome, Failure> {
    let devices = Devices::maybe_pair(cow, origin, None).await?.of_size(&size);
    let cow = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
    let origin = open_origin(&devices, origin.is_some()).await?;
    if let Some(origin) = &origin {
        devices.refuse_cut_origin(origin)?;
    }
    let mut teller = Teller { out, json, told: BTreeMap::new(), failed: None };
    let len = devices.snapshot_bytes();
    let checked = ops::check_sized(&cow, origin.as_ref(), len, |it| teller.tell(&it));
    let report = match checked.await {
        Ok(report) => report,
        Err(error) => return Err(devices.explain(&error, &cow).await),
    };
    teller.finish(&report)?;
    Ok(if report.sound { Outcome::Yes } else { Outcome::No })
}

/// The origin, if there is one: what `is_named` on the command line has to be readable.
pub(super) async fn open_origin(
    devices: &Devices<'_>,
    is_named: bool,
) -> Result<Option<AnyDevice>, Failure> {
    if !devices.has_origin() {
        return Ok(None);
    }
    match devices.open(Which::Origin, Mode::Look, Caching::Buffered).await {
        Ok(origin) => Ok(Some(origin)),
        Err(failure) if is_named => Err(failure),
        // One of a type that cannot be read: the store says much alone.
        Err(failure) => {
            tell(format_args!("warning: {failure}; the store is checked without its origin"));
            Ok(None)
        }
    }
}

/// Tells findings as they come, in words only this many of each kind.
struct Teller<'a> {
    out: &'a mut Output,
    json: bool,
    told: BTreeMap<&'static str, u64>,
    failed: Option<Failure>,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct LastLine<'a> {
    report: &'a Report,
}

impl Teller<'_> {
    fn tell(&mut self, finding: &Finding) {
        let told = self.told.entry(finding.damage.name()).or_default();
        *told += 1;
        let result = match self.json {
            true => self.out.json(finding),
            false if *told > OF_ONE_KIND => Ok(()),
            false => self.out.line(format_args!("{}: {finding}", word(finding.damage.severity()))),
        };
        if let Err(failure) = result {
            self.failed.get_or_insert(failure);
        }
    }

    fn finish(self, report: &Report) -> Result<(), Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        if self.json {
            return self.out.json(&LastLine { report });
        }
        for (kind, &found) in self.told.iter().filter(|&(_, &found)| found > OF_ONE_KIND) {
            self.out.line(format_args!("... and {} more of {kind}", found - OF_ONE_KIND))?;
        }
        match report.sound {
            true => self.out.line("sound"),
            false => self.out.line(format_args!("damaged: {}", Count(report.damaged, "finding"))),
        }
    }
}

pub(super) fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Damage => "damage",
    }
}
