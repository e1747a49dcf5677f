use std::io;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use dmsnap_nbd::{Chunk, Command, Errno};

use super::session::{Running, Session};
use crate::budget::Permit;
use crate::export::{Kind, Request};

/// A request, with all that it needs to be done and answered.
pub(super) struct InFlight {
    running: Running,
    cookie: u64,
    command: Command,
    /// What a write brings.
    payload: Vec<Bytes>,
    permit: Permit,
}

impl InFlight {
    pub(super) fn new(
        session: &Rc<Session>,
        (cookie, command): (u64, Command),
        payload: Vec<Bytes>,
        permit: Permit,
    ) -> Self {
        Self { running: Running::new(session), cookie, command, payload, permit }
    }

    /// Begins the request; its reply is queued when it is done.
    pub(super) fn begin(self) {
        begin(self.serve());
    }

    /// Begins several writes as one request to the export.
    pub(super) fn begin_together(writes: Vec<Self>) {
        begin(Self::serve_together(writes));
    }

    async fn serve(mut self) {
        let begun = Instant::now();
        let payload = std::mem::take(&mut self.payload);
        let ended = self.running.session().run(self.command, payload).await;
        self.answer(begun, ended);
    }

    /// If one of the writes fails, each is made once more, by itself: nobody else may have been told yet
    /// that any of them is done, and each then tells how it ended.
    async fn serve_together(writes: Vec<Self>) {
        let Some(session) = writes.first().map(|first| first.running.session().clone()) else {
            return;
        };
        let begun = Instant::now();
        let pieces: Vec<(u64, Bytes)> = writes.iter().flat_map(Self::pieces).collect();
        match session.slot().run(Request::WriteMany(pieces)).await {
            Ok(_) => writes.into_iter().for_each(|it| it.answer(begun, Ok(Vec::new()))),
            Err(_) => writes.into_iter().for_each(Self::begin),
        }
    }

    /// What it writes, and where.
    fn pieces(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut at = match self.command {
            Command::Write { at, .. } => at,
            _ => 0,
        };
        self.payload.iter().map(move |piece| {
            let here = at;
            at += piece.len() as u64;
            (here, piece.clone())
        })
    }

    /// It has ended: counts it and queues its reply.
    fn answer(self, begun: Instant, ended: io::Result<Vec<Chunk>>) {
        let Self { running, cookie, command, permit, .. } = self;
        let session = running.session();
        if let Some((kind, bytes)) = measured(command) {
            session.slot().meter.count(kind, bytes, begun.elapsed(), ended.is_err());
        }
        match ended {
            Ok(chunks) => session.succeed(cookie, chunks, permit),
            Err(error) => session.fail(cookie, Errno::from(&error), error.to_string(), permit),
        }
    }
}

/// Begins a request. Most are done at once, out of memory; the others go on as tasks.
fn begin(request: impl Future<Output = ()> + 'static) {
    let mut request = Box::pin(request);
    // Nobody is woken by this first look: the task takes a second one in any case.
    let mut context = Context::from_waker(Waker::noop());
    if request.as_mut().poll(&mut context).is_pending() {
        // Detached: what writes goes on whatever becomes of the connection.
        compio::runtime::spawn(request).detach();
    }
}

/// As what a command is counted, and with how many bytes.
fn measured(command: Command) -> Option<(Kind, u64)> {
    Some(match command {
        Command::Read { len, .. } => (Kind::Read, len.into()),
        Command::Write { len, .. } => (Kind::Write, len.into()),
        Command::Trim { len, .. } => (Kind::Trim, len.into()),
        Command::WriteZeroes { len, .. } => (Kind::WriteZeroes, len.into()),
        Command::Flush => (Kind::Flush, 0),
        Command::Cache { .. } => (Kind::Cache, 0),
        Command::BlockStatus { len, .. } => (Kind::BlockStatus, len.into()),
        Command::Disconnect => return None,
    })
}
