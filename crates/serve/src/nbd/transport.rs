use std::cell::{Cell, OnceCell};
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::relay::{Relay, Relayed};
use super::socket::Socket;

/// A connection to a client: its socket, or the plain end of a relay that encrypts. One task may
/// receive while another sends.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    relayed: OnceCell<Relayed>,
    /// Bytes that the client has sent and received.
    moved: Cell<u64>,
}

impl Transport {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, relayed: OnceCell::new(), moved: Cell::default() }
    }

    /// From now on everything is encrypted. Nothing else may be under way. A handshake that fails is
    /// seen as the end of the stream.
    pub(super) fn encrypt(&self, relay: &Relay) -> io::Result<()> {
        let relayed = relay.encrypt(&self.socket)?;
        self.relayed.set(relayed).map_err(|_| io::Error::other("encrypted already"))
    }

    fn socket(&self) -> &Socket {
        self.relayed.get().map_or(&self.socket, Relayed::plain)
    }

    /// As [`Socket::receive`].
    pub(super) async fn receive(
        &self,
        buffer: Vec<u8>,
        most: usize,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (received, buffer) = self.socket().receive(buffer, most).await;
        self.has_moved(received.as_ref().map_or(0, |bytes| *bytes));
        (received, buffer)
    }

    /// As [`Socket::receive_into`].
    pub(super) async fn receive_into(
        &self,
        memory: Vec<u8>,
        range: Range<usize>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (received, memory) = self.socket().receive_into(memory, range).await;
        self.has_moved(received.as_ref().map_or(0, |bytes| *bytes));
        (received, memory)
    }

    /// As [`Socket::send_now`].
    pub(super) fn send_now(&self, pieces: &mut Vec<Bytes>) -> io::Result<()> {
        self.socket().send_now(pieces)
    }

    /// Sends all the pieces.
    pub(super) async fn send(&self, pieces: Vec<Bytes>) -> io::Result<()> {
        self.socket().send_and_tell(pieces, |sent| self.has_moved(sent)).await
    }

    /// How many bytes have come from the client, or gone to it while something waited for that.
    pub(super) fn moved_bytes(&self) -> u64 {
        self.moved.get()
    }

    fn has_moved(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// Says good-bye, where there is a word for it, and waits until everything is with the client.
    pub(super) async fn close(&self) -> io::Result<()> {
        match self.relayed.get() {
            Some(relayed) => relayed.close().await,
            None => Ok(()),
        }
    }
}
