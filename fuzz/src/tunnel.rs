use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use compio::buf::BufResult;
use compio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use compio::net::UnixStream;
use dmsnap_nbd::OptionRequest;
use futures_util::future::join;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::input::{Input, told};

/// Greeting, and the answer to the request to encrypt.
const PLAIN_BYTES: usize = 18 + 20;

/// What happens to the bytes that a client has encrypted, on their way to the server.
#[derive(Debug)]
pub(crate) enum Spoilt {
    Nothing,
    /// This one becomes another.
    Flipped(usize, u8),
    /// Nothing comes after this many.
    Cut(usize),
    /// Others come before this one.
    Put(usize, Vec<u8>),
}

impl Spoilt {
    pub(crate) fn from(input: &mut Input<'_>) -> Self {
        let at = usize::from(input.u16() % 1024);
        match input.u8() % 4 {
            0 => Self::Nothing,
            1 => Self::Flipped(at, input.u8().max(1)),
            2 => Self::Cut(at),
            _ => Self::Put(at, input.bytes(32).to_vec()),
        }
    }

    /// These bytes, the first of which is the one `at`. False if they are the last.
    fn spoil(&self, at: usize, bytes: &mut Vec<u8>) -> bool {
        let within = |wanted: usize| wanted.checked_sub(at).filter(|place| *place < bytes.len());
        match self {
            Self::Flipped(wanted, by) => {
                if let Some(place) = within(*wanted) {
                    bytes[place] ^= by;
                }
            }
            Self::Cut(wanted) => {
                if let Some(place) = within(*wanted) {
                    bytes.truncate(place);
                    return false;
                }
            }
            Self::Put(wanted, others) => {
                if let Some(place) = within(*wanted) {
                    bytes.splice(place..place, others.iter().copied());
                }
            }
            Self::Nothing => {}
        }
        true
    }
}

/// One client's side of an encrypted connection.
struct Tunnel<'a> {
    stream: UnixStream,
    connection: RefCell<ClientConnection>,
    spoilt: &'a Spoilt,
}

/// Asks for encryption, says all of it so, and returns what was answered, decrypted; up to where either side
/// found that the other talks nonsense.
pub(crate) async fn heard(
    stream: StdStream,
    config: Arc<ClientConfig>,
    said: &[u8],
    spoilt: &Spoilt,
) -> Vec<u8> {
    stream.set_nonblocking(true).expect("a socket");
    let stream = UnixStream::from_std(stream).expect("a socket");
    let asked = [&3_u32.to_be_bytes()[..], &OptionRequest::StartTls.encode()].concat();
    (&stream).write_all(asked).await.0.expect("the server listens");
    let mut plain = Vec::new();
    while plain.len() < PLAIN_BYTES {
        let BufResult(read, bytes) = (&stream).read(Vec::with_capacity(PLAIN_BYTES)).await;
        assert!(read.expect("answered") > 0, "hangs up instead of encrypting");
        plain.extend(bytes);
    }
    assert_eq!(plain.len(), PLAIN_BYTES, "said unasked, and not encrypted");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = ClientConnection::new(config, name).expect("a client");
    connection.set_buffer_limit(None);
    let tunnel = Tunnel { stream, connection: RefCell::new(connection), spoilt };
    tunnel.talks(said).await
}

impl Tunnel<'_> {
    async fn talks(&self, said: &[u8]) -> Vec<u8> {
        let (mut sent, mut heard) = (0, Vec::new());
        while self.connection.borrow().is_handshaking() {
            if !self.sends(&mut sent).await || !self.receives(&mut heard).await {
                return heard;
            }
        }
        {
            let mut connection = self.connection.borrow_mut();
            connection.writer().write_all(said).expect("no limit");
            connection.send_close_notify();
        }
        let saying = async {
            self.sends(&mut sent).await;
            let _ = (&self.stream).shutdown().await;
        };
        let hearing = async { while self.receives(&mut heard).await {} };
        join(saying, hearing).await;
        heard
    }

    /// Everything that is ready to be sent. False if the rest of it stays away.
    async fn sends(&self, sent: &mut usize) -> bool {
        let mut bytes = Vec::new();
        {
            let mut connection = self.connection.borrow_mut();
            while connection.wants_write() {
                connection.write_tls(&mut bytes).expect("memory");
            }
        }
        let len = bytes.len();
        let goes_on = self.spoilt.spoil(*sent, &mut bytes);
        *sent += len;
        let written = (&self.stream).write_all(bytes).await.0;
        if !goes_on {
            let _ = (&self.stream).shutdown().await;
        }
        goes_on && written.is_ok()
    }

    /// False at the end.
    async fn receives(&self, heard: &mut Vec<u8>) -> bool {
        let BufResult(read, bytes) = (&self.stream).read(Vec::with_capacity(64 << 10)).await;
        told(|| format!("received {read:?}, {} before", heard.len()));
        if !matches!(read, Ok(1..)) {
            return false;
        }
        let mut connection = self.connection.borrow_mut();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let taken = connection.read_tls(&mut rest);
            if taken.is_err() || connection.process_new_packets().is_err() {
                told(|| "the server talks nonsense, or has refused".into());
                return false;
            }
            let _at_the_end = connection.reader().read_to_end(heard);
        }
        true
    }
}
