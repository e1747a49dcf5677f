use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use dmsnap::sync::Event;
use dmsnap_nbd::Reply;

use super::transport::Transport;
use crate::budget::Permit;

/// Pieces that go to the socket in one call, at most (IOV_MAX of Linux).
const GATHERED_PIECES: usize = 1024;

/// Replies on their way to the socket.
#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<(Reply, Permit)>>,
    /// Its first piece may have gone in part; comes before the queue.
    begun: RefCell<Option<Batch>>,
    /// Somebody waits for the socket to take a batch.
    waiting: Cell<bool>,
    /// The socket has failed: replies are thrown away.
    broken: Cell<bool>,
    closed: Cell<bool>,
    changed: Event,
}

/// Replies that go out together.
struct Batch {
    pieces: Vec<Bytes>,
    permits: Vec<Permit>,
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
        loop {
            let to_do = || self.has_some().then_some(true).or(self.closed.get().then_some(false));
            if !self.changed.until(to_do).await {
                return;
            }
            self.send_now(transport);
            let Some(Batch { pieces, permits }) = self.begun.take() else { continue };
            self.waiting.set(true);
            let sent = transport.send(pieces).await;
            self.waiting.set(false);
            self.broken.set(self.broken.get() || sent.is_err());
            drop(permits);
        }
    }

    /// Sends what the socket takes without waiting.
    pub(super) fn send_now(&self, transport: &Transport) {
        while !self.waiting.get()
            && let Some(mut batch) = self.begun.take().or_else(|| self.gather())
        {
            if self.broken.get() {
                continue;
            }
            let sent = transport.send_now(&mut batch.pieces);
            if sent.is_err() {
                self.broken.set(true);
            } else if !batch.pieces.is_empty() {
                self.begun.replace(Some(batch));
                return;
            }
        }
    }

    /// The client does not receive what is to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    fn has_some(&self) -> bool {
        self.begun.borrow().is_some() || !self.queue.borrow().is_empty()
    }

    /// As many replies as go out at once.
    fn gather(&self) -> Option<Batch> {
        let mut queue = self.queue.borrow_mut();
        let (mut pieces, mut permits) = (Vec::new(), Vec::with_capacity(queue.len()));
        while let Some((reply, _)) = queue.front()
            && (pieces.is_empty() || pieces.len() + reply.0.len() <= GATHERED_PIECES)
        {
            let Some((reply, permit)) = queue.pop_front() else { break };
            pieces.extend(reply.0);
            permits.push(permit);
        }
        (!permits.is_empty()).then_some(Batch { pieces, permits })
    }
}
