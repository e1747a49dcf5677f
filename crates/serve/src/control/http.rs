use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use compio::net::{UnixListener, UnixStream};
use compio::runtime::{JoinHandle, Runtime};
use compio::time::{sleep, timeout};
use cyper_core::HyperStream;
use futures_channel::{mpsc, oneshot};
use futures_util::SinkExt;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::desk::{Answer, Call, Errand};
use super::metrics::{self, Form};
use super::refusal::{Code, Refusal, Refused};
use super::route::{Routed, route};

/// Clients at a time; others wait to be accepted.
const CONNECTIONS: usize = 64;

/// Line and headers of a request, at most.
const HEAD_BYTES: usize = 16 << 10;

/// Headers of a request, at most.
const HEADERS: usize = 64;

/// Body of a request, at most.
const BODY_BYTES: usize = 64 << 10;

/// How long a client may take to send its request, and again to receive the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether somebody has lost it.
const NAP: Duration = Duration::from_millis(100);

/// The thread that speaks HTTP.
#[derive(Debug)]
pub(super) struct Speaker {
    /// Its being dropped is the message.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Speaker {
    /// Starts the thread. What clients ask for comes out of the channel.
    ///
    /// # Errors
    ///
    /// The system has no thread, or no ring, for it.
    pub(super) fn start(listener: StdListener) -> io::Result<(Self, mpsc::Receiver<Errand>)> {
        let (errands, asked) = mpsc::channel(CONNECTIONS);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name("control".into()).spawn(move || {
            let begun = Runtime::new().and_then(|runtime| {
                let listener = runtime.enter(|| UnixListener::from_std(listener))?;
                Ok((runtime, listener))
            });
            match begun {
                Err(error) => drop(started.send(Err(error))),
                Ok((runtime, listener)) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(speak(listener, errands, stopped));
                }
            }
            let _ = end.send(());
        })?;
        ready.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
        Ok((Self { stop, ended }, asked))
    }

    /// Lets clients have the answers that are under way, and ends the thread.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

async fn speak(
    listener: UnixListener,
    errands: mpsc::Sender<Errand>,
    mut stopped: oneshot::Receiver<()>,
) {
    let stopping = Rc::new(Cell::new(false));
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    loop {
        clients.retain(|task| !task.is_finished());
        let next = async {
            if clients.len() >= CONNECTIONS {
                // Whoever is served now has not much time.
                sleep(NAP).await;
                return None;
            }
            match listener.accept().await {
                Ok((client, _)) => Some(client),
                Err(_) => {
                    // Out of descriptors or memory: later, perhaps.
                    sleep(NAP).await;
                    None
                }
            }
        };
        let accepted = match select(pin!(next), &mut stopped).await {
            Either::Left((accepted, _)) => accepted,
            Either::Right(_) => break,
        };
        if let Some(client) = accepted {
            let (errands, stopping) = (errands.clone(), stopping.clone());
            clients.push(compio::runtime::spawn(serve(client, errands, stopping)));
        }
    }
    stopping.set(true);
    drop(errands);
    for client in clients {
        let _ = client.await;
    }
}

/// Where a client stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It sends its request, and must be done by then.
    Asking(Instant),
    /// It waits for us.
    Waiting,
    /// It receives the answer, and must be done by then.
    Listening(Instant),
}

/// Serves one request of one client. A client that takes too long is cut off.
async fn serve(client: UnixStream, errands: mpsc::Sender<Errand>, stopping: Rc<Cell<bool>>) {
    let phase = Rc::new(Cell::new(Phase::Asking(Instant::now() + PATIENCE)));
    let service = service_fn(|request| {
        let (errands, phase) = (errands.clone(), phase.clone());
        async move { Ok::<_, Infallible>(answer(request, errands, &phase).await) }
    });
    let speaking = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(HyperStream::new_plain(client), service);
    let watching = async {
        loop {
            let over = match phase.get() {
                Phase::Asking(end) => stopping.get() || end <= Instant::now(),
                Phase::Waiting => false,
                Phase::Listening(end) => end <= Instant::now(),
            };
            if over {
                return;
            }
            sleep(NAP).await;
        }
    };
    // What goes wrong with a client is its own business.
    let _ = select(pin!(speaking), pin!(watching)).await;
}

async fn answer(
    request: Request<Incoming>,
    mut errands: mpsc::Sender<Errand>,
    phase: &Cell<Phase>,
) -> Response<Full<Bytes>> {
    let mut form = Form::Plain;
    let asked = async {
        let (head, body) = request.into_parts();
        let (verb, name) = match route(head.method.as_str(), head.uri.path())? {
            Routed::Verb(verb, name) => (verb, name),
            Routed::Methods(methods) => return Ok(Err(methods)),
        };
        // Cut off only if it does not even take the answer that it was too slow.
        let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        form = Form::of(accept);
        phase.set(Phase::Asking(Instant::now() + 2 * PATIENCE));
        let body = timeout(PATIENCE, Limited::new(body, BODY_BYTES).collect()).await;
        let body = match body {
            Err(_) => return Err(Refusal::new(Code::TimeOut, "the body did not come in time")),
            Ok(Err(error)) => return Err(unreadable(&*error)),
            Ok(Ok(body)) => body.to_bytes(),
        };
        phase.set(Phase::Waiting);
        let (answer, answered) = oneshot::channel();
        let errand = Errand { call: Call::new(verb, name, &body)?, answer };
        let stopping = || Refusal::new(Code::Stopping, "the server is about to end");
        errands.send(errand).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?.map(Ok)
    };
    let response = match asked.await {
        Ok(Ok(done)) => show(done, form),
        Ok(Err(methods)) => not_allowed(&methods),
        Err(refusal) => refused(refusal),
    };
    phase.set(Phase::Listening(Instant::now() + PATIENCE));
    response
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Refusal {
    match error.is::<LengthLimitError>() {
        true => Refusal::new(Code::TooLarge, format_args!("a body has at most {BODY_BYTES} bytes")),
        false => Refusal::new(Code::BadRequest, format_args!("the body cannot be read: {error}")),
    }
}

fn show(answer: Answer, form: Form) -> Response<Full<Bytes>> {
    match answer {
        Answer::Done => response(204, None, Bytes::new()),
        Answer::Accepted => response(202, None, Bytes::new()),
        Answer::Status(status) => json(200, &status),
        Answer::Snapshot(snapshot) => json(200, &snapshot),
        Answer::Created(snapshot) => json(201, &snapshot),
        Answer::Merge(merge) => json(200, &merge),
        Answer::Numbers(numbers) => match metrics::text(*numbers, form) {
            Ok(text) => response(200, Some(form.content_type()), text.into()),
            Err(error) => refused(Refusal::new(Code::Device, error)),
        },
    }
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    json(refusal.code.status(), &Refused { error: refusal })
}

fn not_allowed(methods: &[&str]) -> Response<Full<Bytes>> {
    let methods = methods.join(", ");
    let message = format_args!("this path knows {methods}");
    let mut response = refused(Refusal::new(Code::MethodNotAllowed, message));
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn json(status: u16, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            response(status, Some("application/json"), body.into())
        }
        // No value of ours has keys that are not text.
        Err(_) => response(500, None, Bytes::new()),
    }
}

fn response(status: u16, kind: Option<&'static str>, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
