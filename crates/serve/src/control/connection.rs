use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use compio::net::UnixStream;
use compio::time::{sleep, timeout};
use cyper_core::HyperStream;
use futures_channel::{mpsc, oneshot};
use futures_util::SinkExt;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use super::call::{Answer, QueuedCall};
use super::events::{Turn, stream};
use super::metrics::Form;
use super::refusal::{Code, Refusal};
use super::response::{self, Body};
use super::route::{Routed, route};

/// Requests on a connection, at most.
const REQUESTS: u32 = 1000;

/// Line and headers of a request, at most.
const HEAD_BYTES: usize = 16 << 10;

/// Headers of a request, at most.
const HEADERS: usize = 64;

/// Body of a request, at most.
const BODY_BYTES: usize = 64 << 10;

/// How long a client may take to send its request; and then to receive the answer and to begin the next
/// request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often clients are checked against it.
const NAP: Duration = Duration::from_millis(100);

/// What is true for all connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The server is about to end.
    pub(super) stopping: Cell<bool>,
    /// There are as many as there may be: answers are the last ones of their connections.
    pub(super) crowded: Cell<bool>,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It sends its request, and must be done by then.
    Asking(Instant),
    /// It waits for us.
    Waiting,
    /// It receives the answer, or a part of it, and must be done by then.
    Listening(Instant),
}

/// What a connection's requests share.
struct Session {
    calls: mpsc::Sender<QueuedCall>,
    connections: Rc<Connections>,
    phase: Rc<Cell<Phase>>,
    requests: Cell<u32>,
}

/// Serves the requests of one client, one after the other. A client that takes too long is cut off.
pub(super) async fn serve(
    client: UnixStream,
    calls: mpsc::Sender<QueuedCall>,
    connections: Rc<Connections>,
) {
    let phase = Rc::new(Cell::new(Phase::Asking(Instant::now() + PATIENCE)));
    let requests = Cell::default();
    let session = Session { calls, connections: connections.clone(), phase, requests };
    let service = service_fn(async |request| Ok::<_, Infallible>(session.answer(request).await));
    let speaking = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(HyperStream::new_plain(client), service);
    let mut speaking = pin!(speaking);
    // What goes wrong with a client is its own business.
    while let Either::Right(_) = select(speaking.as_mut(), pin!(sleep(NAP))).await {
        let stopping = connections.stopping.get();
        let is_over = match session.phase.get() {
            Phase::Asking(end) => stopping || end <= Instant::now(),
            Phase::Waiting => false,
            Phase::Listening(end) => end <= Instant::now(),
        };
        if is_over {
            return;
        }
        if stopping {
            // No more requests after the one under way.
            speaking.as_mut().graceful_shutdown();
        }
    }
}

impl Session {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut response = match self.call(request).await {
            Ok(response) => response,
            Err(refusal) => response::refused(refusal),
        };
        let requests = self.requests.get() + 1;
        self.requests.set(requests);
        if requests >= REQUESTS || self.connections.crowded.get() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.phase.set(Phase::Listening(Instant::now() + PATIENCE));
        response
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let (endpoint, name) = match route(head.method.as_str(), head.uri.path())? {
            Routed::Endpoint(endpoint, name) => (endpoint, name),
            Routed::Methods(methods) => return Ok(response::not_allowed(&methods)),
        };
        let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        // Cut off only if it does not even take the answer that it was too slow.
        self.phase.set(Phase::Asking(Instant::now() + 2 * PATIENCE));
        let body = timeout(PATIENCE, Limited::new(body, BODY_BYTES).collect()).await;
        let body = match body {
            Err(_) => return Err(Refusal::new(Code::TimeOut, "the body did not come in time")),
            Ok(Err(error)) => return Err(unreadable(&*error)),
            Ok(Ok(body)) => body.to_bytes(),
        };
        self.phase.set(Phase::Waiting);
        let query = head.uri.query().unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let queued = QueuedCall { call: endpoint.call(name, query, &body)?, answer };
        let stopping = || Refusal::new(Code::Stopping, "the server is shutting down");
        self.calls.clone().send(queued).await.map_err(|_| stopping())?;
        let answer = answered.await.map_err(|_| stopping())??;
        Ok(self.show(answer, endpoint.status(), Form::of(accept)))
    }

    fn show(&self, answer: Answer, status: u16, form: Form) -> Response<Body> {
        match answer {
            Answer::Nothing => response::nothing(status),
            Answer::Status(all) => response::json(status, &all),
            Answer::Snapshot(snapshot) => response::json(status, &snapshot),
            Answer::Diff(diff) => response::json(status, &diff),
            Answer::Merge(merge) => response::json(status, &merge),
            Answer::Numbers(numbers) => response::numbers(status, *numbers, form),
            Answer::Events(statuses) => {
                let phase = self.phase.clone();
                let turn = move |turn| {
                    phase.set(match turn {
                        Turn::Waiting => Phase::Waiting,
                        Turn::Sending => Phase::Listening(Instant::now() + PATIENCE),
                    });
                };
                response::events(status, stream(statuses, turn))
            }
        }
    }
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Refusal {
    match error.is::<LengthLimitError>() {
        true => Refusal::new(Code::TooLarge, format_args!("a body has at most {BODY_BYTES} bytes")),
        false => Refusal::new(Code::BadRequest, format_args!("the body cannot be read: {error}")),
    }
}
