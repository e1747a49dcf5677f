use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

use dmsnap::device::{Change, Device};
use dmsnap::sync::{Event, Signal};
use dmsnap::volume::{Snapshot, State, View, Volume};

use super::api::{NewSnapshot, Status};
use super::call::{Answer, Call, QueuedCall};
use super::change::StateChange;
use super::differing::differences;
use super::events::{Statuses, Watchers};
use super::opener::StoreOpener;
use super::refusal::{Code, Refusal};
use super::status::{Monitor, ServerFacts};
use crate::export::{Exports, VolumeExport};
use crate::names::refuse_reserved;
use crate::{MergePhase, Merger};

/// Does what clients of the control socket ask for, on the volume's thread.
pub struct Controller<O, C, P> {
    pub(super) volume: Rc<Volume<O, C>>,
    pub(super) exports: Exports,
    pub(super) merger: Rc<Merger<O, C>>,
    pub(super) opener: P,
    pub(super) monitor: Monitor<O, C>,
    watchers: Rc<Watchers>,
    /// Snapshots that a call changes at the moment.
    changing: RefCell<HashSet<String>>,
    running: Cell<usize>,
    ended: Event,
    shutdown: Signal,
}

impl<O: Device + 'static, C: Device + 'static, P: StoreOpener<O, C>> Controller<O, C, P> {
    /// Of a volume, its exports, and its merges.
    pub fn new(
        volume: Rc<Volume<O, C>>,
        exports: Exports,
        merger: Rc<Merger<O, C>>,
        opener: P,
        facts: ServerFacts,
    ) -> Rc<Self> {
        let monitor = Monitor::new(volume.clone(), exports.clone(), merger.clone(), facts);
        Rc::new(Self {
            volume,
            exports,
            merger,
            opener,
            monitor,
            watchers: Rc::default(),
            changing: RefCell::default(),
            running: Cell::default(),
            ended: Event::default(),
            shutdown: Signal::default(),
        })
    }

    /// What somebody else has done to the origin, for the status.
    pub fn set_origin_change(&self, change: Option<Change>) {
        self.monitor.set_origin_change(change);
    }

    /// The COW device of a snapshot that was there before, as it was named.
    pub fn name_cow(&self, snapshot: &str, cow: &Path) {
        self.monitor.name_cow(snapshot, cow.display().to_string());
    }

    /// To be called about once a second: looks how fast stores fill, and tells clients that watch the status of
    /// changes that the volume does not count, as those of exports.
    pub fn tick(&self) {
        self.monitor.tick();
        self.watchers.look();
    }

    /// How everything is.
    pub fn status(&self) -> Status {
        self.monitor.status()
    }

    /// Returns when a client has asked the server to end.
    pub async fn shutdown_asked(&self) {
        self.shutdown.wait().await;
    }

    /// Does what a client asks for, on a task of its own.
    pub(super) fn begin(self: &Rc<Self>, queued: QueuedCall) {
        let controller = self.clone();
        controller.running.set(controller.running.get() + 1);
        // Detached: what changes something goes on whatever becomes of the client.
        let task = async move {
            let answer = controller.call(queued.call).await;
            let _ = queued.answer.send(answer);
            controller.running.set(controller.running.get() - 1);
            controller.ended.notify();
        };
        compio::runtime::spawn(task).detach();
    }

    /// Returns when the calls that were begun have ended. Clients that watch are told nothing more.
    pub(super) async fn end(&self) {
        self.watchers.end();
        self.ended.until(|| (self.running.get() == 0).then_some(())).await;
    }

