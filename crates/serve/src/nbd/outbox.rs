use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::budget::Permit;
use super::codec::Reply;
use super::event::Event;
use super::transport::Transport;

/// Pieces that go to the socket in one call, at most (IOV_MAX of Linux).
const GATHERED_PIECES: usize = 1024;

/// Replies on their way to the socket.
#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<(Reply, Permit)>>,
    closed: Cell<bool>,
    changed: Event,
}

impl Outbox {
    /// Queues a reply. Its permit is given back when the reply has been sent or can no longer be.
    pub(super) fn push(&self, reply: Reply, permit: Permit) {
        self.queue.borrow_mut().push_back((reply, permit));
        self.changed.notify();
    }

    /// No reply will follow.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.changed.notify();
    }

    /// Sends replies, those that wait together in one call, until the outbox is closed and empty.
    /// After an error of the socket the replies are thrown away.
    pub(super) async fn drain_to(&self, transport: &Transport) {
        let mut broken = false;
        while let Some((pieces, permits)) = self.changed.until(|| self.next()).await {
            if !broken {
                broken = transport.send(pieces).await.is_err();
            }
            drop(permits);
        }
    }

    /// As many replies as go out at once; `Some(None)` after the last.
    fn next(&self) -> Option<Option<(Vec<bytes::Bytes>, Vec<Permit>)>> {
        let mut queue = self.queue.borrow_mut();
        let (mut pieces, mut permits) = (Vec::new(), Vec::new());
        while let Some((reply, _)) = queue.front()
            && (pieces.is_empty() || pieces.len() + reply.0.len() <= GATHERED_PIECES)
        {
            let Some((reply, permit)) = queue.pop_front() else { break };
            pieces.extend(reply.0);
            permits.push(permit);
        }
        match (permits.is_empty(), self.closed.get()) {
            (false, _) => Some(Some((pieces, permits))),
            (true, true) => Some(None),
            (true, false) => None,
        }
    }
}
