mod words; // IMAGE... VG/LV on the command line
mod way_back; // of a merge
mod list; // as `lvs`
mod check;
mod export;
pub(super) mod merge;

use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// List, check, export and merge LVM snapshots in disk images
///
/// IMAGE is a disk or an image of one: a physical volume itself, or with partitions (MBR or GPT) of
/// which some are. All disks of a volume group are given together. Volumes may be linear or striped, or
/// snapshots without an origin on disk; of other types only the names are shown.
///
/// A volume is VG/LV, /dev/VG/LV or /dev/mapper/VG-LV. Where two groups have the same name, VG is the
/// uuid of one.
///
/// The commands info, check, dump, export and merge take such volumes as well, as
/// lvm:IMAGE[,IMAGE]...:VG/LV. A snapshot's name stands for its COW device, and its origin may be
/// left out. VG/ may be left out where only one volume can be meant. A comma in the name of an image
/// is written twice. A file whose name begins with `lvm:` is `./lvm:...`.
///
/// Nothing but `lvm merge` and `merge` writes to an image.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Check(check::Args),
    Export(export::Args),
    Merge(merge::Args),
}

const EXAMPLES: &str = "\
Examples:
  What is there:
    dmsnap lvm list disk.img
  The machine as it was before the upgrade, in another image:
    dmsnap lvm export disk.img vg0/before-upgrade root.img
  In the same one, for good:
    dmsnap lvm merge disk.img vg0/before-upgrade";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        match &self.command {
            Command::List(args) => args.run(out).await,
            Command::Check(args) => args.run(out).await,
            Command::Export(args) => args.run(out).await,
            Command::Merge(args) => args.run(out).await,
        }
    }
}
