use std::ffi::OsString;
use std::path::Path;

use super::words::address;
use crate::cmd::export::{Export, Options};
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// Write a snapshot's content as a raw image
///
/// OUTPUT becomes as long as the snapshot and holds what the snapshot shows, as with `dmsnap export`; it may
/// be - (standard output), a named pipe or a Unix socket.
/// The images are only read, under a shared lock.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap lvm export [OPTIONS] <IMAGE>... <VG/SNAPSHOT> <OUTPUT>")]
pub(super) struct Args {
    /// All disks of the volume group; the snapshot; the image to make, or with --force to overwrite
    #[arg(value_name = "IMAGE... VG/SNAPSHOT OUTPUT", required = true)]
    words: Vec<OsString>,

    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  From the image of a disk:
    dmsnap lvm export disk.img vg0/snap snap.img
  From a volume group on two disks:
    dmsnap lvm export /dev/sdb /dev/sdc vg0/snap snap.img";

impl Args {
    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let (output, words) = self.words.split_last().unzip();
        let snapshot = address(words.unwrap_or_default())?.into();
        let output = Path::new(output.map_or("".as_ref(), OsString::as_os_str));
        Export::new(&snapshot, None, output, &self.options).await?.run(out).await
    }
}
