use std::io;
use std::path::{Path, PathBuf};

use dmsnap_serve::control::{NewSnapshot, Refusal, StartMerge, StateChange};
use dmsnap_serve::refuse_reserved;
use futures_util::lock::Mutex;
use serde::{Deserialize, Serialize};

use crate::files::replace;
use crate::report::Failure;

/// The only one there is.
const VERSION: u64 = 1;

/// What clients of the control socket have changed, in a file: it is there again when the server was killed and is
/// started again.
///
/// # Ordering
///
/// A change is written (see [`replace`]) before the client is answered. In which order it is made and written is said
/// where it is made:
///
/// - a snapshot is added, then written: a kill between the two leaves its store, which is not served
/// - what removes a snapshot or changes a merge is written, then done: after a kill between the two the next server does
///   it
/// - a way back is asked for in writing, made, and written down as a snapshot: after a kill between any two of
///   these it is looked for where it was asked for, and made if it is not there
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    content: Mutex<Content>,
}

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    version: u64,
    /// Added by clients, with stores that are there.
    pub(super) snapshots: Vec<NewSnapshot>,
    /// Named by the command line, and removed by clients.
    pub(super) removed: Vec<String>,
    pub(super) merge: Option<Merge>,
    /// What the command line names.
    #[serde(skip)]
    given: Vec<String>,
}

/// A merge that was started, by a client or by the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Merge {
    pub(super) state: MergeState,
    /// With a way back only as long as that is not among the snapshots.
    pub(super) start: StartMerge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MergeState {
    /// It runs, or has finished.
    Running,
    Paused,
    /// The snapshot is a plain one again.
    Cancelled,
}

impl Default for Content {
    fn default() -> Self {
        let (snapshots, removed, merge, given) = (Vec::new(), Vec::new(), None, Vec::new());
        Self { version: VERSION, snapshots, removed, merge, given }
    }
}

impl Content {
    /// Refuses what cannot have been written here.
    fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let damaged = |error: serde_json::Error| format!("the state file is damaged: {error}");
        let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("found a state file of version {version}, expected {VERSION}"));
        }
        let content: Self = serde_json::from_slice(text).map_err(damaged)?;
        for (n, snapshot) in content.snapshots.iter().enumerate() {
            let name = &snapshot.name;
            let damaged = |found: String| format!("the state file is damaged: {found}");
            refuse_reserved(name).map_err(|error| damaged(error.to_string()))?;
            if content.snapshots[..n].iter().any(|other| other.name == *name) {
                return Err(damaged(format!("found the name `{name}` twice")));
            }
            if !Path::new(&snapshot.cow).is_absolute() {
                return Err(damaged(format!("found the path `{}`", snapshot.cow)));
            }
        }
        Ok(content)
    }

    fn change(&mut self, change: StateChange<'_>) {
        match change {
            StateChange::Added(added) => self.add(added.clone()),
            StateChange::Removed(name) => self.remove(name),
            StateChange::MergeStarted(start) => {
                self.merge = Some(Merge { state: MergeState::Running, start: start.clone() });
            }
            StateChange::WayBackMade { name, way_back } => {
                if let Some(merge) = &mut self.merge {
                    merge.start.undo = None;
                }
                let (name, cow) = (name.to_owned(), way_back.cow.clone());
                let max_size_bytes = way_back.max_size_bytes;
                self.add(NewSnapshot { name, cow, max_size_bytes, ..blank() });
            }
            StateChange::MergeTuned(tune) => {
                if let Some(Merge { start, .. }) = &mut self.merge {
                    let (rate, window) = (tune.rate_bytes_per_second, tune.window_bytes);
                    start.rate_bytes_per_second = rate.or(start.rate_bytes_per_second);
                    start.window_bytes = window.or(start.window_bytes);
                }
            }
            StateChange::MergePaused(name) => self.merge(name, MergeState::Paused),
            StateChange::MergeResumed(name) | StateChange::MergeExchanged(name) => {
                self.merge(name, MergeState::Running);
            }
            StateChange::MergeCancelled(name) => self.merge(name, MergeState::Cancelled),
            _ => {}
        }
    }

    fn add(&mut self, added: NewSnapshot) {
        self.snapshots.retain(|it| it.name != added.name);
        self.removed.retain(|name| *name != added.name);
        // What has no store is gone with the server.
        if added.transient_chunk_bytes.is_none() {
            self.snapshots.push(NewSnapshot { make: None, ..added });
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.snapshots.retain(|it| it.name != name);
        if self.given.iter().any(|it| it == name) && !self.removed.iter().any(|it| it == name) {
            self.removed.push(name.into());
        }
        if self.merge.as_ref().is_some_and(|it| it.start.snapshot == name) {
            self.merge = None;
        }
    }

    fn merge(&mut self, name: &str, state: MergeState) {
        let (rate_bytes_per_second, window_bytes) = match &self.merge {
            Some(Merge { start, .. }) => (start.rate_bytes_per_second, start.window_bytes),
            None => (None, None),
        };
        let undo = self.merge.take().filter(|it| it.start.snapshot == name);
        let undo = undo.and_then(|it| it.start.undo);
        let snapshot = name.to_owned();
        let start = StartMerge { snapshot, rate_bytes_per_second, window_bytes, undo };
        self.merge = Some(Merge { state, start });
    }
}

