use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use compio::net::{TcpListener, ToSocketAddrsAsync, UnixListener};

use super::socket::Socket;
use crate::socket::{OwnerSocket, SocketAccess, SocketFile};

/// After this time without a word the system asks whether a TCP client is still there.
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
        Self::unix_for(path, SocketAccess::OWNER).await
    }

    /// The same, for others as well.
    ///
    /// # Errors
    ///
    /// As [`unix`](Self::unix).
    pub async fn unix_for(path: &Path, access: SocketAccess) -> io::Result<Self> {
        let bound = OwnerSocket::take_patiently_for(path, access).await?;
        let (listener, file) = bound.into_parts();
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
