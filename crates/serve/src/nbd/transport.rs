use std::cell::{Cell, OnceCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes};
use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncRead, AsyncWrite};
use compio::net::{TcpListener, TcpStream, ToSocketAddrsAsync, UnixListener, UnixStream};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::relay::{Relay, Relayed};
use crate::socket::{OwnerSocket, SocketFile};

/// After so long without a word the system asks whether a TCP client is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Where clients come from.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Unix(Bound),
    Tcp(TcpListener),
}

/// A socket in the file system; if its file is ours, it is removed on drop.
#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens on a new socket file, which only its owner can connect to, and which is removed when the
    /// listener is dropped. One that nobody listens on any more is taken over.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] if the file is there; any error of the system.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let (listener, file) = OwnerSocket::take_patiently(path).await?.into_parts();
        let listener = UnixListener::from_std(listener)?;
        Ok(Self(Kind::Unix(Bound { listener, _file: Some(file) })))
    }

    /// Listens on a TCP port; port 0 is any that is free.
    ///
    /// # Errors
    ///
    /// Any error of the system.
    pub async fn tcp(address: impl ToSocketAddrsAsync) -> io::Result<Self> {
        TcpListener::bind(address).await.map(|listener| Self(Kind::Tcp(listener)))
    }

    /// Takes over a Unix socket that somebody else listens on; its name stays when it is dropped.
    ///
    /// # Errors
    ///
    /// Any error of the system.
    pub fn from_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self(Kind::Unix(Bound { listener, _file: None })))
    }

    /// Takes over a TCP socket that somebody else listens on.
    ///
    /// # Errors
    ///
    /// Any error of the system.
    pub fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(|listener| Self(Kind::Tcp(listener)))
    }

    /// Address and port, for TCP.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] for a Unix socket; any error of the system.
    pub fn tcp_address(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr(),
            Kind::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match &self.0 {
            Kind::Unix(bound) => {
                let (stream, _) = bound.listener.accept().await?;
                Ok(Socket::Unix(stream))
            }
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without these it works all the same: slower, and with dead clients noticed later.
                let _ = stream.set_nodelay(true);
                let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
                let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE);
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

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

    /// Appends at least one and at most `most` bytes to `buffer`, within its capacity. Returns how
    /// many; 0 at the end of the stream.
    pub(super) async fn receive(
        &self,
        buffer: Vec<u8>,
        most: usize,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (received, buffer) = self.socket().receive(buffer, most).await;
        self.has_moved(received.as_ref().map_or(0, |bytes| *bytes));
        (received, buffer)
    }

    /// As [`receive`](Self::receive), into this range of `memory`, all of which is initialised.
    pub(super) async fn receive_into(
        &self,
        memory: Vec<u8>,
        range: Range<usize>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (received, memory) = self.socket().receive_into(memory, range).await;
        self.has_moved(received.as_ref().map_or(0, |bytes| *bytes));
        (received, memory)
    }

    /// Sends as many of the pieces as the socket takes without waiting; what is left stays. Nobody
    /// else may be sending.
    pub(super) fn send_now(&self, pieces: &mut Vec<Bytes>) -> io::Result<()> {
        self.socket().send_now(pieces)
    }

    /// Sends all the pieces.
    pub(super) async fn send(&self, pieces: Vec<Bytes>) -> io::Result<()> {
        self.socket().send_and_tell(pieces, |sent| self.has_moved(sent)).await
    }

    /// So many bytes have come from the client, or gone to it while something waited for that.
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

    /// As [`Transport::receive`].
    pub(super) async fn receive(
        &self,
        buffer: Vec<u8>,
        most: usize,
    ) -> (io::Result<usize>, Vec<u8>) {
        let start = buffer.len();
        let end = buffer.capacity().min(start.saturating_add(most));
        self.receive_into(buffer, start..end).await
    }

    /// As [`Transport::receive_into`].
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

    /// The kernel gives a request up as "would block" that it has tried often enough in vain, where the socket
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

    /// As [`Transport::send`].
    pub(super) async fn send(&self, pieces: Vec<Bytes>) -> io::Result<()> {
        self.send_and_tell(pieces, |_| ()).await
    }

    /// The same; `tell` hears how many bytes have gone, as they go.
    async fn send_and_tell(&self, mut pieces: Vec<Bytes>, tell: impl Fn(usize)) -> io::Result<()> {
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

    /// As [`Transport::send_now`].
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