/// A snapshot of a store as it is.
fn blank() -> NewSnapshot {
    NewSnapshot {
        name: String::new(),
        cow: String::new(),
        make: None,
        transient_chunk_bytes: None,
        on_full: None,
        max_size_bytes: None,
        discard_zeroes: false,
        discard_passdown: false,
    }
}

impl StateFile {
    /// What is there; nothing, if there is no file yet. A file that is refused stays as it is.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        // A name that leads elsewhere goes on leading there.
        let found = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let path = found.map_err(|error| Failure::about(path, error))?;
        let content = match std::fs::read(&path) {
            Ok(text) => Content::parse(&text).map_err(|found| {
                Failure::about(&path, found).advise("it was left as it is: name another file")
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(Failure::about(&path, error)),
        };
        Ok(Self { path, content: Mutex::new(content) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was read.
    pub(super) fn content_mut(&mut self) -> &mut Content {
        self.content.get_mut()
    }

    /// The names that the command line has given.
    pub(super) fn know(&mut self, given: Vec<String>) {
        let content = self.content.get_mut();
        content.removed.retain(|name| given.contains(name));
        content.given = given;
    }

    /// Before the first change: writes what is left of the file, so that one that cannot be written is noticed now.
    pub(super) async fn begin(&self) -> Result<(), Failure> {
        let content = self.content.lock().await.clone();
        let written = self.write(content).await;
        written.map_err(|error| Failure::about(&self.path, format!("cannot write: {error}")))
    }

    /// The merge that the server was started with runs. If it is that of the file, nothing changes.
    pub(super) async fn keep_first_merge(&self, name: &str) -> Result<(), Failure> {
        let is_known = |it: &Merge| it.state != MergeState::Cancelled && it.start.snapshot == name;
        if self.content.lock().await.merge.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let (rate_bytes_per_second, window_bytes, undo) = (None, None, None);
        let snapshot = name.to_owned();
        let start = StartMerge { snapshot, rate_bytes_per_second, window_bytes, undo };
        let kept = self.keep(StateChange::MergeStarted(&start)).await;
        kept.map_err(|refusal| Failure::of("--state", refusal))
    }

    /// Returns when the change is durable. If that fails, it was not made.
    pub(super) async fn keep(&self, change: StateChange<'_>) -> Result<(), Refusal> {
        let mut content = self.content.lock().await;
        let mut changed = content.clone();
        changed.change(change);
        let written = self.write(changed.clone()).await;
        written.map_err(|error| Refusal::of(&self.path.display().to_string(), error))?;
        *content = changed;
        Ok(())
    }

    /// On a thread of its own: clients go on meanwhile.
    async fn write(&self, content: Content) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&content)?;
        text.push(b'\n');
        let path = self.path.clone();
        let died = |_| io::Error::other("the thread that made the call died");
        let written = compio::runtime::spawn_blocking(move || replace(&path, &text, 0o600)).await;
        written.map_err(died)?
    }
}
