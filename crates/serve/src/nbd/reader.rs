use std::io;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::Buffer;

use super::transport::Transport;

/// The most bytes to read ahead of the current message.
const AHEAD_BYTES: usize = 128 << 10;

/// A payload of at most this many bytes is taken ahead as well, with the messages after it.
const SMALL_BYTES: usize = 32 << 10;

/// A longer payload comes in pieces of this size, each allocated when the one before is full: a
/// client that announces much and sends nothing costs one piece.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Takes messages off a socket.
///
/// A future of its methods may be dropped, but then the stream is of no more use.
pub(super) struct Reader {
    transport: Rc<Transport>,
    buffer: Vec<u8>,
    /// The bytes before have been handed out.
    start: usize,
}

impl Reader {
    pub(super) fn new(transport: Rc<Transport>) -> Self {
        Self { transport, buffer: Vec::new(), start: 0 }
    }

    pub(super) fn transport(&self) -> &Rc<Transport> {
        &self.transport
    }

    /// The next `N` bytes; `None` if the stream ends before the first of them.
    pub(super) async fn message<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        while self.ahead().len() < N {
            if !self.receive().await? {
                return match self.ahead() {
                    [] => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        let message = self.ahead().first_chunk().copied();
        self.start += N;
        Ok(message)
    }

    /// The next `len` bytes; only for small ones.
    pub(super) async fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let ahead = self.some_ahead().await?;
            let part = ahead.len().min(len - bytes.len());
            bytes.extend_from_slice(&ahead[..part]);
            self.start += part;
        }
        Ok(bytes)
    }

    /// Passes over the next `len` bytes.
    pub(super) async fn skip(&mut self, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let ahead = self.some_ahead().await?.len();
            let part = ahead.min(usize::try_from(len).unwrap_or(ahead));
            self.start += part;
            len -= part as u64;
        }
        Ok(())
    }

    /// The next `len` bytes in memory that suits direct I/O.
    pub(super) async fn payload(&mut self, len: usize) -> io::Result<Vec<Bytes>> {
        while len <= SMALL_BYTES && self.ahead().len() < len {
            if !self.receive().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if self.ahead().len() >= len {
            let payload = Buffer::copy_of(&self.ahead()[..len]).freeze();
            self.start += len;
            return Ok(vec![payload]);
        }
        let mut pieces = Vec::with_capacity(len.div_ceil(PIECE_BYTES));
        let mut left = len;
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            pieces.push(self.piece(piece).await?);
            left -= piece;
        }
        Ok(pieces)
    }

    async fn piece(&mut self, len: usize) -> io::Result<Bytes> {
        let (mut memory, range) = Buffer::recycled(len).into_memory();
        let ahead = self.ahead();
        let mut filled = ahead.len().min(len);
        memory[range.start..range.start + filled].copy_from_slice(&ahead[..filled]);
        self.start += filled;
        while filled < len {
            let rest = range.start + filled..range.end;
            let (received, memory_again) = self.transport.receive_into(memory, rest).await;
            memory = memory_again;
            match received? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => filled += received,
            }
        }
        Ok(Buffer::from_memory(memory, &range).freeze())
    }

    /// Are the next `len` bytes here?
    pub(super) fn has(&self, len: usize) -> bool {
        self.ahead().len() >= len
    }

    /// Has the client said more than it was asked?
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead().is_empty()
    }

    fn ahead(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    async fn some_ahead(&mut self) -> io::Result<&[u8]> {
        if self.ahead().is_empty() && !self.receive().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.ahead())
    }

    /// More bytes; false at the end of the stream.
    async fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.drain(..self.start);
        self.start = 0;
        buffer.reserve_exact(AHEAD_BYTES.saturating_sub(buffer.len()));
        let (received, buffer) = self.transport.receive(buffer, AHEAD_BYTES).await;
        self.buffer = buffer;
        Ok(received? > 0)
    }
}
