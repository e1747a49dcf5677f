use std::fmt;
use std::io;
use std::path::Path;

use compio::net::UnixStream;
use cyper_core::HyperStream;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::refusal::{Refusal, Refused};
use super::{Grow, NewSnapshot, SnapshotStatus, StartMerge, Status, TuneMerge};
use crate::MergeProgress;

/// An answer is never longer, unless something else answers.
const ANSWER_BYTES: usize = 256 << 20;

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
    /// The answer is none of this protocol.
    Odd(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Odd(found) => write!(f, "not what a server of dmsnap says: {found}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// No body.
const NOTHING: Option<&()> = None;

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
        self.call("GET", "/v1/status", NOTHING).await
    }

    /// Adds a snapshot.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn create(&self, wanted: &NewSnapshot) -> Result<SnapshotStatus, ClientError> {
        self.call("POST", "/v1/snapshots", Some(wanted)).await
    }

    /// Takes a snapshot out; its store stays.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn remove(&self, name: &str) -> Result<(), ClientError> {
        self.send("DELETE", &of_snapshot(name, ""), NOTHING).await.map(drop)
    }

    /// Drops a snapshot for good.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn invalidate(&self, name: &str) -> Result<SnapshotStatus, ClientError> {
        self.call("POST", &of_snapshot(name, "/invalidate"), NOTHING).await
    }

    /// Makes a COW file longer.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn grow(&self, name: &str, to: Grow) -> Result<SnapshotStatus, ClientError> {
        self.call("POST", &of_snapshot(name, "/grow"), Some(&to)).await
    }

    /// Makes everything durable, or everything of one snapshot.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn flush(&self, name: Option<&str>) -> Result<(), ClientError> {
        let path = name.map_or("/v1/flush".into(), |name| of_snapshot(name, "/flush"));
        self.send("POST", &path, NOTHING).await.map(drop)
    }

    /// Starts a merge.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn start_merge(&self, start: &StartMerge) -> Result<MergeProgress, ClientError> {
        self.call("POST", "/v1/merge", Some(start)).await
    }

    /// Changes rate and window of the merge.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn tune_merge(&self, tune: TuneMerge) -> Result<MergeProgress, ClientError> {
        self.call("PATCH", "/v1/merge", Some(&tune)).await
    }

    /// How far the merge is.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn merge(&self) -> Result<MergeProgress, ClientError> {
        self.call("GET", "/v1/merge", NOTHING).await
    }

    /// Lets the merge stop after the window under way.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn pause_merge(&self) -> Result<MergeProgress, ClientError> {
        self.call("POST", "/v1/merge/pause", NOTHING).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn resume_merge(&self) -> Result<MergeProgress, ClientError> {
        self.call("POST", "/v1/merge/resume", NOTHING).await
    }

    /// Gives the merge up.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn cancel_merge(&self) -> Result<SnapshotStatus, ClientError> {
        self.call("POST", "/v1/merge/cancel", NOTHING).await
    }

    /// Ends the server, as SIGTERM does.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn shut_down(&self) -> Result<(), ClientError> {
        self.send("POST", "/v1/shutdown", NOTHING).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| ClientError::Odd(error.to_string()))
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, ClientError> {
        let odd = |error: &dyn fmt::Display| ClientError::Odd(error.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| odd(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| odd(&error))?;
        let stream = UnixStream::connect(self.path).await.map_err(ClientError::Connection)?;
        let broken = |error: hyper::Error| ClientError::Connection(io::Error::other(error));
        let (mut sender, connection) =
            handshake(HyperStream::new_plain(stream)).await.map_err(broken)?;
        // Ends with the answer, or with the server.
        compio::runtime::spawn(async move { drop(connection.await) }).detach();
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| odd(&error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => Err(ClientError::Refused(refused.error)),
            Err(_) => Err(ClientError::Odd(format!("HTTP status {status}"))),
        }
    }
}

fn of_snapshot(name: &str, verb: &str) -> String {
    format!("/v1/snapshots/{}{verb}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}
