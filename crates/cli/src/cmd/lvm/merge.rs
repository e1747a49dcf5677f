use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dmsnap::device::Mode;
use dmsnap::ops::{Kept, MergePlan, Merged};
use dmsnap_images::{Group, GroupMerged, Merge, Volumes};
use serde::Serialize;

use super::way_back::{self, Place};
use super::words::address;
use crate::cmd::merging::{InGroup, Options, Planned, show_kept, show_plan_with_others, stopped};
use crate::cmd::undoable::show_undo_plan;
use crate::device_arg::Address;
use crate::exit::Outcome;
use crate::output::Output;
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

    /// Keep a way back in FILE, which is made; a device is taken as well, if it is blank
    ///
    /// What the merge writes over is kept there first: with --dry-run, how much that is. It shows the old origin as
    /// long as nobody else writes to that: `dmsnap export FILE lvm:IMAGE:VG/ORIGIN OUTPUT`. To take the merge back,
    /// bring the group's metadata back first, by `vgcfgrestore` from the file of --backup, then: `dmsnap undo
    /// lvm:IMAGE:VG/SNAPSHOT lvm:IMAGE:VG/ORIGIN FILE`. With --no-metadata, or after a merge that was stopped, that
    /// needs no `vgcfgrestore`.
    #[arg(long, value_name = "FILE")]
    undo: Option<PathBuf>,

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
  The same with a way back:
    dmsnap lvm merge --undo undo.cow disk.img vg0/before-upgrade
  A volume group on two disks:
    dmsnap lvm merge /dev/sdb /dev/sdc vg0/before-upgrade";

impl Args {
    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let options = (&self.options, &self.in_group, self.undo.as_deref());
        merge_snapshot(&address(&self.words)?, options, out).await
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
    /// With --undo.
    kept_chunks: Option<u64>,
    kept_bytes: Option<u64>,
    /// Other snapshots of the origin.
    others: &'a [Kept],
    /// `None` with --no-metadata.
    metadata: Option<Metadata>,
    seconds: f64,
    #[serde(skip)]
    merged: Merged,
}

#[derive(Serialize)]
struct Metadata {
    backup: PathBuf,
    seqno: u64,
}

/// See [`Merge::run`] for the order of writes.
pub(in crate::cmd) async fn merge_snapshot(
    address: &Address,
    (options, in_group, undo): (&Options, &InGroup, Option<&Path>),
    out: &mut Output,
) -> Result<Outcome, Failure> {
    let volumes = Volumes::new(warn);
    // A dry run refuses what the merge refuses.
    let scan = volumes.scan(&address.images, Mode::Write, options.io.into()).await?;
    scan.refuse_raid_members().await?;
    let group = scan.group_of(&address.name)?;
    let name = &address.name.volume;
    let origin = &group.snapshot(name)?.origin;
    let merge = Merge::plan(group, name, options.merge_options(), in_group.into()).await?;
    let place = match undo {
        Some(path) => Some(Place::find(path, address, options, &merge).await?),
        None => None,
    };
    if let (true, Some(place)) = (options.dry_run, &place) {
        return show_undo_plan(&place.plan, options.json, out);
    }
    if options.dry_run {
        let MergePlan { exceptions, bytes, .. } = merge.data();
        let others = merge.others().to_vec();
        show_plan_with_others(Planned { exceptions, bytes, others }, options.json, out)?;
        return Ok(Outcome::Yes);
    }
    let made = match place {
        Some(place) => Some(place.make(address, options).await?),
        None => None,
    };
    let watch = options.watch()?;
    let ran = merge.run(made.as_ref().map(|made| &made.way_back), &watch).await;
    if let Some(made) = made {
        made.keep().await;
    }
    let done = ran.map_err(|failed| match failed.is_under_way {
        true => Failure::from(failed.error).advise(goes_on(group)),
        false => failed.error.into(),
    })?;
    watch.done();
    let done = Done::new(name, origin, &done, watch.seconds());
    match options.json {
        true => out.json(&done)?,
        false => show(&done, group, out)?,
    }
    if let (Some(path), false) = (undo, options.json) {
        let there = |name: &str| format!("{}/{name}", group.found.vg.name);
        let backup = done.metadata.as_ref().map(|it| &it.backup);
        way_back::show(path, (&there(name), &there(origin)), backup, out)?;
    }
    done.outcome(group, in_group)
}

impl<'a> Done<'a> {
    fn new(snapshot: &'a str, origin: &'a str, done: &'a GroupMerged, seconds: f64) -> Self {
        let Merged { finished, exceptions, left, bytes, .. } = done.merged;
        let metadata = done.metadata.as_ref();
        let metadata = metadata.map(|it| Metadata { backup: it.backup.clone(), seqno: it.seqno });
        let (merged, others) = (done.merged, &done.others[..]);
        let (kept_chunks, kept_bytes) = done.kept.unzip();
        Self {
            snapshot,
            origin,
            finished,
            exceptions,
            left,
            bytes,
            kept_chunks,
            kept_bytes,
            others,
            metadata,
            seconds,
            merged,
        }
    }

    fn outcome(&self, group: Group<'_>, in_group: &InGroup) -> Result<Outcome, Failure> {
        if self.finished {
            return Ok(Outcome::Yes);
        }
        let left = match in_group.no_metadata {
            true => "the volume group does not say so, and must not be activated as it is",
            false => &goes_on(group),
        };
        Err(about_volume(group, self.snapshot, stopped(self.merged))
            .advise(left)
            .advise("the same command goes on"))
    }
}

/// What becomes of a merge that was stopped or failed.
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
    if let (Some(chunks), Some(bytes)) = (done.kept_chunks, done.kept_bytes) {
        out.line(format_args!("kept {} ({})", Count(chunks, "chunk"), Bytes(bytes)))?;
    }
    show_kept(others, |name| group.name_of(name).to_string(), out)?;
    if let Some(Metadata { backup, seqno }) = metadata {
        let vg = &group.found.vg.name;
        let backup = backup.display();
        out.line(format_args!("{vg}: {snapshot} is no longer in it (metadata {seqno})"))?;
        out.line(format_args!("{vg}: the metadata before: {backup}"))?;
    }
    Ok(())
}
