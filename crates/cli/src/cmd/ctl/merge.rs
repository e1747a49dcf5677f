use std::path::{Path, PathBuf};

use dmsnap_serve::control::WayBack;

use crate::report::Failure;
use crate::size;

const START_EXAMPLES: &str = "\
Examples:
  dmsnap ctl --control unix:/run/d.ctl merge start monday --rate 20M --wait
  dmsnap ctl --control unix:/run/d.ctl merge start monday --undo /srv/undo.cow";

const UNDO_EXAMPLES: &str = "\
Examples:
  dmsnap ctl --control unix:/run/d.ctl merge undo monday
  dmsnap ctl --control unix:/run/d.ctl merge undo monday-undo --wait";

#[derive(Debug, clap::Subcommand)]
pub(super) enum MergeCommand {
    /// Start to merge a snapshot: from now on it and the origin are one device
    #[command(after_long_help = START_EXAMPLES)]
    Start {
        /// The snapshot
        name: String,

        /// Limit to this many bytes per second
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        rate: Option<u64>,

        /// Most data in one window; the server uses at most 64M, and a 16th of its memory
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        window: Option<u64>,

        /// Keep a way back in UNDO: `merge undo NAME` then takes the merge back, also half-way
        ///
        /// UNDO is a file that is made on the server's machine, or a blank device: a snapshot of the origin as it is
        /// when the merge begins. It is served for reading, as NAME-undo, and grows with what clients write. If it
        /// can grow no further it is dropped: the merge goes on without a way back, and `status` says so.
        #[arg(long, value_name = "UNDO")]
        undo: Option<PathBuf>,

        /// UNDO grows up to this; by default as far as it can ever have to
        #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "undo")]
        max_size: Option<u64>,

        /// Return when the merge has ended; a signal ends the waiting, not the merge
        #[arg(long)]
        wait: bool,

        /// Show progress even if stderr is not a terminal
        #[arg(long, requires = "wait")]
        progress: bool,
    },
    /// Pause it after the window under way
    #[command(after_long_help = example!("merge pause"))]
    Pause,
    /// Resume it, also after a device has failed
    #[command(after_long_help = example!("merge resume"))]
    Resume,
    /// Cancel the merge and keep the snapshot, with its content unchanged
    #[command(after_long_help = example!("merge cancel"))]
    Cancel,
    /// Take a merge back, finished or not: the origin becomes what it was before, and NAME a snapshot again
    ///
    /// From one moment to the next the origin's device shows the old origin, while NAME goes on showing what the
    /// device showed, with what clients wrote to it. Then the old data is merged, as by a merge of NAME-undo: all
    /// that `merge` has is for that one now, also `merge undo NAME-undo`, which takes the undo back.
    #[command(after_long_help = UNDO_EXAMPLES)]
    Undo {
        /// The snapshot that merges or has merged
        name: String,

        /// Return when the old data is merged; a signal ends the waiting, not the merge
        #[arg(long)]
        wait: bool,

        /// Show progress even if stderr is not a terminal
        #[arg(long, requires = "wait")]
        progress: bool,
    },
    /// Change how fast it goes
    #[command(after_long_help = example!("merge rate 100M"))]
    Rate {
        /// Limit to this many bytes per second, or `none`
        #[arg(value_parser = rate)]
        rate: u64,

        /// Most data in one window; the server uses at most 64M, and a 16th of its memory
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        window: Option<u64>,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { size::parse(text) }
}

/// The device for the way back, as it goes to the server.
pub(super) fn way_back(path: &Path, max_size_bytes: Option<u64>) -> Result<WayBack, Failure> {
    let cow = std::path::absolute(path).map_err(|error| Failure::about(path, error))?;
    let cow = cow.into_os_string().into_string();
    let cow = cow.map_err(|_| Failure::about(path, "is a path that is not text"))?;
    Ok(WayBack { cow, name: None, max_size_bytes })
}
