use std::ffi::OsString;

use dmsnap::device::{Caching, Mode};
use serde::Serialize;

use super::words::images_and_name;
use crate::cmd::check::check;
use crate::exit::Outcome;
use crate::lvm::Volumes;
use crate::output::Output;
use crate::place::{Address, Name, Place};
use crate::report::{Failure, tell};

/// Check the metadata of volume groups, and the stores of their snapshots
///
/// Labels, metadata areas and their texts are read and held against each other, then every
/// snapshot's store is checked as `dmsnap check` does it, or only that of VG/SNAPSHOT.
///
/// Nothing is written and no lock is taken. The exit status is 0 if everything is sound, 1 if
/// something is damaged, and 3 if there is nothing that could be read.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap lvm check [OPTIONS] <IMAGE>... [VG/SNAPSHOT]")]
pub(super) struct Args {
    /// All disks of the volume group; the snapshot, if only that one matters
    #[arg(value_name = "IMAGE... [VG/SNAPSHOT]", required = true)]
    words: Vec<OsString>,

    /// One finding per line as a JSON object, and each store's report as a line behind its findings
    #[arg(long)]
    json: bool,
}

/// What the lines of JSON behind this one are about.
#[derive(Serialize)]
struct About {
    snapshot: String,
}

const EXAMPLES: &str = "\
Examples:
  Everything on a disk:
    dmsnap lvm check disk.img
  One snapshot:
    dmsnap lvm check disk.img vg0/snap";

impl Args {
    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let (images, name) = images_and_name(&self.words);
        let place = |name: Name| Place::from(Address { images: images.clone(), name });
        if let Some(name) = name {
            return check(&place(name), None, self.json, out).await;
        }
        let volumes = Volumes::default();
        let scan = volumes.scan(&images, Mode::Look, Caching::Buffered).await?;
        let mut outcome = if scan.is_sound() { Outcome::Yes } else { Outcome::No };
        for group in scan.groups() {
            for fault in group.found.vg.faults() {
                tell(Failure::of(&group.found.vg.name, fault));
                outcome = Outcome::No;
            }
            for snapshot in group.found.vg.snapshots() {
                let name = Name {
                    group: Some(group.found.vg.name.clone()),
                    volume: snapshot.name.clone(),
                };
                match self.json {
                    true => out.json(&About { snapshot: name.to_string() })?,
                    false => out.line(format_args!("{name}:"))?,
                }
                if check(&place(name), None, self.json, out).await? != Outcome::Yes {
                    outcome = Outcome::No;
                }
            }
        }
        Ok(outcome)
    }
}
