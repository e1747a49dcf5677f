use std::marker::PhantomData;

use futures_channel::oneshot;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{
    Diff, DiffQuery, Grow, NewSnapshot, SnapshotStatus, StartMerge, Status, TuneMerge, UndoMerge,
};
use super::events::Statuses;
use super::metrics::Numbers;
use super::refusal::{Code, Refusal};
use crate::MergeProgress;

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Call {
    Status,
    Events,
    Metrics,
    Snapshot(String),
    Create(NewSnapshot),
    Remove(String),
    Invalidate(String),
    Grow(String, Grow),
    Flush(String),
    FlushAll,
    Diff(DiffQuery),
    Merge,
    StartMerge(StartMerge),
    TuneMerge(TuneMerge),
    PauseMerge,
    ResumeMerge,
    CancelMerge,
    UndoMerge(UndoMerge),
    Shutdown,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is done, and there is nothing to say.
    Nothing,
    Status(Box<Status>),
    Snapshot(SnapshotStatus),
    Diff(Diff),
    Merge(MergeProgress),
    Numbers(Box<Numbers>),
    Events(Statuses),
}

/// A call on its way to the volume's thread.
#[derive(Debug)]
pub(super) struct QueuedCall {
    pub(super) call: Call,
    pub(super) answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// A method of a path: what a request to it says, and what its answer says.
pub(super) struct Endpoint<B, A> {
    method: &'static str,
    /// `{name}` stands for one part of the path, percent-encoded.
    path: &'static str,
    /// HTTP status of the answer when the call is done.
    status: u16,
    call: fn(String, B) -> Call,
    answer: PhantomData<fn() -> A>,
}

impl<B, A> Endpoint<B, A> {
    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    pub(super) fn path(&self) -> &'static str {
        self.path
    }
}

/// An [`Endpoint`], whatever its bodies.
pub(super) trait Route: Sync {
    fn method(&self) -> &'static str;

    fn path(&self) -> &'static str;

    /// HTTP status of the answer when the call is done.
    fn status(&self) -> u16;

    /// The call that a request means. `name` is what stands for `{name}`, decoded; `query` what follows the
    /// path, as it came.
    fn call(&self, name: String, query: &str, body: &[u8]) -> Result<Call, Refusal>;

    /// The schemas of request and answer in `docs/openapi.json`.
    #[cfg(test)]
    fn schemas(&self) -> [Option<&'static str>; 2];
}

impl<B: Body, A: Content> Route for Endpoint<B, A> {
    fn method(&self) -> &'static str {
        self.method
    }

    fn path(&self) -> &'static str {
        self.path
    }

    fn status(&self) -> u16 {
        self.status
    }

    fn call(&self, name: String, query: &str, body: &[u8]) -> Result<Call, Refusal> {
        Ok((self.call)(name, B::parse(query, body)?))
    }

    #[cfg(test)]
    fn schemas(&self) -> [Option<&'static str>; 2] {
        [B::SCHEMA, A::SCHEMA]
    }
}

/// What a body holds.
pub(super) trait Content {
    /// Its schema in `docs/openapi.json`; `None` if there is no body, or it is not JSON.
    #[cfg(test)]
    const SCHEMA: Option<&'static str>;
}

/// What a request says: its body, or its parameters.
pub(super) trait Body: Content + Sized {
    fn parse(query: &str, body: &[u8]) -> Result<Self, Refusal>;

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The parameters, if there are any.
    fn query(&self) -> Option<String> {
        None
    }
}

/// Nothing; what a client sends all the same is passed over.
impl Body for () {
    fn parse(_: &str, _: &[u8]) -> Result<Self, Refusal> {
        Ok(())
    }
}

impl Body for DiffQuery {
    fn parse(query: &str, _: &[u8]) -> Result<Self, Refusal> {
        Self::parse(query)
    }

    fn query(&self) -> Option<String> {
        Some(self.text())
    }
}

/// A request with a body in JSON.
trait Json: Content + Serialize + DeserializeOwned {}

