use std::ffi::OsString;

use dmsnap::device::{Caching, Mode};
use dmsnap_images::{Name, Volumes};
use dmsnap_lvm::Snapshot;
use serde::Serialize;

use super::words::images_and_name;
use crate::cmd::check::check;
use crate::device_arg::{Address, DeviceArg};
use crate::devices::VirtualSize;
use crate::exit::Outcome;
use crate::output::Output;
use crate::refusals::warn;
use crate::report::{Failure, tell};

/// Check the metadata of volume groups, and the stores of their snapshots
///
/// Labels, metadata areas and their texts are read and compared with each other, then every
/// snapshot's store is checked as `dmsnap check` does it, or only that of VG/SNAPSHOT.
///
/// Nothing is written and no lock is taken. The exit status is 0 if everything is sound, 1 if
/// something is damaged, and 3 if something could not be read: all else is checked all the same.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap lvm check [OPTIONS] <IMAGE>... [VG/SNAPSHOT]")]
pub(super) struct Args {
    /// All disks of the volume group; the snapshot, if only that one matters
    #[arg(value_name = "IMAGE... [VG/SNAPSHOT]", required = true)]
    words: Vec<OsString>,

    /// One finding per line as a JSON object, and each store's report as a line after its findings
    #[arg(long)]
    json: bool,
}

/// What the lines of JSON after this one are about.
#[derive(Serialize)]
struct About {
    snapshot: String,
    /// The origin, if it is on its way back there.
    #[serde(skip_serializing_if = "Option::is_none")]
    merging_into: Option<String>,
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
        let own_size = VirtualSize::default();
        let place = |name: Name| DeviceArg::from(Address { images: images.clone(), name });
        if let Some(name) = name {
            return check(&place(name), None, (own_size, self.json), out).await;
        }
        let volumes = Volumes::new(warn);
        let scan = volumes.scan(&images, Mode::Look, Caching::Buffered).await?;
        let (mut damaged, mut unread) = (!scan.is_sound(), Vec::new());
        for group in scan.groups() {
            for fault in group.found.vg.faults() {
                tell(Failure::of(&group.found.vg.name, fault));
                damaged = true;
            }
            for snapshot in group.found.vg.snapshots() {
                let name = group.name_of(&snapshot.name);
                self.begin(&name, snapshot, out)?;
                match check(&place(name.clone()), None, (own_size, self.json), out).await {
                    Ok(outcome) => damaged |= outcome != Outcome::Yes,
                    Err(failure) => {
                        tell(failure);
                        unread.push(name.to_string());
                    }
                }
            }
        }
        match (unread.is_empty(), damaged) {
            (true, false) => Ok(Outcome::Yes),
            (true, true) => Ok(Outcome::No),
            (false, _) => {
                let found = format_args!("{} could not be checked", unread.join(", "));
                Err(Failure::of(&scan.images().to_string(), found).advise("all else was"))
            }
        }
    }

    /// Says what comes next.
    fn begin(&self, name: &Name, snapshot: &Snapshot, out: &mut Output) -> Result<(), Failure> {
        let into = snapshot.merging.then(|| name.in_same_group(&snapshot.origin).to_string());
        if self.json {
            return out.json(&About { snapshot: name.to_string(), merging_into: into });
        }
        out.line(format_args!("{name}:"))?;
        match into {
            None => Ok(()),
            Some(origin) => out.line(format_args!(
                "note: merges into {origin}, which is neither old nor new until that has ended: \
                 `dmsnap lvm merge` goes on, and so does LVM when it activates it"
            )),
        }
    }
}
