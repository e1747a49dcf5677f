use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dmsnap_nbd::{OptionRequest, Request, SIMPLE_REPLY_MAGIC, Selection, command, flag};

/// A client that sends one request and waits for its answer.
pub(crate) struct Nbd(UnixStream);

/// The number of an error, as it comes over the wire.
pub(crate) type Refused = u32;

impl Nbd {
    pub(crate) fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3_u32.to_be_bytes())?;
        let go = OptionRequest::Go(Selection { name: export.into(), infos: Vec::new() });
        stream.write_all(&go.encode())?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            stream.read_exact(&mut vec![0; number(&head, 16) as usize])?;
            match number(&head, 12) {
                1 => return Ok(Self(stream)),
                kind if kind >> 31 == 1 => return Err(io::ErrorKind::NotFound.into()),
                _ => {}
            }
        }
    }

    pub(crate) fn read(&mut self, at: u64, len: u32) -> Result<Vec<u8>, Refused> {
        self.send(command::READ, 0, at, len, &[])?;
        let mut data = vec![0; len as usize];
        self.0.read_exact(&mut data).expect("the server answers");
        Ok(data)
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Refused> {
        let len = u32::try_from(data.len()).expect("small");
        self.send(command::WRITE, 0, at, len, data)
    }

    pub(crate) fn write_zeroes(&mut self, at: u64, len: u32) -> Result<(), Refused> {
        self.send(command::WRITE_ZEROES, flag::NO_HOLE, at, len, &[])
    }

    pub(crate) fn trim(&mut self, at: u64, len: u32) -> Result<(), Refused> {
        self.send(command::TRIM, 0, at, len, &[])
    }

    pub(crate) fn flush(&mut self) -> Result<(), Refused> {
        self.send(command::FLUSH, 0, 0, 0, &[])
    }

    fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Result<(), Refused> {
        let request = Request { flags, command, cookie: 7, offset, len };
        let mut head = [0; 16];
        let told = self.0.write_all(&[&request.encode()[..], data].concat());
        told.and_then(|()| self.0.read_exact(&mut head)).expect("the server answers");
        assert_eq!(number(&head, 0), SIMPLE_REPLY_MAGIC);
        match number(&head, 4) {
            0 => Ok(()),
            refused => Err(refused),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
