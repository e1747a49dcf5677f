//! What a merge of two devices and one in a volume group have in common.

use std::path::PathBuf;

use dmsnap::ops::{Kept, MergeOptions, Merged};
use dmsnap_images::GroupOptions;
use serde::Serialize;

use crate::files::Io;
use crate::output::Output;
use crate::progress::Watch;
use crate::report::{Failure, tell};
use crate::size::{self, Bytes, Count};

/// How to merge.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Check everything and tell what would be done, but write nothing
    ///
    /// It refuses what a merge refuses, and so needs the same permissions and locks.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Limit to this many bytes per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(super) rate: Option<u64>,

    /// Most data in one window; two windows are in memory at a time
    ///
    /// Larger windows take fewer flushes and larger requests. With --rate, a window is at most
    /// what a second moves; it is always at least one chunk. By default it is a 32nd of the
    /// machine's memory, but not less than 32M and not more than 256M.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(super) window: Option<u64>,

    /// Copy, even where both files could share extents instead
    #[arg(long)]
    pub(super) no_share: bool,

    /// Go on although the origin begins with a store's header, or exceptions were lost
    ///
    /// Either is what a defect of kernels leaves; `dmsnap check` tells.
    #[arg(long)]
    pub(super) force: bool,

    /// Go on although the origin is not what the store remembers of it (`dmsnap create --base`)
    #[arg(long)]
    pub(super) no_fence: bool,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub(super) io: Io,

    /// Show progress even if stderr is not a terminal: one line per second
    #[arg(long)]
    pub(super) progress: bool,

    /// The result as a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// What a merge does to the volume group.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options for LVM snapshots")]
pub(super) struct InGroup {
    /// Merge the data only: the snapshot stays in the volume group, empty
    ///
    /// Then nothing in the group tells of a merge that was stopped: finish it before LVM activates the
    /// origin.
    #[arg(long)]
    pub(super) no_metadata: bool,

    /// File for the old metadata text, by default next to the image
    ///
    /// The default is IMAGE.VG-NUMBER.vg, with the number of the text; for a disk it lies in the
    /// current directory. A file that holds something else is never overwritten.
    #[arg(long, value_name = "FILE", conflicts_with = "no_metadata")]
    pub(super) backup: Option<PathBuf>,

    /// Drop another snapshot that has no room for what it shows, instead of refusing
    #[arg(long)]
    pub(super) drop_full: bool,
}

impl InGroup {
    /// Is there an option that is for snapshots in volume groups alone?
    pub(super) fn is_given(&self) -> bool {
        self.no_metadata || self.backup.is_some()
    }
}

impl From<&InGroup> for GroupOptions {
    fn from(options: &InGroup) -> Self {
        Self::default()
            .keep_metadata(options.no_metadata)
            .backup(options.backup.clone())
            .drop_full(options.drop_full)
    }
}

/// What would be done, for `--json`.
#[derive(Serialize)]
pub(super) struct Planned {
    pub(super) exceptions: u64,
    pub(super) bytes: u64,
    pub(super) others: Vec<Kept>,
}

impl Options {
    pub(super) fn merge_options(&self) -> MergeOptions {
        let window = self.window.unwrap_or_else(usual_window);
        let window_bytes = window.min(self.rate.unwrap_or(u64::MAX));
        let (share, force) = (!self.no_share, self.force);
        let ignore_fence = self.no_fence;
        MergeOptions { window_bytes, share, force, ignore_fence, ..MergeOptions::default() }
    }

    pub(super) fn watch(&self) -> Result<Watch, Failure> {
        Watch::new(self.progress, self.rate)
    }
}

/// What the machine's memory has room for, in bytes.
fn usual_window() -> u64 {
    let memory = rustix::system::sysinfo();
    let bytes = memory.totalram.saturating_mul(memory.mem_unit.into());
    (bytes / 32).clamp(32 << 20, 256 << 20)
}

/// How far a merge came that was asked to stop.
pub(super) fn stopped(merged: Merged) -> String {
    let done = Count(merged.exceptions, "exception");
    let left = merged.left;
    format!("stopped: {done} merged, {left} left; origin and store are consistent together")
}

pub(super) fn show_plan_with_others(
    planned: Planned,
    json: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    if json {
        return out.json(&planned);
    }
    let Planned { exceptions, bytes, others } = planned;
    out.line(format_args!(
        "would merge {} ({}); nothing was written",
        Count(exceptions, "exception"),
        Bytes(bytes),
    ))?;
    for other in &others {
        let Kept { name, chunks, valid } = other;
        let what = if *valid { "would keep" } else { "has no room and would be dropped for" };
        out.line(format_args!("{name}: {what} {}", Count(*chunks, "chunk")))?;
    }
    Ok(())
}

/// What became of the other snapshots; one that was dropped by its whole name, on stderr.
pub(super) fn show_kept(
    others: &[Kept],
    whole_name: impl Fn(&str) -> String,
    out: &mut Output,
) -> Result<(), Failure> {
    for Kept { name, chunks, valid } in others {
        match valid {
            true => out.line(format_args!("{name}: kept {}", Count(*chunks, "chunk")))?,
            false => {
                let found = "dropped: it had no room for what it showed";
                tell(Failure::of(&whole_name(name), found));
            }
        }
    }
    Ok(())
}
