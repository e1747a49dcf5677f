use super::merging::Options;
use super::undoable::Task;
use crate::device_arg::DeviceArg;
use crate::devices::Devices;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// Take a merge back
///
/// UNDO is the store that `dmsnap merge --undo UNDO COW ORIGIN` made. Afterwards ORIGIN is what it was before
/// the merge, COW shows its snapshot again, and UNDO is empty. A merge that is half done is cancelled. With the two
/// stores exchanged, an undo is taken back.
///
/// COW has to keep what ORIGIN holds first, so it needs the room that the merge has freed. It may be stopped,
/// killed or cut off at any time: the same command goes on, and both stores show what they should all the while.
///
/// ORIGIN must not have been written since the merge without UNDO knowing (`dmsnap serve` with both, or a kernel that maps
/// both): what was changed then is refused as far as it is noticed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The store that was merged
    #[arg(value_name = "COW", value_parser = DeviceArg::parser())]
    cow: DeviceArg,

    /// Its origin
    #[arg(value_name = "ORIGIN", value_parser = DeviceArg::parser())]
    origin: DeviceArg,

    /// The undo store of the merge
    #[arg(value_name = "UNDO", value_parser = DeviceArg::parser())]
    undo: DeviceArg,

    /// COW device of another snapshot of ORIGIN, which keeps what it shows; may be repeated
    #[arg(long, value_name = "COW", value_parser = DeviceArg::parser())]
    keep: Vec<DeviceArg>,

    /// Drop another snapshot that has no room for what it shows, instead of refusing
    #[arg(long)]
    drop_full: bool,

    /// Do not keep what COW shows, but drop it: only the old origin is wanted
    #[arg(long)]
    drop_snapshot: bool,

    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  What it would do:
    dmsnap undo --dry-run snap.cow disk.img undo.cow
  Take the merge back:
    dmsnap undo snap.cow disk.img undo.cow
  And merge again:
    dmsnap undo undo.cow disk.img snap.cow
  Take it back, and throw the snapshot away:
    dmsnap undo --drop-snapshot snap.cow disk.img undo.cow";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let devices = Devices::pair(&self.cow, Some(&self.origin), None).await?;
        let task = Task {
            devices: &devices,
            cow: &self.cow,
            undo: &self.undo,
            keep: &self.keep,
            drop_full: self.drop_full,
            drop_snapshot: self.drop_snapshot,
            options: &self.options,
        };
        task.undo(out).await
    }
}
