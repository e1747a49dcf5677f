use std::ffi::OsString;
use std::path::PathBuf;

use dmsnap::device::Mode;
use dmsnap::ops::{Kept, MergePlan, Merged};
use dmsnap_images::{Group, Merge, Rewrite, Volumes};
use serde::Serialize;

use super::words::address;
use crate::cmd::merging::{
    InGroup, Options, Planned, no_room, show_kept, show_plan_with_others, stopped,
};
use crate::exit::Outcome;
use crate::output::Output;
use crate::place::Address;
use crate::refusals::{about_volume, warn};
use crate::report::Failure;
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
/// The metadata says that the snapshot merges before the first byte of the origin changes, as after an
/// `lvconvert --merge`: after a crash or a stop the same command goes on where it was, and so does LVM
/// when it activates the origin. Once the command finds no such volume any more, all is done.
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

/// # Ordering
///
/// 1. the old metadata text goes to a file, durably
/// 2. the metadata says that the snapshot merges, durably: see [`Rewrite::mark`]
/// 3. the data is merged, durably, window by window
/// 4. the metadata without the snapshot is written: see [`Rewrite::finish`]
///
/// A crash in 2 leaves the group of before, or one that merges and in which nothing is merged yet.
/// One in 3 leaves origin and store consistent together, in a group that merges; one between 3 and 4 the
/// same with an empty store. The same command goes on, and so does LVM.
pub(in crate::cmd) async fn merge_snapshot(
    address: &Address,
    options: &Options,
    in_group: &InGroup,
    out: &mut Output,
) -> Result<Outcome, Failure> {
    let volumes = Volumes::new(warn);
    // A dry run refuses what the merge refuses.
    let scan = volumes.scan(&address.images, Mode::Write, options.io.into()).await?;
    scan.refuse_raid_members().await?;
    let group = scan.group_of(&address.name)?;
    let name = &address.name.volume;
    let origin = &group.snapshot(name)?.origin;
    [name, origin].into_iter().try_for_each(|volume| group.refuse_short(volume))?;
    let rewrite = match in_group.no_metadata {
        true => None,
        false => Some(Rewrite::plan(group, name)?),
    };
    let merge = Merge::new(group, name).await?;
    let (plan, others) = merge.plan(options.merge_options()).await?;
    if let Some(full) = others.iter().find(|other| !other.valid && !in_group.drop_full) {
        return Err(no_room(&group.name_of(&full.name).to_string(), full));
    }
    let backup = in_group.backup.as_deref();
    rewrite.as_ref().map_or(Ok(()), |it| it.refuse_back_up(backup))?;
    if options.dry_run {
        let MergePlan { exceptions, bytes, .. } = plan;
        show_plan_with_others(Planned { exceptions, bytes, others }, options.json, out)?;
        return Ok(Outcome::Yes);
    }
    let backup = rewrite.as_ref().map(|it| it.back_up(backup)).transpose()?;
    let watch = options.watch()?;
    if let Some(rewrite) = &rewrite {
        rewrite.mark().await?;
    }
    let ran = merge.run(options.merge_options(), in_group.drop_full, &watch).await;
    let (merged, others) = ran.map_err(|error| match &rewrite {
        Some(_) => Failure::from(error).advise(goes_on(group)),
        None => error.into(),
    })?;
    watch.done();
    let metadata = match (rewrite, backup) {
        (Some(rewrite), Some(backup)) if merged.finished => {
            Some(Metadata { backup, seqno: rewrite.finish().await? })
        }
        _ => None,
    };
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
        false => {
            let left = match in_group.no_metadata {
                true => "the volume group does not say so, and must not be activated as it is",
                false => &goes_on(group),
            };
            Err(about_volume(group, name, stopped(merged))
                .advise(left)
                .advise("the same command goes on"))
        }
    }
}

/// What becomes of a merge that came to no end.
fn goes_on(group: Group<'_>) -> String {
    format!("{} says that it merges: LVM goes on when it activates the origin", group.found.vg.name)
}

fn show(done: &Done<'_>, group: Group<'_>, out: &mut Output) -> Result<(), Failure> {
    let Done { snapshot, origin, exceptions, bytes, others, metadata, seconds, .. } = done;
    out.line(format_args!(
        "merged {} ({}) into {origin}, {seconds:.1} s",
        Count(*exceptions, "exception"),
        Bytes(*bytes),
    ))?;
    show_kept(others, |name| group.name_of(name).to_string(), out)?;
    if let Some(Metadata { backup, seqno }) = metadata {
        let vg = &group.found.vg.name;
        let backup = backup.display();
        out.line(format_args!("{vg}: {snapshot} is no longer in it (metadata {seqno})"))?;
        out.line(format_args!("{vg}: the metadata before: {backup}"))?;
    }
    Ok(())
}
