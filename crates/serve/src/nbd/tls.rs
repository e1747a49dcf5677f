use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::socket::Socket;

/// Encrypted bytes are taken from the socket, and handed to it, in lots of this size.
const LOT_BYTES: usize = 128 << 10;

/// How the server proves who it is, and whom it lets in: TLS 1.2 or 1.3 with certificates.
///
/// Pre-shared keys are not possible.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    required: bool,
}

impl Tls {
    /// Takes the server's certificate with the chain after it, its private key and, if clients have
    /// to show certificates too, those that must have signed theirs; all as PEM. If `required`,
    /// clients that do not encrypt are told nothing and served nothing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`], with what is wrong.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        client_authorities: Option<&[u8]>,
        required: bool,
    ) -> io::Result<Self> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(error.to_string()))?;
        let builder = match client_authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(authorities)? {
                    roots.add(authority).map_err(|error| invalid(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| invalid(error.to_string()))?,
                )
            }
        };
        let config = builder.with_single_cert(certificates(chain)?, key);
        let config = Arc::new(config.map_err(|error| invalid(error.to_string()))?);
        Ok(Self { config, required })
    }

    pub(super) fn is_required(&self) -> bool {
        self.required
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.to_string()))?;
    if found.is_empty() {
        return Err(invalid("there is no certificate in it".into()));
    }
    Ok(found)
}

/// An encrypted connection, on the thread of the relay. As with the socket, one task may receive
/// while another sends.
#[derive(Debug)]
pub(super) struct TlsSession(RefCell<State>);

#[derive(Debug)]
struct State {
    connection: ServerConnection,
    /// Encrypted bytes received; those before `start` are decrypted.
    received: Vec<u8>,
    start: usize,
}

impl TlsSession {
    /// Does the handshake of TLS.
    pub(super) async fn accept(socket: &Socket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // What is to be sent is taken out at once, and bounded by what is in flight.
        connection.set_buffer_limit(None);
        let session = Self(RefCell::new(State { connection, received: Vec::new(), start: 0 }));
        loop {
            let outgoing = session.0.borrow_mut().encrypted()?;
            socket.send(outgoing).await?;
            if !session.0.borrow().connection.is_handshaking() {
                return Ok(session);
            }
            if !session.0.borrow_mut().decrypt()? && session.fetch(socket).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// As [`Socket::receive`].
    pub(super) async fn receive(
        &self,
        socket: &Socket,
        mut buffer: Vec<u8>,
        most: usize,
    ) -> (io::Result<usize>, Vec<u8>) {
        let most = most.min(buffer.capacity() - buffer.len());
        loop {
            match self.0.borrow_mut().take(&mut buffer, most) {
                Ok(None) => {}
                Ok(Some(taken)) => return (Ok(taken), buffer),
                Err(error) => return (Err(error), buffer),
            }
            match self.fetch(socket).await {
                Ok(0) => return (Ok(0), buffer),
                Ok(_) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
    }

    /// Encrypts and sends all the pieces.
    pub(super) async fn send(&self, socket: &Socket, pieces: Vec<Bytes>) -> io::Result<()> {
        for piece in pieces {
            for lot in piece.chunks(LOT_BYTES) {
                let outgoing = {
                    let mut state = self.0.borrow_mut();
                    state.connection.writer().write_all(lot)?;
                    state.encrypted()?
                };
                socket.send(outgoing).await?;
            }
        }
        Ok(())
    }

    /// Says that nothing more will come.
    pub(super) async fn close(&self, socket: &Socket) -> io::Result<()> {
        let outgoing = {
            let mut state = self.0.borrow_mut();
            state.connection.send_close_notify();
            state.encrypted()?
        };
        socket.send(outgoing).await
    }

    /// More encrypted bytes from the socket; 0 at its end.
    async fn fetch(&self, socket: &Socket) -> io::Result<usize> {
        let mut received = {
            let mut state = self.0.borrow_mut();
            let start = std::mem::take(&mut state.start);
            let mut received = std::mem::take(&mut state.received);
            received.drain(..start);
            received
        };
        received.reserve_exact(LOT_BYTES.saturating_sub(received.len()));
        let (fetched, received) = socket.receive(received, LOT_BYTES).await;
        self.0.borrow_mut().received = received;
        fetched
    }
}

impl State {
    /// What is to be sent now.
    fn encrypted(&mut self) -> io::Result<Vec<Bytes>> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes)?;
        }
        Ok(vec![Bytes::from(bytes)])
    }

    /// Decrypts some of what was received; false if more is needed first.
    fn decrypt(&mut self) -> io::Result<bool> {
        let mut rest = &self.received[self.start..];
        if rest.is_empty() {
            return Ok(false);
        }
        self.start += self.connection.read_tls(&mut rest)?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        self.connection.process_new_packets().map_err(invalid)?;
        Ok(true)
    }

    /// Appends decrypted bytes to `buffer`, at most `most`. `Some(0)` when the client has said that
    /// nothing more will come; `None` if more encrypted bytes are needed.
    fn take(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<Option<usize>> {
        loop {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok(bytes) => {
                    let taken = bytes.len().min(most);
                    buffer.extend_from_slice(&bytes[..taken]);
                    reader.consume(taken);
                    return Ok(Some(taken));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if !self.decrypt()? {
                return Ok(None);
            }
        }
    }
}