    async fn call(self: &Rc<Self>, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::Status => Ok(Answer::Status(Box::new(self.status()))),
            Call::Events => self.watch().map(Answer::Events),
            Call::Metrics => Ok(Answer::Numbers(Box::new(self.monitor.numbers()))),
            Call::Snapshot(name) => self.shown(&name),
            Call::Create(wanted) => self.create(&wanted).await,
            Call::Remove(name) => self.remove(&name).await,
            Call::Invalidate(name) => self.invalidate(&name).await,
            Call::Grow(name, grow) => self.grow(&name, grow.size_bytes).await,
            Call::Flush(name) => self.flush(&name).await,
            Call::FlushAll => {
                let flushed = self.volume.flush_all().await;
                flushed.map_err(|error| Refusal::of("flush", error))?;
                Ok(Answer::Nothing)
            }
            Call::Diff(query) => differences(&self.volume, &query).map(Answer::Diff),
            Call::Merge => self.merge(),
            Call::StartMerge(start) => self.start_merge(&start).await,
            Call::TuneMerge(tune) => self.tune_merge(tune).await,
            Call::PauseMerge => self.pause_merge().await,
            Call::ResumeMerge => self.resume_merge().await,
            Call::CancelMerge => self.cancel_merge().await,
            Call::UndoMerge(undo) => self.undo_merge(&undo.snapshot).await,
            Call::Shutdown => {
                self.shutdown.raise();
                Ok(Answer::Nothing)
            }
        }
    }

    /// Sends the status whenever it changes, on a task of its own.
    fn watch(self: &Rc<Self>) -> Result<Statuses, Refusal> {
        let (watcher, statuses) = self.watchers.add()?;
        let controller = self.clone();
        compio::runtime::spawn(async move {
            let status = || controller.status();
            watcher.run(controller.volume.changes(), status).await;
        })
        .detach();
        Ok(statuses)
    }

    /// # Ordering
    ///
    /// The store is made, opened and added, and then that is kept. A crash between the two leaves a store that is not
    /// served; nobody was told that it is.
    async fn create(&self, wanted: &NewSnapshot) -> Result<Answer, Refusal> {
        let name = wanted.name.as_str();
        refuse_reserved(name).map_err(|error| Refusal::new(Code::BadRequest, error))?;
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
        let export = VolumeExport::snapshot(&self.volume, &snapshot, self.monitor.is_read_only());
        if self.exports.add(export).is_err() {
            let _ = self.volume.remove(&snapshot).await;
            return Err(in_use());
        }
        if let Err(refusal) = self.opener.keep(StateChange::Added(wanted)).await {
            self.exports.remove(name).await;
            // Why it is not kept is reported; an error of its device would add nothing.
            let _ = self.volume.remove(&snapshot).await;
            return Err(refusal);
        }
        self.name_cow(name, Path::new(&wanted.cow));
        Ok(Answer::Snapshot(self.monitor.snapshot(&snapshot)))
    }

    /// First the export, then the snapshot: no client sees it half gone.
    ///
    /// # Ordering
    ///
    /// It is kept that the snapshot is gone, and then it goes. A crash between the two takes it out as well: if it
    /// came back, it would not have what was written to the origin meanwhile.
    async fn remove(&self, name: &str) -> Result<Answer, Refusal> {
        let snapshot = self.find(name)?;
        let _held = self.hold(name)?;
        self.refuse_merging(name)?;
        self.refuse_bound(&snapshot)?;
        self.opener.keep(StateChange::Removed(name)).await?;
        self.exports.remove(name).await;
        let removed = self.volume.remove(&snapshot).await;
        self.monitor.forget_cow(name);
        self.merger.forget_removed();
        let found = |error| format!("{name}: removed, but the last flush failed: {error}");
        removed.map_err(|error| Refusal::new(Code::Device, found(error)))?;
        Ok(Answer::Nothing)
    }

    async fn invalidate(&self, name: &str) -> Result<Answer, Refusal> {
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        let _held = self.hold(name)?;
        self.refuse_merging(name)?;
        let marked = self.volume.invalidate(&snapshot).await;
        marked.map_err(|error| Refusal::of(name, error))?;
        Ok(Answer::Snapshot(self.monitor.snapshot(&snapshot)))
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
        // Writes that wait for room look again.
        self.volume.tick();
        Ok(Answer::Snapshot(self.monitor.snapshot(&snapshot)))
    }

    async fn flush(&self, name: &str) -> Result<Answer, Refusal> {
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        let flushed = View::snapshot(&self.volume, &snapshot).flush().await;
        flushed.map_err(|error| Refusal::of(name, error))?;
        Ok(Answer::Nothing)
    }

    /// The name of the snapshot that merges and has not finished.
    pub(super) fn unfinished_merge(&self) -> Option<String> {
        let merge = self.merger.progress()?;
        (merge.state != MergePhase::Finished).then_some(merge.snapshot)
    }

    pub(super) fn refuse_read_only(&self) -> Result<(), Refusal> {
        match self.monitor.is_read_only() {
            true => Err(Refusal::read_only()),
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

    pub(super) fn find(&self, name: &str) -> Result<Rc<Snapshot<C>>, Refusal> {
        let none = || Refusal::new(Code::NotFound, format_args!("no snapshot is named {name}"));
        self.volume.snapshot(name).ok_or_else(none)
    }

    /// Keeps other calls from changing the snapshot of that name.
    pub(super) fn hold(&self, name: &str) -> Result<Held<'_>, Refusal> {
        match self.changing.borrow_mut().insert(name.into()) {
            true => Ok(Held { changing: &self.changing, name: name.into() }),
            false => Err(Refusal::new(
                Code::Busy,
                format_args!("{name}: another request changes it at the moment"),
            )),
        }
    }

    pub(super) fn shown(&self, name: &str) -> Result<Answer, Refusal> {
        Ok(Answer::Snapshot(self.monitor.snapshot(&self.find(name)?)))
    }
}

/// A snapshot that a call changes; free for others when dropped.
pub(super) struct Held<'a> {
    changing: &'a RefCell<HashSet<String>>,
    name: String,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.changing.borrow_mut().remove(&self.name);
    }
}

pub(super) fn refuse_invalid<C: Device>(snapshot: &Snapshot<C>) -> Result<(), Refusal> {
    match snapshot.state() {
        State::Invalid => Err(Refusal::new(
            Code::Invalid,
            format_args!("{}: the snapshot was dropped", snapshot.name()),
        )),
        State::Active | State::Overflowed => Ok(()),
    }
}
