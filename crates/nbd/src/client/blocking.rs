use std::io::{self, Read, Write};

use super::ClientError;
use super::event::{Event, Failure};
use super::export_info::ExportInfo;
use super::handshake::{ClientOptions, Handshake, HandshakeEvent};
use super::transmission::Transmission;
use crate::context::Extent;
use crate::request::Command;

/// Why a request, or a connection, has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The stream has failed or ended.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// What the server said, or what it was to be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server has not done what it was asked. The connection is as good as before.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A client of an export over a stream of the caller's that blocks, with one request at a time.
///
/// Where a method fails for another reason than [`BlockingError::Failed`], the connection is of no more use;
/// unless the request was [impossible](ClientError::Impossible).
#[derive(Debug)]
pub struct Blocking<S> {
    stream: S,
    transmission: Transmission,
}

impl<S: Read + Write> Blocking<S> {
    /// Agrees with the server on an export, without encryption; the stream has just been connected. The
    /// [goal](ClientOptions::goal) is transmission.
    ///
    /// # Errors
    ///
    /// The stream fails, the server refuses, or the options ask for something else.
    pub fn new(mut stream: S, options: ClientOptions) -> Result<Self, BlockingError> {
        let mut handshake = Handshake::new(options);
        loop {
            match handshake.next()? {
                Some(HandshakeEvent::Ready(transmission)) => {
                    return Ok(Self { stream, transmission: *transmission });
                }
                Some(event) => {
                    let found = format!("only requests are possible here, not {event:?}");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, found).into());
                }
                None => {
                    stream.write_all(&handshake.take_output())?;
                    let received = receive(&mut stream, handshake.space())?;
                    handshake.received(received);
                }
            }
        }
    }

    /// What the server told about the export.
    pub fn info(&self) -> &ExportInfo {
        self.transmission.info()
    }

    /// The stream and the rest of the client, for a caller that wants more requests in flight.
    pub fn into_parts(self) -> (S, Transmission) {
        (self.stream, self.transmission)
    }

    /// Reads exactly `len` bytes from `at` on.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`].
    pub fn read(&mut self, at: u64, len: u32) -> Result<Vec<u8>, BlockingError> {
        let mut content = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.request(Command::Read { at, len }, &[], |event| {
            // Pieces lie inside what was asked for; holes are zeroes already.
            if let Event::Data { at: here, bytes, .. } = event {
                let start = usize::try_from(here - at).unwrap_or(usize::MAX);
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
        })?;
        Ok(content)
    }

    /// Writes `data` at `at`.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`].
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), BlockingError> {
        // What is longer than a request can be is impossible in any case.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.request(Command::Write { at, len, fua: false }, data, |_| {})
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`]; what was written since the last flush may be lost.
    pub fn flush(&mut self) -> Result<(), BlockingError> {
        self.run(Command::Flush)
    }

    /// Makes a request without payload, whose answer has none.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`].
    pub fn run(&mut self, command: Command) -> Result<(), BlockingError> {
        self.request(command, &[], |_| {})
    }

    /// What a range is made of: extents of each context that was chosen, from the beginning of the range on.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`].
    pub fn block_status(&mut self, at: u64, len: u32) -> Result<Vec<(u32, Extent)>, BlockingError> {
        let mut told = Vec::new();
        self.request(Command::BlockStatus { at, len, one: false }, &[], |event| {
            if let Event::Extents { context, extents, .. } = event {
                told.extend(extents.into_iter().map(|extent| (context, extent)));
            }
        })?;
        Ok(told)
    }

    /// Says good-bye and waits until the server has closed the connection.
    ///
    /// # Errors
    ///
    /// What the stream says.
    pub fn disconnect(mut self) -> Result<(), BlockingError> {
        self.stream.write_all(&Transmission::disconnect())?;
        match self.stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn request(
        &mut self,
        command: Command,
        payload: &[u8],
        mut take: impl FnMut(Event<'_>),
    ) -> Result<(), BlockingError> {
        let (_, header) = self.transmission.begin(command)?;
        self.stream.write_all(&[&header, payload].concat())?;
        loop {
            match self.transmission.next()? {
                Some(Event::Done { result, .. }) => return Ok(result?),
                Some(event) => take(event),
                None => {
                    let received = receive(&mut self.stream, self.transmission.space())?;
                    self.transmission.received(received);
                }
            }
        }
    }
}

/// Receives at least one byte.
fn receive(stream: &mut impl Read, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(space) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}
