use std::ffi::OsString;

use std::path::PathBuf;

use dmsnap::device::Mode;
use dmsnap::ops::{MergePlan, Merged};
use serde::Serialize;

use super::words::address;
use crate::cmd::merge::{Options, stopped};
use crate::exit::Outcome;
use crate::lvm::{Group, Kept, Merge, Rewrite, Volumes};
use crate::output::Output;
use crate::place::Address;
use crate::report::{Failure, tell};
use crate::size::{Bytes, Count};

/// Copy a snapshot's chunks back to its origin, and take it out of the volume group
///
/// What `lvconvert --merge` and the next boot do together, without LVM and without a kernel: also
/// where they began and did not end. Afterwards the origin holds what the snapshot showed, LVM knows
/// no such snapshot any more, and its extents are free.
///
/// Other snapshots of the origin keep what they show: they get the old data first. One that has no
/// room for it is refused, or dropped with --drop-full, as LVM does.
///
/// Before the first write the metadata text is put into a file (see --backup), from which
/// `vgcfgrestore -f FILE VG` brings it back: the volumes of before, not what they held. The snapshot is
/// empty then and shows the merged origin. With thin volumes in the group LVM wants --force for that.
///
/// The data comes before the metadata: after a crash the same command goes on where it was. Once it finds
/// no such volume any more, all is done.
///
/// All images are locked. One that is mounted, mapped, or attached to a loop device is refused.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(override_usage = "dmsnap lvm merge [OPTIONS] <IMAGE>... <VG/SNAPSHOT>")]
pub(super) struct Args {
    /// All disks of the volume group; the snapshot
    #[arg(value_name = "IMAGE... VG/SNAPSHOT", required = true)]
    words: Vec<OsString>,

    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    in_group: InGroup,
}

const EXAMPLES: &str = "\
Examples:
  What it would do, to other snapshots as well:
    dmsnap lvm merge --dry-run disk.img vg0/before-upgrade
  The machine as it was before the upgrade:
    dmsnap lvm merge disk.img vg0/before-upgrade
  A volume group on two disks:
    dmsnap lvm merge /dev/sdb /dev/sdc vg0/before-upgrade";

/// What a merge does to the volume group.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options for snapshots of LVM's")]
pub(in crate::cmd) struct InGroup {
    /// Merge the data only: the snapshot stays in the volume group, empty
    #[arg(long)]
    no_metadata: bool,

    /// File for the old metadata text, by default beside the image
    ///
    /// The default is IMAGE.VG-NUMBER.vg, with the number of the text; for a disk it lies in the
    /// current directory. A file that holds something else is never overwritten.
    #[arg(long, value_name = "FILE", conflicts_with = "no_metadata")]
    backup: Option<PathBuf>,

    /// Go on although another snapshot has no room for what it shows, which drops it
    #[arg(long)]
    drop_full: bool,
}

impl InGroup {
    pub(in crate::cmd) fn is_given(&self) -> bool {
        self.no_metadata || self.backup.is_some() || self.drop_full
    }
}

impl Args {
    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        merge_snapshot(&address(&self.words)?, &self.options, &self.in_group, out).await
    }
}

/// What was done, for `--json`.
#[derive(Serialize)]
struct Done<'a> {
    snapshot: &'a str,
    origin: &'a str,
    finished: bool,
    exceptions: u64,
    left: u64,
    bytes: u64,
    /// Other snapshots of the origin.
    others: &'a [Kept],
    /// `None` with --no-metadata.
    metadata: Option<Metadata>,
    seconds: f64,
}

#[derive(Serialize)]
struct Metadata {
    backup: PathBuf,
    seqno: u64,
}

/// What would be done, for `--json`.
#[derive(Serialize)]
struct Planned {
    exceptions: u64,
    bytes: u64,
    others: Vec<Kept>,
}

/// # Ordering
///
/// 1. the old metadata text goes to a file, durably
/// 2. the data is merged, durably, window by window
/// 3. the metadata is written, in LVM's order: see [`Rewrite::write`]
///
/// A crash in 2 leaves origin and store consistent together, and the group as it was. One between 2
/// and 3 leaves the snapshot in the group, with an empty store. The same command goes on.
pub(in crate::cmd) async fn merge_snapshot(
    address: &Address,
    options: &Options,
    in_group: &InGroup,
    out: &mut Output,
) -> Result<Outcome, Failure> {
    let volumes = Volumes::default();
    let mode = if options.dry_run { Mode::Look } else { Mode::Write };
    let scan = volumes.scan(&address.images, mode, options.io.into()).await?;
    let group = scan.group_of(&address.name)?;
    let name = &address.name.volume;
    group.snapshot(name)?;
    let rewrite = match in_group.no_metadata {
        true => None,
        false => Some(Rewrite::plan(group, name)?),
    };
    let merge = Merge::new(group, name).await?;
    let (plan, others) = merge.plan(options.merge_options()).await?;
    if options.dry_run {
        let MergePlan { exceptions, bytes, .. } = plan;
        show_plan(Planned { exceptions, bytes, others }, options.json, out)?;
        return Ok(Outcome::Yes);
    }
    if let Some(full) = others.iter().find(|other| !other.valid && !in_group.drop_full) {
        return Err(no_room(group, full));
    }
    let backup = rewrite.as_ref().map(|it| it.back_up(in_group.backup.as_deref())).transpose()?;
    let watch = options.watch()?;
    let (merged, others) = merge.run(options.merge_options(), in_group.drop_full, &watch).await?;
    watch.done();
    let metadata = match (rewrite, backup) {
        (Some(rewrite), Some(backup)) if merged.finished => {
            Some(Metadata { backup, seqno: rewrite.write().await? })
        }
        _ => None,
    };
    let origin = &group.snapshot(name)?.origin;
    let seconds = watch.seconds();
    let Merged { finished, exceptions, left, bytes, .. } = merged;
    let (snapshot, others) = (name.as_str(), &others[..]);
    let done =
        Done { snapshot, origin, finished, exceptions, left, bytes, others, metadata, seconds };
    match options.json {
        true => out.json(&done)?,
        false => show(&done, group, out)?,
    }
    match finished {
        true => Ok(Outcome::Yes),
        false => Err(stopped(&format!("{}/{name}", group.found.vg.name), merged)),
    }
}

fn no_room(group: Group<'_>, full: &Kept) -> Failure {
    let chunks = Count(full.chunks, "chunk");
    let found = format!("has no room for {chunks} that it would have to keep");
    group.failure(&full.name, found).advise("--drop-full merges all the same, and loses it")
}

fn show_plan(planned: Planned, json: bool, out: &mut Output) -> Result<(), Failure> {
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

fn show(done: &Done<'_>, group: Group<'_>, out: &mut Output) -> Result<(), Failure> {
    let Done { snapshot, origin, exceptions, bytes, others, metadata, seconds, .. } = done;
    out.line(format_args!(
        "merged {} ({}) into {origin}, {seconds:.1} s",
        Count(*exceptions, "exception"),
        Bytes(*bytes),
    ))?;
    for Kept { name, chunks, valid } in *others {
        match valid {
            true => out.line(format_args!("{name}: kept {}", Count(*chunks, "chunk")))?,
            false => tell(group.failure(name, "dropped: it had no room for what it showed")),
        }
    }
    if let Some(Metadata { backup, seqno }) = metadata {
        let vg = &group.found.vg.name;
        let backup = backup.display();
        out.line(format_args!("{vg}: {snapshot} is no longer in it (metadata {seqno})"))?;
        out.line(format_args!("{vg}: the metadata before: {backup}"))?;
    }
    Ok(())
}
