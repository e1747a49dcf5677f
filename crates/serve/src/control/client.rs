use std::fmt;
use std::io;
use std::path::Path;

use compio::net::UnixStream;
use cyper_core::HyperStream;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::api::{
    Diff, DiffQuery, Grow, NewSnapshot, SnapshotStatus, StartMerge, Status, TuneMerge, UndoMerge,
};
use super::call::{self, Body, Endpoint};
use super::events::Parser;
use super::refusal::{Refusal, Refused};
use crate::MergeProgress;

/// An answer is never longer, unless something else answers.
const ANSWER_BYTES: usize = 256 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// What an answer without a body means, in JSON.
const NOTHING: &[u8] = b"null";

/// The other end of a control socket. Must be used inside a compio runtime.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    path: &'a Path,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens, or the connection broke.
    Connection(io::Error),
    /// The server said no.
    Refused(Refusal),
    /// The answer is not one of this protocol.
    Odd(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Odd(found) => write!(f, "not an answer of a dmsnap server: {found}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl<'a> Client<'a> {
    /// Of the server that listens there. Each call connects anew.
    pub fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// Everything.
    ///
    /// # Errors
    ///
    /// [`ClientError`], as for every call.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(&call::STATUS, "", &()).await
    }

    /// Everything, and again whenever it changes.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn events(&self) -> Result<Events, ClientError> {
        let (method, path) = (call::EVENTS.method(), call::EVENTS.path());
        let (response, sender) = self.begin(method, path, Vec::new()).await?;
        Ok(Events { body: response.into_body(), parser: Parser::default(), _sender: sender })
    }

    /// Adds a snapshot.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn create(&self, wanted: &NewSnapshot) -> Result<SnapshotStatus, ClientError> {
        self.call(&call::CREATE, "", wanted).await
    }

    /// Takes a snapshot out; its store stays.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn remove(&self, name: &str) -> Result<(), ClientError> {
        self.call(&call::REMOVE, name, &()).await
    }

    /// Drops a snapshot for good.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn invalidate(&self, name: &str) -> Result<SnapshotStatus, ClientError> {
        self.call(&call::INVALIDATE, name, &()).await
    }

    /// Makes a COW file longer.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn grow(&self, name: &str, to: Grow) -> Result<SnapshotStatus, ClientError> {
        self.call(&call::GROW, name, &to).await
    }

    /// Makes everything durable, or everything of one snapshot.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn flush(&self, name: Option<&str>) -> Result<(), ClientError> {
        match name {
            Some(name) => self.call(&call::FLUSH, name, &()).await,
            None => self.call(&call::FLUSH_ALL, "", &()).await,
        }
    }

    /// Where two snapshots differ, or one and the origin: a page of it.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn diff(&self, query: &DiffQuery) -> Result<Diff, ClientError> {
        self.call(&call::DIFF, "", query).await
    }

    /// Starts a merge.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn start_merge(&self, start: &StartMerge) -> Result<MergeProgress, ClientError> {
        self.call(&call::START_MERGE, "", start).await
    }

    /// Changes rate and window of the merge.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn tune_merge(&self, tune: TuneMerge) -> Result<MergeProgress, ClientError> {
        self.call(&call::TUNE_MERGE, "", &tune).await
    }

    /// How far the merge is.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn merge(&self) -> Result<MergeProgress, ClientError> {
        self.call(&call::MERGE, "", &()).await
    }

    /// Lets the merge stop after the window under way.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn pause_merge(&self) -> Result<MergeProgress, ClientError> {
        self.call(&call::PAUSE_MERGE, "", &()).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn resume_merge(&self) -> Result<MergeProgress, ClientError> {
        self.call(&call::RESUME_MERGE, "", &()).await
    }

    /// Gives the merge up.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn cancel_merge(&self) -> Result<SnapshotStatus, ClientError> {
        self.call(&call::CANCEL_MERGE, "", &()).await
    }

    /// Takes the merge back.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn undo_merge(&self, undo: &UndoMerge) -> Result<MergeProgress, ClientError> {
        self.call(&call::UNDO_MERGE, "", undo).await
    }

    /// Ends the server, as SIGTERM does.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn shut_down(&self) -> Result<(), ClientError> {
        self.call(&call::SHUTDOWN, "", &()).await
    }

    /// `name` stands for `{name}` in the path.
    async fn call<B: Body, A: DeserializeOwned>(
        &self,
        endpoint: &Endpoint<B, A>,
        name: &str,
        body: &B,
    ) -> Result<A, ClientError> {
        let odd = |error: serde_json::Error| ClientError::Odd(error.to_string());
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        let mut path = endpoint.path().replace("{name}", &name);
        if let Some(query) = body.query() {
            path = format!("{path}?{query}");
        }
        let answer = self.send(endpoint.method(), &path, body.text().map_err(odd)?).await?;
        let answer = if answer.is_empty() { NOTHING } else { &answer };
        serde_json::from_slice(answer).map_err(odd)
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let (response, _sender) = self.begin(method, path, body).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok(body.map_err(|error| ClientError::Odd(error.to_string()))?.to_bytes())
    }

    /// Asks. The body of the answer may be read as long as the sender is there.
    async fn begin(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, Sender), ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Odd(error.to_string()))?;
        let stream = UnixStream::connect(self.path).await.map_err(ClientError::Connection)?;
        let (mut sender, connection) =
            handshake(HyperStream::new_plain(stream)).await.map_err(broken)?;
        // Ends when the sender is dropped, or with the server.
        compio::runtime::spawn(async move { drop(connection.await) }).detach();
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, sender));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| ClientError::Odd(error.to_string()))?.to_bytes();
        match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => Err(ClientError::Refused(refused.error)),
            Err(_) => Err(ClientError::Odd(format!("HTTP status {status}"))),
        }
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Connection(io::Error::other(error))
}

/// The statuses of a server, as they change.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    parser: Parser,
    _sender: Sender,
}

impl Events {
    /// The next status: at once the one of now, then each that differs from the one before, at most
    /// ten a second. A caller that is slow gets only the newest. `None` when the server ends.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; then nothing more comes.
    pub async fn next(&mut self) -> Result<Option<Status>, ClientError> {
        loop {
            if let Some(status) = self.parser.next() {
                return status.map(Some).map_err(|error| ClientError::Odd(error.to_string()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(part) = frame.map_err(broken)?.into_data()
                && self.parser.take(&part) > ANSWER_BYTES
            {
                return Err(ClientError::Odd("an event without end".into()));
            }
        }
    }
}
