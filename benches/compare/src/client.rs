//! A blocking connection to an NBD server: the shortest handshake, then whatever the caller sends.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use dmsnap_nbd::Command;
use dmsnap_nbd::client::{ClientOptions, Event, Handshake, HandshakeEvent, Transmission};

/// A connection that has chosen an export, for simple replies.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: UnixStream,
    /// What was agreed on, and the requests in flight.
    pub requests: Transmission,
}

impl Connection {
    /// Chooses the export and begins transmission with simple replies.
    ///
    /// # Errors
    ///
    /// What the connection says, or that the server refuses.
    pub fn new(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let options = ClientOptions { export: export.into(), ..ClientOptions::default() };
        let mut handshake = Handshake::new(options);
        loop {
            match handshake.next().map_err(invalid)? {
                Some(HandshakeEvent::Ready(requests)) => {
                    return Ok(Self { stream, requests: *requests });
                }
                Some(event) => return Err(invalid(format!("{event:?} was not asked for"))),
                None => {
                    stream.write_all(&handshake.take_output())?;
                    let received = stream.read(handshake.space())?;
                    handshake.received(some(received)?);
                }
            }
        }
    }

    /// Size of the export, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.requests.info().size_bytes
    }

    /// Takes what has come in, in one system call; waits if there is nothing.
    ///
    /// # Errors
    ///
    /// What the connection says, or that the server has closed it.
    pub fn receive(&mut self) -> io::Result<()> {
        let received = self.stream.read(self.requests.space())?;
        self.requests.received(some(received)?);
        Ok(())
    }

    /// Reads bytes and waits for them; nothing else may be in flight.
    ///
    /// # Errors
    ///
    /// What the connection says, or that the server cannot read.
    pub fn read(&mut self, at: u64, len: u32) -> io::Result<Vec<u8>> {
        let (_, header) = self.requests.begin(Command::Read { at, len }).map_err(invalid)?;
        self.stream.write_all(&header)?;
        let mut content = Vec::new();
        loop {
            match self.requests.next().map_err(invalid)? {
                Some(Event::Data { bytes, .. }) => content.extend_from_slice(bytes),
                Some(Event::Done { result, .. }) => {
                    return result.map(|()| content).map_err(io::Error::other);
                }
                Some(event) => return Err(invalid(format!("{event:?} is not a simple reply"))),
                None => self.receive()?,
            }
        }
    }

    /// Says good-bye and waits until the server has closed.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.stream.write_all(&Transmission::disconnect())?;
        match self.stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(()),
        }
    }
}

/// Nothing received is the end of the connection.
fn some(received: usize) -> io::Result<usize> {
    if received == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(received) }
}

pub(crate) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
