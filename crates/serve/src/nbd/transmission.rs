use std::io;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap_nbd::{Command, REQUEST_LEN, Request};
use futures_util::future::select;

use super::batch::WriteBatch;
use super::in_flight::InFlight;
use super::limits::{Limits, len_usize};
use super::reader::Reader;
use super::session::{Agreed, Session};
use crate::budget::{Budget, Memory};

/// Serves requests until the client leaves or `stop` says so. Returns when every request that was
/// read whole is done, its reply sent (or the client found not to read it), and everything written
/// is durable.
pub(super) async fn transmission(
    mut reader: Reader,
    agreed: Agreed,
    (limits, memory): (Limits, &Rc<Memory>),
    stop: impl Future<Output = ()>,
) {
    let transport = reader.transport().clone();
    let sending_to = transport.clone();
    let session = Session::new(agreed);
    let sender = session.clone();
    let sending = compio::runtime::spawn(async move { sender.outbox.drain_to(&sending_to).await });
    {
        let of_export = session.slot().in_flight.clone();
        let bytes = limits.in_flight_bytes();
        let budget = Budget::new(limits.requests, bytes, memory.clone(), of_export);
        let requests = pin!(read_requests(&mut reader, &session, &budget));
        let stalled = pin!(session.stalled(&transport, limits.stall, &budget));
        let removed = pin!(session.slot().removed.wait());
        let stop = pin!(stop);
        let stopped = select(select(stop, removed), stalled);
        // What is dropped here waits for a socket or a permit, never for a device. An error means
        // that the client is gone or talks nonsense: there is nobody to tell.
        let _ = select(requests, stopped).await;
    }
    session.all_ended().await;
    // A failure stays with the export: every later flush fails, too.
    let _ = session.slot().flush_if_dirty().await;
    session.outbox.close();
    let _ = compio::time::timeout(limits.grace, sending).await;
}

/// Reads requests and sets them going; returns when the client leaves.
async fn read_requests(
    reader: &mut Reader,
    session: &Rc<Session>,
    budget: &Rc<Budget>,
) -> io::Result<()> {
    let facts = session.facts();
    let mut batch = WriteBatch::new(session.slot().target.joins_writes());
    loop {
        if !reader.has(REQUEST_LEN) {
            // Nothing more to do at once: what is done leaves in one call.
            batch.begin();
            session.outbox.send_now(reader.transport());
        }
        let Some(bytes) = reader.message().await? else { return Ok(()) };
        let Some(request) = Request::decode(bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no request magic"));
        };
        let command = match request.understand(facts) {
            Ok(Command::Disconnect) => return Ok(()),
            Ok(command) => command,
            Err((errno, why)) => {
                batch.begin();
                reader.skip(request.payload_bytes().into()).await?;
                let permit = budget.take(0).await;
                session.fail(request.cookie, errno, why.into(), permit);
                continue;
            }
        };
        let cost = session.cost(command);
        let is_small_write = batch.takes(command);
        // What is held back for company waits for nothing else.
        let is_here = matches!(command, Command::Write { len, .. } if reader.has(len_usize(len)));
        if !is_small_write || !is_here || !budget.has(cost) {
            batch.begin();
        }
        let permit = budget.take(cost).await;
        let payload = payload(reader, session, command).await?;
        let request = InFlight::new(session, (request.cookie, command), payload, permit);
        match is_small_write {
            true => batch.push(request),
            false => request.begin(),
        }
    }
}

/// What a write brings.
async fn payload(
    reader: &mut Reader,
    session: &Session,
    command: Command,
) -> io::Result<Vec<Bytes>> {
    let Command::Write { len, .. } = command else { return Ok(Vec::new()) };
    session.receiving.set(true);
    let payload = reader.payload(len_usize(len)).await?;
    session.receiving.set(false);
    Ok(payload)
}
