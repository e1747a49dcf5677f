use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dmsnap_nbd::Command;
use dmsnap_nbd::client::{Blocking, BlockingError, ClientError, ClientOptions};

/// A client that sends one request and waits for its answer.
pub(crate) struct Nbd(Blocking<UnixStream>);

/// The number of an error, as it comes over the wire.
pub(crate) type Refused = u32;

impl Nbd {
    pub(crate) fn connect(socket: &Path, export: &str) -> Result<Self, BlockingError> {
        connect(socket, export).map(Self)
    }

    pub(crate) fn read(&mut self, at: u64, len: u32) -> Result<Vec<u8>, Refused> {
        self.0.read(at, len).map_err(refused)
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Refused> {
        self.0.write(at, data).map_err(refused)
    }

    pub(crate) fn write_zeroes(&mut self, at: u64, len: u32) -> Result<(), Refused> {
        self.run(Command::WriteZeroes { at, len, fua: false, keep: true, fast: false })
    }

    pub(crate) fn trim(&mut self, at: u64, len: u32) -> Result<(), Refused> {
        self.run(Command::Trim { at, len, fua: false })
    }

    pub(crate) fn flush(&mut self) -> Result<(), Refused> {
        self.run(Command::Flush)
    }

    fn run(&mut self, command: Command) -> Result<(), Refused> {
        self.0.run(command).map_err(refused)
    }
}

/// Chooses an export; simple replies come.
pub(crate) fn connect(socket: &Path, export: &str) -> Result<Blocking<UnixStream>, BlockingError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Blocking::new(stream, ClientOptions { export: export.into(), ..ClientOptions::default() })
}

/// Anything but an error of the export is one of the test.
fn refused(error: BlockingError) -> Refused {
    match error {
        BlockingError::Failed(failure) => failure.errno as u32,
        // What the server would answer.
        BlockingError::Client(ClientError::Impossible { errno, .. }) => errno as u32,
        error => panic!("the server answers: {}", io::Error::other(error)),
    }
}
