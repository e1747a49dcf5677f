use std::path::PathBuf;

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, Info};
use dmsnap_images::{Group, Volumes};
use dmsnap_lvm::{Activity, LogicalVolume, SECTOR_BYTES, Snapshot};
use serde::Serialize;

use crate::columns;
use crate::exit::Outcome;
use crate::output::Output;
use crate::refusals::{about_volume, warn};
use crate::report::{Failure, tell};
use crate::size::Bytes;

/// List the volumes of disks and images, as `lvs` does
///
/// Of snapshots also how full they are, which LVM shows only of active ones: the stores are read. A
/// snapshot that merges stands in brackets.
///
/// Nothing is written and no lock is taken.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// All disks of the volume groups
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    /// Also the hidden parts of other volumes
    #[arg(long, short)]
    all: bool,

    /// A report shaped as that of `lvs --reportformat json --units b`
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  For reading:
    dmsnap lvm list disk.img
  The snapshots of a volume group on two disks, in a script:
    dmsnap lvm list --json a.img b.img | jq -r '.report[0].lv[] | select(.origin != \"\") | .lv_name'";

#[derive(Serialize)]
struct Reports {
    report: [Report; 1],
}

#[derive(Serialize)]
struct Report {
    lv: Vec<Row>,
}

/// A volume, in LVM's words.
#[derive(Serialize)]
struct Row {
    lv_name: String,
    vg_name: String,
    lv_uuid: String,
    lv_attr: String,
    lv_layout: String,
    lv_role: String,
    lv_size: String,
    origin: String,
    origin_size: String,
    data_percent: String,
    snap_percent: String,
    chunk_size: String,
    lv_merging: String,
    lv_snapshot_invalid: String,
    lv_merge_failed: String,
    seg_count: String,
    lv_tags: String,
    /// With a store of its own.
    #[serde(skip)]
    is_snapshot: bool,
}

impl Args {
    pub(super) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let volumes = Volumes::new(warn);
        let scan = volumes.scan(&self.images, Mode::Look, Caching::Buffered).await?;
        let mut rows = Vec::new();
        for group in scan.groups() {
            group.same_name().map(Failure::from).into_iter().for_each(tell);
            let vg = &group.found.vg;
            let known = |lv: &&LogicalVolume| {
                let shown = vg.is_visible(lv) || vg.snapshot(&lv.name).is_some();
                !lv.is_holder() && (self.all || shown)
            };
            let mut lvs: Vec<_> = group.found.vg.lvs.iter().filter(known).collect();
            lvs.sort_by(|a, b| a.name.cmp(&b.name));
            for lv in lvs {
                rows.push(Row::new(group, lv).await);
            }
        }
        match self.json {
            true => out.json(&Reports { report: [Report { lv: rows }] })?,
            false => show(&rows, out)?,
        }
        Ok(Outcome::Yes)
    }
}

impl Row {
    async fn new(group: Group<'_>, lv: &LogicalVolume) -> Self {
        let vg = &group.found.vg;
        let snapshot = vg.snapshot(&lv.name);
        let store = match snapshot {
            Some(_) => store(group, &lv.name).await,
            None => None,
        };
        let invalid = store.as_ref().is_some_and(|store| !store.valid);
        let activity = if invalid { Activity::Invalid } else { Activity::Inactive };
        let percent = store.as_ref().map_or(String::new(), percent);
        let merging = snapshot.is_some_and(|it| it.merging)
            || vg.snapshots_of(&lv.name).any(|snapshot| snapshot.merging);
        let is_origin = vg.snapshots_of(&lv.name).next().is_some();
        let origin_bytes = match snapshot {
            Some(snapshot) => Some(vg.snapshot_bytes(snapshot)),
            None => is_origin.then(|| vg.size_bytes(lv)),
        };
        Self {
            lv_name: if vg.is_visible(lv) { lv.name.clone() } else { format!("[{}]", lv.name) },
            vg_name: vg.name.clone(),
            is_snapshot: snapshot.is_some(),
            lv_uuid: lv.id.to_string(),
            lv_attr: vg.lv_attr(
                lv,
                activity,
                group.found.mapping(&lv.name).is_err() && group.found.is_partial(),
            ),
            lv_layout: vg.lv_layout(lv),
            lv_role: vg.lv_role(lv),
            lv_size: bytes(vg.size_bytes(lv)),
            origin: vg.origin_of(lv).unwrap_or_default(),
            origin_size: origin_bytes.map_or(String::new(), bytes),
            data_percent: percent.clone(),
            snap_percent: percent,
            chunk_size: bytes(snapshot.map_or(0, chunk_bytes)),
            lv_merging: if merging { "merging" } else { "" }.into(),
            lv_snapshot_invalid: match (&store, invalid) {
                (None, _) => "unknown",
                (_, true) => "snapshot invalid",
                (_, false) => "",
            }
            .into(),
            lv_merge_failed: if store.is_some() { "" } else { "unknown" }.into(),
            seg_count: lv.segments.len().to_string(),
            lv_tags: lv.tags.join(","),
        }
    }
}

/// What a snapshot's store says. Why it says nothing is reported.
async fn store(group: Group<'_>, name: &str) -> Option<Info> {
    let read = async {
        let cow = group.device(name)?;
        ops::info(&cow).await.map_err(|error| about_volume(group, name, error))
    };
    read.await.map_err(|failure: Failure| tell(failure)).ok()
}

fn chunk_bytes(snapshot: &Snapshot) -> u64 {
    snapshot.chunk_sectors.saturating_mul(SECTOR_BYTES)
}

fn bytes(bytes: u64) -> String {
    format!("{bytes}B")
}

/// As LVM: neither 0 nor 100 unless it is, and an invalid snapshot is full.
fn percent(store: &Info) -> String {
    match store.percent {
        _ if !store.valid => "100.00".into(),
        percent if percent > 0.0 && percent < 0.01 => "0.01".into(),
        percent if percent > 99.99 && percent < 100.0 => "99.99".into(),
        percent => format!("{percent:.2}"),
    }
}

fn show(rows: &[Row], out: &mut Output) -> Result<(), Failure> {
    let heads = ["LV", "VG", "Attr", "LSize", "Origin", "Data%", "Chunk", "Merging", "Valid"];
    columns::show(heads, rows.iter().map(cells), out)
}

fn cells(row: &Row) -> [String; 9] {
    let size = |text: &str| {
        let bytes = text.trim_end_matches('B').parse().unwrap_or(0);
        if bytes == 0 { String::new() } else { Bytes(bytes).to_string() }
    };
    let valid = match (row.is_snapshot, &*row.lv_snapshot_invalid) {
        (false, _) => "",
        (_, "") => "yes",
        (_, "unknown") => "unknown",
        _ => "no",
    };
    [
        row.lv_name.clone(),
        row.vg_name.clone(),
        row.lv_attr.clone(),
        size(&row.lv_size),
        row.origin.clone(),
        row.data_percent.clone(),
        size(&row.chunk_size),
        if row.lv_merging.is_empty() { "" } else { "yes" }.into(),
        valid.into(),
    ]
}