impl<T: Json> Body for T {
    fn parse(_: &str, body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body)
            .map_err(|error| Refusal::new(Code::BadRequest, format_args!("the body: {error}")))
    }

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// Statuses as server-sent events.
pub(super) struct EventStream;

/// Numbers in a form that Prometheus reads.
pub(super) struct Metrics;

macro_rules! contents {
    ($($content:ty: $schema:expr;)*) => {
        $(impl Content for $content {
            #[cfg(test)]
            const SCHEMA: Option<&'static str> = $schema;
        })*
    };
}

contents! {
    (): None;
    EventStream: None;
    Metrics: None;
    Status: Some("Status");
    SnapshotStatus: Some("Snapshot");
    DiffQuery: None;
    Diff: Some("Diff");
    MergeProgress: Some("Merge");
    NewSnapshot: Some("NewSnapshot");
    Grow: Some("Grow");
    StartMerge: Some("StartMerge");
    TuneMerge: Some("TuneMerge");
    UndoMerge: Some("UndoMerge");
}

impl Json for NewSnapshot {}
impl Json for Grow {}
impl Json for StartMerge {}
impl Json for TuneMerge {}
impl Json for UndoMerge {}

macro_rules! endpoints {
    ($($name:ident: $method:literal $path:literal, $body:ty => $status:literal $answer:ty, $call:expr;)*) => {
        $(pub(super) const $name: Endpoint<$body, $answer> = Endpoint {
            method: $method,
            path: $path,
            status: $status,
            call: $call,
            answer: PhantomData,
        };)*

        /// Every method of every path.
        pub(super) const ALL: &[&dyn Route] = &[$(&$name),*];
    };
}

// The one list of calls: routing, the client and the test of `docs/openapi.json` read it.
endpoints! {
    STATUS: "GET" "/v1/status", () => 200 Status, |_, ()| Call::Status;
    EVENTS: "GET" "/v1/events", () => 200 EventStream, |_, ()| Call::Events;
    CREATE: "POST" "/v1/snapshots", NewSnapshot => 201 SnapshotStatus, |_, it| Call::Create(it);
    SNAPSHOT: "GET" "/v1/snapshots/{name}", () => 200 SnapshotStatus, |name, ()| Call::Snapshot(name);
    REMOVE: "DELETE" "/v1/snapshots/{name}", () => 204 (), |name, ()| Call::Remove(name);
    INVALIDATE: "POST" "/v1/snapshots/{name}/invalidate", () => 200 SnapshotStatus,
        |name, ()| Call::Invalidate(name);
    GROW: "POST" "/v1/snapshots/{name}/grow", Grow => 200 SnapshotStatus, Call::Grow;
    FLUSH: "POST" "/v1/snapshots/{name}/flush", () => 204 (), |name, ()| Call::Flush(name);
    FLUSH_ALL: "POST" "/v1/flush", () => 204 (), |_, ()| Call::FlushAll;
    DIFF: "GET" "/v1/diff", DiffQuery => 200 Diff, |_, it| Call::Diff(it);
    MERGE: "GET" "/v1/merge", () => 200 MergeProgress, |_, ()| Call::Merge;
    START_MERGE: "POST" "/v1/merge", StartMerge => 200 MergeProgress, |_, it| Call::StartMerge(it);
    TUNE_MERGE: "PATCH" "/v1/merge", TuneMerge => 200 MergeProgress, |_, it| Call::TuneMerge(it);
    PAUSE_MERGE: "POST" "/v1/merge/pause", () => 200 MergeProgress, |_, ()| Call::PauseMerge;
    RESUME_MERGE: "POST" "/v1/merge/resume", () => 200 MergeProgress, |_, ()| Call::ResumeMerge;
    CANCEL_MERGE: "POST" "/v1/merge/cancel", () => 200 SnapshotStatus, |_, ()| Call::CancelMerge;
    UNDO_MERGE: "POST" "/v1/merge/undo", UndoMerge => 200 MergeProgress, |_, it| Call::UndoMerge(it);
    SHUTDOWN: "POST" "/v1/shutdown", () => 202 (), |_, ()| Call::Shutdown;
    METRICS: "GET" "/metrics", () => 200 Metrics, |_, ()| Call::Metrics;
}
