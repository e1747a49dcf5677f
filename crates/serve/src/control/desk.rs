use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dmsnap::device::Device;
use dmsnap::sync::{Event, Signal};
use dmsnap::volume::{Snapshot, State, View, Volume};
use futures_channel::oneshot;

use super::metrics::Numbers;
use super::refusal::{Code, Refusal};
use super::route::Verb;
use super::{
    ExportStatus, Grow, NewSnapshot, OnFullText, OriginStatus, SnapshotState, SnapshotStatus,
    StartMerge, Status, TuneMerge,
};
use crate::forecast::Forecast;
use crate::nbd::{Exports, Kind, Use};
use crate::{Live, MergePhase, MergeProgress, Merger, ORIGIN};

/// Opens what a client names: whoever started the server knows how.
#[allow(async_fn_in_trait, reason = "all of it stays on the volume's thread")]
pub trait Opener<O, C>: 'static {
    /// Opens the COW device of a new snapshot, after making a store there if that is asked for, and
    /// adds it to the volume. The name has been looked at.
    ///
    /// # Errors
    ///
    /// Why not; then the volume is as it was.
    async fn open(
        &self,
        volume: &Volume<O, C>,
        wanted: &NewSnapshot,
    ) -> Result<Rc<Snapshot<C>>, Refusal>;

    /// Looks whether a merge may write to the origin.
    ///
    /// # Errors
    ///
    /// Why not.
    async fn may_merge(&self, volume: &Volume<O, C>) -> Result<(), Refusal>;
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of the program.
    pub version: String,
    /// As it was named to the server.
    pub origin: String,
    /// Clients' writes are refused.
    pub read_only: bool,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Call {
    Status,
    Metrics,
    Snapshot(String),
    Create(NewSnapshot),
    Remove(String),
    Invalidate(String),
    Grow(String, Grow),
    Flush(String),
    FlushAll,
    Merge,
    StartMerge(StartMerge),
    TuneMerge(TuneMerge),
    PauseMerge,
    ResumeMerge,
    CancelMerge,
    Shutdown,
}

