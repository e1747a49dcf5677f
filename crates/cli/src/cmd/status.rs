use std::time::Duration;

use dmsnap::format::SECTOR_BYTES;
use dmsnap_serve::State;
use dmsnap_serve::control::{SnapshotStatus, Status};
use dmsnap_serve::{MergePhase, MergeProgress, ORIGIN};
use indicatif::HumanDuration;

use crate::columns;
use crate::output::Output;
use crate::report::Failure;
use crate::size::{Bytes, Count};

/// Heads of [`row`].
const SNAPSHOT_HEADS: [&str; 9] =
    ["SNAPSHOT", "STATE", "FILL", "USED", "SIZE", "EXCEPTIONS", "CHUNK", "FULL IN", "COW"];

/// What `dmsetup status` would print if device-mapper had mapped it.
pub(crate) fn dmsetup(status: &Status, out: &mut Output) -> Result<(), Failure> {
    let sectors = status.origin.len_bytes / SECTOR_BYTES;
    // A target without a status has a blank after it all the same.
    out.line(format_args!("{ORIGIN}: 0 {sectors} snapshot-origin "))?;
    for snapshot in &status.snapshots {
        let target =
            if snapshot.merging || snapshot.merged { "snapshot-merge" } else { "snapshot" };
        let SnapshotStatus { name, status, .. } = snapshot;
        out.line(format_args!("{name}: 0 {sectors} {target} {status}"))?;
    }
    Ok(())
}

/// What `dmsnap serve --table` takes to serve the same.
pub(crate) fn table(status: &Status, out: &mut Output) -> Result<(), Failure> {
    let (origin, bytes) = (word(&status.origin.path), status.origin.len_bytes);
    out.line(format_args!("{ORIGIN}: 0 {} snapshot-origin {origin}", bytes / SECTOR_BYTES))?;
    for it in &status.snapshots {
        let name = word(&it.name);
        if it.state == State::Invalid {
            out.line(format_args!("# {name} was dropped"))?;
            continue;
        }
        let target = if it.merging || it.merged { "snapshot-merge" } else { "snapshot" };
        let (sectors, chunk) = (it.len_bytes / SECTOR_BYTES, it.chunk_bytes / SECTOR_BYTES);
        let (cow, store) = (word(&it.cow), if it.persistent { "P" } else { "N" });
        let features = match (it.discard_zeroes, it.discard_passdown) {
            (true, true) => " 2 discard_zeroes_cow discard_passdown_origin",
            (true, false) => " 1 discard_zeroes_cow",
            (false, _) => "",
        };
        out.line(format_args!(
            "{name}: 0 {sectors} {target} {origin} {cow} {store} {chunk}{features}"
        ))?;
    }
    Ok(())
}

