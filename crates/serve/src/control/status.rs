use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dmsnap::device::{Change, Device};
use dmsnap::volume::{Snapshot, Volume};

use super::api::{ExportStatus, OriginStatus, SnapshotStatus, Status};
use super::metrics::Numbers;
use crate::export::{Exports, Kind, Use};
use crate::forecast::Forecast;
use crate::{MergePhase, Merger};

/// In bytes; sizes of stores are given in sectors.
const SECTOR_BYTES: u64 = 512;

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// Of the program.
    pub version: String,
    /// As it was named to the server.
    pub origin: String,
    /// Clients' writes are refused.
    pub read_only: bool,
}

/// Looks at a volume, its exports and its merges; changes nothing.
pub(super) struct Monitor<O, C> {
    volume: Rc<Volume<O, C>>,
    exports: Exports,
    merger: Rc<Merger<O, C>>,
    facts: ServerFacts,
    started: Instant,
    /// The COW devices of the snapshots, as they were named.
    cows: RefCell<HashMap<String, String>>,
    forecasts: RefCell<HashMap<String, Forecast>>,
    last_tick: Cell<Instant>,
    /// What somebody else has done to the origin.
    origin_change: Cell<Option<Change>>,
}

impl<O: Device + 'static, C: Device + 'static> Monitor<O, C> {
    pub(super) fn new(
        volume: Rc<Volume<O, C>>,
        exports: Exports,
        merger: Rc<Merger<O, C>>,
        facts: ServerFacts,
    ) -> Self {
        Self {
            volume,
            exports,
            merger,
            facts,
            started: Instant::now(),
            cows: RefCell::default(),
            forecasts: RefCell::default(),
            last_tick: Instant::now().into(),
            origin_change: Cell::default(),
        }
    }

    /// What somebody else has done to the origin.
    pub(super) fn set_origin_change(&self, change: Option<Change>) {
        self.origin_change.set(change);
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.facts.read_only
    }

    /// The COW device of a snapshot, as it was named.
    pub(super) fn name_cow(&self, snapshot: &str, cow: String) {
        self.cows.borrow_mut().insert(snapshot.into(), cow);
    }

    /// The snapshot is gone.
    pub(super) fn forget_cow(&self, snapshot: &str) {
        self.cows.borrow_mut().remove(snapshot);
    }

    /// Looks how fast stores fill.
    pub(super) fn tick(&self) {
        let since = self.last_tick.replace(Instant::now()).elapsed();
        let snapshots = self.volume.snapshots();
        let mut forecasts = self.forecasts.borrow_mut();
        forecasts.retain(|name, _| snapshots.iter().any(|it| it.name() == name));
        for snapshot in snapshots {
            let Some(usage) = snapshot.usage() else { continue };
            let allocated = usage.allocated * SECTOR_BYTES;
            match forecasts.get_mut(snapshot.name()) {
                Some(forecast) => forecast.see(allocated, since),
                None => {
                    let mut forecast = Forecast::default();
                    forecast.see(allocated, Duration::ZERO);
                    forecasts.insert(snapshot.name().into(), forecast);
                }
            }
        }
    }

    /// How everything is.
    pub(super) fn status(&self) -> Status {
        Status {
            version: self.facts.version.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            read_only: self.facts.read_only,
            origin: OriginStatus {
                path: self.facts.origin.clone(),
                len_bytes: self.volume.len_bytes(),
                read_only: self.facts.read_only || self.volume.origin_device().is_read_only(),
                changed: self.origin_change.get().map(|change| change.to_string()),
            },
            snapshots: self.volume.snapshots().iter().map(|it| self.snapshot(it)).collect(),
            merge: self.merger.progress(),
            exports: self.exports.uses().iter().map(used).collect(),
        }
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers { status: self.status(), uses: self.exports.uses() }
    }

    /// How a snapshot is.
    #[allow(
        clippy::redundant_closure_for_method_calls,
        reason = "the path of the type is of a lower floor"
    )]
    pub(super) fn snapshot(&self, snapshot: &Rc<Snapshot<C>>) -> SnapshotStatus {
        let name = snapshot.name();
        let usage = snapshot.usage();
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
        let options = snapshot.options();
        let forecast = self.forecasts.borrow().get(name).copied().unwrap_or_default();
        let most = options.max_bytes.unwrap_or(0);
        let room = usage.map(|it| bytes(it.total).max(most).saturating_sub(bytes(it.allocated)));
        let merge = self.merger.progress().filter(|merge| merge.snapshot == name);
        let merged = merge.as_ref().is_some_and(|merge| merge.state == MergePhase::Finished);
        let merging = merge.is_some() && !merged;
        let slots = snapshot.metadata_writes_and_flushes();
        SnapshotStatus {
            name: name.into(),
            cow: self.cows.borrow().get(name).cloned().unwrap_or_default(),
            len_bytes: snapshot.len_bytes(),
            persistent: snapshot.is_persistent(),
            state: snapshot.state(),
            merging,
            merged,
            way_back: snapshot.is_way_back(),
            partner: self.volume.partner(snapshot).map(|it| it.name().into()),
            status: self.volume.status(snapshot),
            chunk_bytes: snapshot.chunk_size().bytes(),
            total_bytes: usage.map(|it| bytes(it.total)),
            allocated_bytes: usage.map(|it| bytes(it.allocated)),
            metadata_bytes: usage.map(|it| bytes(it.metadata)),
            percent: usage.map(|it| it.percent()),
            exceptions: snapshot.exceptions(),
            unpublished: snapshot.unpublished(),
            memory_bytes: snapshot.memory_bytes() as u64,
            on_full: options.on_full,
            max_size_bytes: options.max_bytes,
            discard_zeroes: options.discard_zeroes,
            discard_passdown: options.discard_passdown,
            fill_bytes_per_second: usage.and(forecast.per_second()),
            seconds_to_full: room.and_then(|room| forecast.seconds_until(room)),
            metadata_writes: slots.map(|(writes, _)| writes),
            metadata_flushes: slots.map(|(_, flushes)| flushes),
        }
    }
}

fn used(it: &Use) -> ExportStatus {
    let of = |kind: Kind| it.counts[kind as usize];
    ExportStatus {
        name: it.name.clone(),
        connections: it.connections as u64,
        requests: it.counts.iter().map(|it| it.requests).sum(),
        errors: it.counts.iter().map(|it| it.errors).sum(),
        read_bytes: of(Kind::Read).bytes,
        written_bytes: of(Kind::Write).bytes,
    }
}
