use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use compio::runtime::Runtime;
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use rustls::ServerConfig;

use super::socket::{Detached, Socket};
use super::tls::{Tls, TlsSession};

/// Plain bytes are taken from the server in lots of this size.
const LOT_BYTES: usize = 128 << 10;

/// The thread that does the arithmetic of all encrypted connections, so that the devices' thread
/// does none: it decrypts from each client's socket into a pair of sockets, and encrypts back.
///
/// What it holds for a client is bounded: one lot and one socket's buffer each way. It ends when
/// this handle is dropped and its last connection has ended.
#[derive(Debug)]
pub(super) struct Relay {
    tls: Tls,
    connections: mpsc::UnboundedSender<Connection>,
}

/// The plain end of an encrypted connection. Dropping it cuts the client off.
#[derive(Debug)]
pub(super) struct Relayed {
    plain: Socket,
    /// Its being dropped is the message.
    _wanted: oneshot::Sender<()>,
    /// Canceled when the thread has nothing more to do for this connection.
    ended: RefCell<Option<oneshot::Receiver<Infallible>>>,
}

/// An encrypted connection on its way to the thread.
struct Connection {
    client: Detached,
    plain: Detached,
    config: Arc<ServerConfig>,
    unwanted: oneshot::Receiver<()>,
    /// Dropped at the end.
    _ends: oneshot::Sender<Infallible>,
}

impl Relay {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no thread, or no ring, for it.
    pub(super) fn start(tls: Tls) -> io::Result<Self> {
        let (connections, arriving) = mpsc::unbounded();
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name("tls".into()).spawn(move || match Runtime::new() {
            Err(error) => drop(started.send(Err(error))),
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(relay_all(arriving));
            }
        })?;
        ready.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
        Ok(Self { tls, connections })
    }

    pub(super) fn is_required(&self) -> bool {
        self.tls.is_required()
    }

    /// Hands a client's socket over; it must not be used any more. The handshake is done by the
    /// thread: if it fails, the plain end is at its end.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left.
    pub(super) fn encrypt(&self, client: &Socket) -> io::Result<Relayed> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let (wanted, unwanted) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        let connection = Connection {
            client: client.duplicate()?,
            plain: Detached::Unix(far),
            config: self.tls.config(),
            unwanted,
            _ends: ends,
        };
        self.connections.unbounded_send(connection).map_err(io::Error::other)?;
        let plain = Detached::Unix(near).attach()?;
        Ok(Relayed { plain, _wanted: wanted, ended: RefCell::new(Some(ended)) })
    }
}

impl Relayed {
    pub(super) fn plain(&self) -> &Socket {
        &self.plain
    }

    /// Sends nothing more, and waits until the client has everything or is gone. That a client has ended its own
    /// half says nothing about that.
    pub(super) async fn close(&self) -> io::Result<()> {
        self.plain.finish().await?;
        let ended = self.ended.take();
        if let Some(ended) = ended {
            let _canceled = ended.await;
        }
        Ok(())
    }
}

async fn relay_all(mut arriving: mpsc::UnboundedReceiver<Connection>) {
    let mut relaying = Vec::new();
    while let Some(connection) = arriving.next().await {
        relaying.retain(|task: &compio::runtime::JoinHandle<()>| !task.is_finished());
        relaying.push(compio::runtime::spawn(connection.relay()));
    }
    for task in relaying {
        let _ = task.await;
    }
}

impl Connection {
    /// Relays until the client or the server has ended it. What goes wrong ends it too: both see
    /// the end of the stream.
    async fn relay(self) {
        let Self { client, plain, config, unwanted, _ends } = self;
        let relaying = async {
            let (client, plain) = (client.attach()?, plain.attach()?);
            let session = TlsSession::accept(&client, config).await?;
            let (inwards, outwards) =
                (decrypt(&session, &client, &plain), encrypt(&session, &plain, &client));
            match select(pin!(inwards), pin!(outwards)).await {
                // The client has ended its half. The server may still have something to say.
                Either::Left((Ok(()), outwards)) => outwards.await,
                Either::Left((Err(error), _)) => Err(error),
                Either::Right((ended, _)) => ended,
            }
        };
        let _: Either<(io::Result<()>, _), _> = select(pin!(relaying), unwanted).await;
    }
}

/// From the client to the server.
async fn decrypt(session: &TlsSession, client: &Socket, plain: &Socket) -> io::Result<()> {
    loop {
        let (received, lot) =
            session.receive(client, Vec::with_capacity(LOT_BYTES), LOT_BYTES).await;
        if received? == 0 {
            return plain.finish().await;
        }
        plain.send(vec![Bytes::from(lot)]).await?;
    }
}

/// From the server to the client.
async fn encrypt(session: &TlsSession, plain: &Socket, client: &Socket) -> io::Result<()> {
    loop {
        let (received, lot) = plain.receive(Vec::with_capacity(LOT_BYTES), LOT_BYTES).await;
        if received? == 0 {
            session.close(client).await?;
            return client.finish().await;
        }
        session.send(client, vec![Bytes::from(lot)]).await?;
    }
}