impl Call {
    /// From what a request says.
    pub(super) fn new(verb: Verb, name: String, body: &[u8]) -> Result<Self, Refusal> {
        Ok(match verb {
            Verb::Status => Self::Status,
            Verb::Metrics => Self::Metrics,
            Verb::Snapshot => Self::Snapshot(name),
            Verb::Create => Self::Create(parse(body)?),
            Verb::Remove => Self::Remove(name),
            Verb::Invalidate => Self::Invalidate(name),
            Verb::Grow => Self::Grow(name, parse(body)?),
            Verb::Flush => Self::Flush(name),
            Verb::FlushAll => Self::FlushAll,
            Verb::Merge => Self::Merge,
            Verb::StartMerge => Self::StartMerge(parse(body)?),
            Verb::TuneMerge => Self::TuneMerge(parse(body)?),
            Verb::PauseMerge => Self::PauseMerge,
            Verb::ResumeMerge => Self::ResumeMerge,
            Verb::CancelMerge => Self::CancelMerge,
            Verb::Shutdown => Self::Shutdown,
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(Code::BadRequest, format_args!("the body: {error}")))
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Accepted,
    Status(Box<Status>),
    Snapshot(SnapshotStatus),
    Created(SnapshotStatus),
    Merge(MergeProgress),
    Numbers(Box<Numbers>),
}

/// A call on its way to the volume's thread.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) call: Call,
    pub(super) answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Does what clients of the control socket ask for, on the volume's thread.
pub struct Desk<O, C, P> {
    volume: Rc<Volume<O, C>>,
    exports: Exports,
    merger: Rc<Merger<O, C>>,
    opener: P,
    facts: Facts,
    begun: Instant,
    /// The COW devices of the snapshots, as they were named.
    cows: RefCell<HashMap<String, String>>,
    forecasts: RefCell<HashMap<String, Forecast>>,
    looked: Cell<Instant>,
    /// Snapshots that a call changes at the moment.
    changing: RefCell<HashSet<String>>,
    running: Cell<usize>,
    ended: Event,
    shutdown: Signal,
}

impl<O: Device + 'static, C: Device + 'static, P: Opener<O, C>> Desk<O, C, P> {
    /// For a volume, what is served of it, and its merges.
    pub fn new(
        volume: Rc<Volume<O, C>>,
        exports: Exports,
        merger: Rc<Merger<O, C>>,
        opener: P,
        facts: Facts,
    ) -> Rc<Self> {
        Rc::new(Self {
            volume,
            exports,
            merger,
            opener,
            facts,
            begun: Instant::now(),
            cows: RefCell::default(),
            forecasts: RefCell::default(),
            looked: Instant::now().into(),
            changing: RefCell::default(),
            running: Cell::default(),
            ended: Event::default(),
            shutdown: Signal::default(),
        })
    }

    /// The COW device of a snapshot that was there before, as it was named.
    pub fn name_cow(&self, snapshot: &str, cow: &Path) {
        self.cows.borrow_mut().insert(snapshot.into(), cow.display().to_string());
    }

    /// To be called about once a second: looks how fast stores fill.
    pub fn tick(&self) {
        let since = self.looked.replace(Instant::now()).elapsed();
        let snapshots = self.volume.snapshots();
        let mut forecasts = self.forecasts.borrow_mut();
        forecasts.retain(|name, _| snapshots.iter().any(|it| it.name() == name));
        for snapshot in snapshots {
            let Some(usage) = snapshot.usage() else { continue };
            match forecasts.get_mut(snapshot.name()) {
                Some(forecast) => forecast.see(usage.allocated * 512, since),
                None => {
                    let mut forecast = Forecast::default();
                    forecast.see(usage.allocated * 512, Duration::ZERO);
                    forecasts.insert(snapshot.name().into(), forecast);
                }
            }
        }
    }

    /// Returns when a client has asked the server to end.
    pub async fn shutdown_asked(&self) {
        self.shutdown.wait().await;
    }

    /// Does what a client asks for, on a task of its own.
    pub(super) fn take(self: &Rc<Self>, errand: Errand) {
        let desk = self.clone();
        desk.running.set(desk.running.get() + 1);
        // Detached: what changes something goes on whatever becomes of the client.
        let task = async move {
            let answer = desk.call(errand.call).await;
            let _ = errand.answer.send(answer);
            desk.running.set(desk.running.get() - 1);
            desk.ended.notify();
        };
        compio::runtime::spawn(task).detach();
    }

    /// Returns when the calls that were begun have ended.
    pub(super) async fn done(&self) {
        self.ended.until(|| (self.running.get() == 0).then_some(())).await;
    }

    async fn call(&self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::Status => Ok(Answer::Status(Box::new(self.status()))),
            Call::Metrics => Ok(Answer::Numbers(Box::new(self.numbers()))),
            Call::Snapshot(name) => self.shown(&name),
            Call::Create(wanted) => self.create(&wanted).await,
            Call::Remove(name) => self.remove(&name).await,
            Call::Invalidate(name) => self.invalidate(&name).await,
            Call::Grow(name, grow) => self.grow(&name, grow.size_bytes).await,
            Call::Flush(name) => self.flush(&name).await,
            Call::FlushAll => {
                let flushed = self.volume.flush_all().await;
                flushed.map_err(|error| Refusal::of("flush", error))?;
                Ok(Answer::Done)
            }
            Call::Merge => self.merge(),
            Call::StartMerge(start) => self.start_merge(&start).await,
            Call::TuneMerge(tune) => self.tune_merge(tune),
            Call::PauseMerge => self.merge_did(self.merger.pause()),
            Call::ResumeMerge => {
                let _held = self.hold(&self.merging_name()?)?;
                self.merge_did(self.merger.resume())
            }
            Call::CancelMerge => self.cancel_merge().await,
            Call::Shutdown => {
                self.shutdown.raise();
                Ok(Answer::Accepted)
            }
        }
    }

    async fn create(&self, wanted: &NewSnapshot) -> Result<Answer, Refusal> {
        let name = wanted.name.as_str();
        if name.is_empty() || name == ORIGIN || name.chars().any(char::is_control) {
            let found = format_args!("found the name `{}`", name.escape_debug());
            let rule = "it must not be empty, nor `origin`, nor hold control characters";
            return Err(Refusal::new(Code::BadRequest, format_args!("{found}; {rule}")));
        }
        if !Path::new(&wanted.cow).is_absolute() {
            let found = format_args!("found the path `{}`; it must be absolute", wanted.cow);
            return Err(Refusal::new(Code::BadRequest, found));
        }
        let _held = self.hold(name)?;
        let in_use = || Refusal::new(Code::NameInUse, format_args!("{name}: the name is in use"));
        if self.exports.names().iter().any(|known| known == name) {
            return Err(in_use());
        }
        if let Some(merge) = self.unfinished_merge() {
            let found = format_args!("{merge} is merging; until it has, nothing can be added");
            return Err(Refusal::new(Code::Merging, found));
        }
        let snapshot = self.opener.open(&self.volume, wanted).await?;
        let export = Live::snapshot(&self.volume, &snapshot, self.facts.read_only);
        if self.exports.add(export).is_err() {
            let _ = self.volume.remove(&snapshot).await;
            return Err(in_use());
        }
        self.name_cow(name, Path::new(&wanted.cow));
        Ok(Answer::Created(self.look(&snapshot)))
    }

    /// First the export, then the snapshot: no client sees it half gone.
    async fn remove(&self, name: &str) -> Result<Answer, Refusal> {
        let snapshot = self.find(name)?;
        let _held = self.hold(name)?;
        self.refuse_merging(name)?;
        self.exports.remove(name).await;
        let removed = self.volume.remove(&snapshot).await;
        self.cows.borrow_mut().remove(name);
        self.merger.forget_removed();
        let found = |error| format!("{name}: removed, but the last flush failed: {error}");
        removed.map_err(|error| Refusal::new(Code::Device, found(error)))?;
        Ok(Answer::Done)
    }

    async fn invalidate(&self, name: &str) -> Result<Answer, Refusal> {
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        let _held = self.hold(name)?;
        self.refuse_merging(name)?;
        let marked = self.volume.invalidate(&snapshot).await;
        marked.map_err(|error| Refusal::of(name, error))?;
        Ok(Answer::Snapshot(self.look(&snapshot)))
    }

    async fn grow(&self, name: &str, size_bytes: u64) -> Result<Answer, Refusal> {
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        let _held = self.hold(name)?;
        let now = snapshot.cow_device().len_bytes().map_err(|error| Refusal::of(name, error))?;
        if size_bytes < now {
            let found = format_args!(
                "{name}: its COW device has {now} bytes, and {size_bytes} are less; a store never shrinks"
            );
            return Err(Refusal::new(Code::BadRequest, found));
        }
        let grown = snapshot.cow_device().grow(size_bytes).await;
        grown.map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => {
                let found = "its device does not grow by itself: grow the device below";
                Refusal::new(Code::Unsupported, format_args!("{name}: {found}"))
            }
            _ => Refusal::of(name, error),
        })?;
        // Whoever waits for room looks again.
        self.volume.tick();
        Ok(Answer::Snapshot(self.look(&snapshot)))
    }

    async fn flush(&self, name: &str) -> Result<Answer, Refusal> {
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        let flushed = View::snapshot(&self.volume, &snapshot).flush().await;
        flushed.map_err(|error| Refusal::of(name, error))?;
        Ok(Answer::Done)
    }

    fn merge(&self) -> Result<Answer, Refusal> {
        self.merger.progress().map(Answer::Merge).ok_or_else(not_merging)
    }

    async fn start_merge(&self, start: &StartMerge) -> Result<Answer, Refusal> {
        let name = &start.snapshot;
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        if !snapshot.is_persistent() {
            let found = format_args!("{name}: a transient snapshot cannot be merged");
            return Err(Refusal::new(Code::Unsupported, found));
        }
        let _held = self.hold(name)?;
        if let Some(merge) = self.unfinished_merge() {
            return Err(Refusal::new(Code::Merging, format_args!("{merge} is merging")));
        }
        self.opener.may_merge(&self.volume).await?;
        let (rate, window) = (start.rate_bytes_per_second, start.window_bytes);
        self.tune(TuneMerge { rate_bytes_per_second: rate, window_bytes: window })?;
        self.merger.start(&snapshot).await.map_err(|error| Refusal::of(name, error))?;
        self.merge()
    }

    fn tune_merge(&self, tune: TuneMerge) -> Result<Answer, Refusal> {
        if self.merger.progress().is_none() {
            return Err(not_merging());
        }
        self.tune(tune)?;
        self.merge()
    }

    fn tune(&self, tune: TuneMerge) -> Result<(), Refusal> {
        if tune.window_bytes == Some(0) {
            return Err(Refusal::new(Code::BadRequest, "found a window of 0 bytes"));
        }
        if let Some(bytes) = tune.window_bytes {
            self.merger.set_window(bytes);
        }
        if let Some(rate) = tune.rate_bytes_per_second {
            self.merger.set_rate((rate > 0).then_some(rate));
        }
        Ok(())
    }

    fn merge_did(&self, done: bool) -> Result<Answer, Refusal> {
        if done { self.merge() } else { Err(not_merging()) }
    }

    async fn cancel_merge(&self) -> Result<Answer, Refusal> {
        let name = self.merging_name()?;
        let _held = self.hold(&name)?;
        let cancelled = self.merger.cancel().await;
        match cancelled.map_err(|error| Refusal::of(&name, error))? {
            Some(name) => self.shown(&name),
            None => Err(not_merging()),
        }
    }

    fn merging_name(&self) -> Result<String, Refusal> {
        self.merger.progress().map(|merge| merge.snapshot).ok_or_else(not_merging)
    }

    /// The name of the snapshot that merges and has not finished.
    fn unfinished_merge(&self) -> Option<String> {
        let merge = self.merger.progress()?;
        (merge.state != MergePhase::Finished).then_some(merge.snapshot)
    }

    fn refuse_read_only(&self) -> Result<(), Refusal> {
        match self.facts.read_only {
            true => Err(Refusal::new(Code::ReadOnly, "the server was started with --read-only")),
            false => Ok(()),
        }
    }

    fn refuse_merging(&self, name: &str) -> Result<(), Refusal> {
        match self.unfinished_merge().is_some_and(|merging| merging == name) {
            true => Err(Refusal::new(
                Code::Merging,
                format_args!("{name} is merging; cancel the merge first"),
            )),
            false => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Result<Rc<Snapshot<C>>, Refusal> {
        let none = || Refusal::new(Code::NotFound, format_args!("no snapshot is named {name}"));
        self.volume.snapshot(name).ok_or_else(none)
    }

    /// Keeps other calls from changing the snapshot of that name.
    fn hold(&self, name: &str) -> Result<Held<'_>, Refusal> {
        match self.changing.borrow_mut().insert(name.into()) {
            true => Ok(Held { changing: &self.changing, name: name.into() }),
            false => Err(Refusal::new(
                Code::Busy,
                format_args!("{name}: another request changes it at the moment"),
            )),
        }
    }

    fn shown(&self, name: &str) -> Result<Answer, Refusal> {
        Ok(Answer::Snapshot(self.look(&self.find(name)?)))
    }

    /// How everything is.
    pub fn status(&self) -> Status {
        Status {
            version: self.facts.version.clone(),
            seconds: self.begun.elapsed().as_secs_f64(),
            read_only: self.facts.read_only,
            origin: OriginStatus {
                path: self.facts.origin.clone(),
                len_bytes: self.volume.len_bytes(),
            },
            snapshots: self.volume.snapshots().iter().map(|it| self.look(it)).collect(),
            merge: self.merger.progress(),
            exports: self.exports.uses().iter().map(used).collect(),
        }
    }

    fn numbers(&self) -> Numbers {
        Numbers { status: self.status(), uses: self.exports.uses() }
    }

    #[allow(
        clippy::redundant_closure_for_method_calls,
        reason = "the path of the type is of a lower floor"
    )]
    fn look(&self, snapshot: &Rc<Snapshot<C>>) -> SnapshotStatus {
        let name = snapshot.name();
        let usage = snapshot.usage();
        let bytes = |sectors: u64| sectors.saturating_mul(512);
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
            persistent: snapshot.is_persistent(),
            state: match snapshot.state() {
                State::Active => SnapshotState::Active,
                State::Overflowed => SnapshotState::Overflowed,
                State::Invalid => SnapshotState::Invalid,
            },
            merging,
            merged,
            status: self.volume.status(snapshot),
            chunk_bytes: snapshot.chunk_size().bytes(),
            total_bytes: usage.map(|it| bytes(it.total)),
            allocated_bytes: usage.map(|it| bytes(it.allocated)),
            metadata_bytes: usage.map(|it| bytes(it.metadata)),
            percent: usage.map(|it| it.percent()),
            exceptions: snapshot.exceptions(),
            unpublished: snapshot.unpublished(),
            memory_bytes: snapshot.memory_bytes() as u64,
            on_full: OnFullText(options.on_full),
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

/// A snapshot that a call changes; free for others when dropped.
struct Held<'a> {
    changing: &'a RefCell<HashSet<String>>,
    name: String,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.changing.borrow_mut().remove(&self.name);
    }
}

fn refuse_invalid<C: Device>(snapshot: &Snapshot<C>) -> Result<(), Refusal> {
    match snapshot.state() {
        State::Invalid => Err(Refusal::new(
            Code::Invalid,
            format_args!("{}: the snapshot was dropped", snapshot.name()),
        )),
        State::Active | State::Overflowed => Ok(()),
    }
}

fn not_merging() -> Refusal {
    Refusal::new(Code::NotMerging, "no merge is there, or it has finished")
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
