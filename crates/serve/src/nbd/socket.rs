use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::{Buf, Bytes};
use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncRead, AsyncWrite};
use compio::net::{TcpStream, UnixStream};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// The same socket, for another thread.
    pub(super) fn duplicate(&self) -> io::Result<Detached> {
        Ok(match self {
            Self::Unix(stream) => Detached::Unix(rustix::io::dup(stream)?.into()),
            Self::Tcp(stream) => Detached::Tcp(rustix::io::dup(stream)?.into()),
        })
    }

    /// Sends nothing more: the other side sees the end of the stream.
    pub(super) async fn finish(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                let mut stream = stream;
                stream.shutdown().await
            }
            Self::Tcp(stream) => {
                let mut stream = stream;
                stream.shutdown().await
            }
        }
    }

    /// Appends at least one and at most `most` bytes to `buffer`, within its capacity. Returns how
    /// many; 0 at the end of the stream.
    pub(super) async fn receive(
        &self,
        buffer: Vec<u8>,
        most: usize,
    ) -> (io::Result<usize>, Vec<u8>) {
        let start = buffer.len();
        let end = buffer.capacity().min(start.saturating_add(most));
        self.receive_into(buffer, start..end).await
    }

    /// As [`receive`](Self::receive), into this range of `memory`, all of which is initialised.
    pub(super) async fn receive_into(
        &self,
        memory: Vec<u8>,
        range: Range<usize>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let mut slice = memory.slice(range);
        loop {
            let BufResult(received, back) = match self {
                Self::Unix(stream) => {
                    let mut stream = stream;
                    stream.read(slice).await
                }
                Self::Tcp(stream) => {
                    let mut stream = stream;
                    stream.read(slice).await
                }
            };
            slice = back;
            let ready = match &received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await,
                _ => return (received, slice.into_inner()),
            };
            if ready.is_err() {
                return (received, slice.into_inner());
            }
        }
    }

    /// The kernel gives a request up as "would block" that it has tried often enough without success, where the socket
    /// is one that does not block.
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.to_poll_fd()?.read_ready().await,
            Self::Tcp(stream) => stream.to_poll_fd()?.read_ready().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.to_poll_fd()?.write_ready().await,
            Self::Tcp(stream) => stream.to_poll_fd()?.write_ready().await,
        }
    }

    /// Sends all the pieces.
    pub(super) async fn send(&self, pieces: Vec<Bytes>) -> io::Result<()> {
        self.send_and_tell(pieces, |_| ()).await
    }

    /// The same; `tell` hears how many bytes have gone, as they go.
    pub(super) async fn send_and_tell(
        &self,
        mut pieces: Vec<Bytes>,
        tell: impl Fn(usize),
    ) -> io::Result<()> {
        pieces.retain(|piece| !piece.is_empty());
        while !pieces.is_empty() {
            let BufResult(sent, rest) = match self {
                Self::Unix(stream) => {
                    let mut stream = stream;
                    stream.write_vectored(pieces).await
                }
                Self::Tcp(stream) => {
                    let mut stream = stream;
                    stream.write_vectored(pieces).await
                }
            };
            pieces = rest;
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    tell(sent);
                    drop_front(&mut pieces, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends as many of the pieces as the socket takes without waiting; what is left stays. Nobody
    /// else may be sending.
    pub(super) fn send_now(&self, pieces: &mut Vec<Bytes>) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut nothing_else = SendAncillaryBuffer::default();
        let sent = retry_on_intr(|| match self {
            Self::Unix(stream) => sendmsg(stream, &slices, &mut nothing_else, flags),
            Self::Tcp(stream) => sendmsg(stream, &slices, &mut nothing_else, flags),
        });
        match sent {
            Ok(sent) => drop_front(pieces, sent),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Takes the first `bytes` off.
fn drop_front(pieces: &mut Vec<Bytes>, mut bytes: usize) {
    let whole = pieces.iter().take_while(|piece| match bytes.checked_sub(piece.len()) {
        Some(rest) => {
            bytes = rest;
            true
        }
        None => false,
    });
    let whole = whole.count();
    pieces.drain(..whole);
    if let Some(first) = pieces.first_mut() {
        first.advance(bytes);
    }
}

/// A connected socket of no thread.
#[derive(Debug)]
pub(super) enum Detached {
    Unix(std::os::unix::net::UnixStream),
    Tcp(std::net::TcpStream),
}

impl Detached {
    /// Must run inside the compio runtime that is to use it.
    pub(super) fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
            Self::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
        })
    }
}