/// A word of a table: a blank is \040, as in fstab.
fn word(text: &str) -> String {
    let escaped = |it: char| match it {
        '\\' => "\\134".into(),
        it if it.is_ascii_whitespace() => format!("\\{:03o}", u32::from(it)),
        it => it.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Everything, in tables.
pub(crate) fn status(status: &Status, out: &mut Output) -> Result<(), Failure> {
    let origin = &status.origin;
    let up = HumanDuration(Duration::from_secs_f64(status.seconds.max(0.0)));
    let read_only = match (status.read_only, origin.read_only) {
        (true, _) => ", read-only",
        (false, true) => ", itself read-only",
        (false, false) => "",
    };
    let size = Bytes(origin.len_bytes);
    let path = &origin.path;
    out.line(format_args!("origin {path}: {size}, served for {up}{read_only}"))?;
    if let Some(change) = &origin.changed {
        out.line(format_args!("the origin is not what it was: {change}"))?;
    }
    if !status.snapshots.is_empty() {
        out.line("")?;
        columns::show(SNAPSHOT_HEADS, status.snapshots.iter().map(row), out)?;
    }
    if let Some(progress) = &status.merge {
        out.line("")?;
        merge(progress, out)?;
    }
    out.line("")?;
    let heads = ["EXPORT", "CLIENTS", "REQUESTS", "ERRORS", "READ", "WRITTEN"];
    let rows = status.exports.iter().map(|it| {
        [
            it.name.clone(),
            it.connections.to_string(),
            it.requests.to_string(),
            it.errors.to_string(),
            Bytes(it.read_bytes).to_string(),
            Bytes(it.written_bytes).to_string(),
        ]
    });
    columns::show(heads, rows, out)
}

/// One snapshot, on a line.
pub(crate) fn snapshot(it: &SnapshotStatus, out: &mut Output) -> Result<(), Failure> {
    let SnapshotStatus { name, status, exceptions, .. } = it;
    out.line(format_args!("{name}: {status}, {}", Count(*exceptions, "exception")))
}

/// The same at more length: its state, how full it is, and when it will be full.
pub(crate) fn snapshot_line(it: &SnapshotStatus) -> String {
    let mut line = format!("{}: {}", it.name, state(it));
    if let Some(percent) = it.percent {
        line += &format!(", {percent:.2} % full");
    }
    if let (Some(used), Some(total)) = (it.allocated_bytes, it.total_bytes) {
        line += &format!(", {} of {}", Bytes(used), Bytes(total));
    }
    line += &format!(", {}", Count(it.exceptions, "exception"));
    if let Some(partner) = &it.partner {
        line += &format!(", partner {partner}");
    }
    if let Some(full) = full_in(it) {
        line += &format!(", full in {full}");
    }
    line
}

/// A merge, on a line.
pub(crate) fn merge(it: &MergeProgress, out: &mut Output) -> Result<(), Failure> {
    out.line(merge_line(it))
}

/// How far a merge is, and how fast.
pub(crate) fn merge_line(it: &MergeProgress) -> String {
    let (done, total) = (it.bytes_total.saturating_sub(it.bytes_left), it.bytes_total);
    let state = match it.state {
        MergePhase::Running => "running",
        MergePhase::Pausing => "pausing",
        MergePhase::Paused => "paused",
        MergePhase::Finished => "finished",
        MergePhase::Failed => "failed",
    };
    let name = &it.snapshot;
    let mut line = format!("merge of {name}: {state}, {} of {} done", Bytes(done), Bytes(total));
    if let Some(speed) = it.bytes_per_second {
        line += &format!(", {}/s", Bytes(speed));
    }
    if let Some(left) = it.seconds_left {
        line += &format!(", {:#} left", HumanDuration(Duration::from_secs(left)));
    }
    if let Some(rate) = it.rate_bytes_per_second {
        line += &format!(", at most {}/s", Bytes(rate));
    }
    match (&it.way_back, it.way_back_lost) {
        (Some(way_back), _) => line += &format!(", way back: {way_back}"),
        (None, true) => line += ", its way back is lost",
        (None, false) => {}
    }
    if let Some(error) = &it.error {
        line += &format!(": {error}");
    }
    line
}

fn state(it: &SnapshotStatus) -> &'static str {
    match (it.state, it.merging) {
        (State::Invalid, _) => "invalid",
        (_, true) => "merging",
        _ if it.merged => "merged",
        (State::Active, _) if it.way_back => "way back",
        (State::Active, _) => "active",
        (State::Overflowed, _) => "overflow",
    }
}

/// When it will be full, unless that is far away.
fn full_in(it: &SnapshotStatus) -> Option<String> {
    let seconds = it.seconds_to_full.filter(|it| it.is_finite() && *it < 1e9);
    seconds.map(|it| HumanDuration(Duration::from_secs_f64(it)).to_string())
}

fn row(it: &SnapshotStatus) -> [String; 9] {
    let known = |bytes: Option<u64>| bytes.map_or("-".into(), |it| Bytes(it).to_string());
    [
        it.name.clone(),
        state(it).into(),
        it.percent.map_or("-".into(), |percent| format!("{percent:.2} %")),
        known(it.allocated_bytes),
        known(it.total_bytes),
        it.exceptions.to_string(),
        Bytes(it.chunk_bytes).to_string(),
        full_in(it).unwrap_or("-".into()),
        it.cow.clone(),
    ]
}
