//! A connection to an NBD client, as the least that could serve it: blocking, one system call for
//! all requests that have come in, one for all their answers.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;

use dmsnap_nbd::{
    ExportNameReply, Greeting, Info, OPTION_HEADER_LEN, OptionHeader, OptionReply, REQUEST_LEN,
    Refusal, Request, SIMPLE_REPLY_LEN, SimpleReply, command, option_code, transmission,
};

/// What is received at a time, in bytes; a longer request is not served.
const RECEIVE_BYTES: usize = 4 << 20;

/// Answers are sent when they are as long as this, in bytes, or no request is left.
const SEND_BYTES: usize = 256 << 10;

/// What answers requests.
pub trait Disk {
    /// In bytes.
    fn len_bytes(&self) -> u64;

    /// These ranges of bytes are about to be written.
    ///
    /// # Errors
    ///
    /// Any error of a file.
    fn prepare(&mut self, _writes: &[Range<u64>]) -> io::Result<()> {
        Ok(())
    }

    /// Fills `into`.
    ///
    /// # Errors
    ///
    /// Any error of a file.
    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `data`.
    ///
    /// # Errors
    ///
    /// Any error of a file.
    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()>;

    /// Makes data durable.
    ///
    /// # Errors
    ///
    /// Any error of a file.
    fn flush(&mut self) -> io::Result<()>;
}

/// Serves one client until it leaves.
///
/// # Errors
///
/// What the connection says, or any error of a file: nobody is told by an answer.
pub fn serve(mut stream: UnixStream, disk: &mut impl Disk) -> io::Result<()> {
    if !handshake(&mut stream, disk.len_bytes())? {
        return Ok(());
    }
    let mut received = vec![0; RECEIVE_BYTES];
    let mut answers = Answers::new();
    let mut len = 0;
    loop {
        len += match stream.read(&mut received[len..])? {
            0 => return Ok(()),
            more => more,
        };
        let (requests, used) = requests(&received[..len])?;
        let writes: Vec<_> = requests
            .iter()
            .filter(|(it, _)| it.command == command::WRITE)
            .map(|(it, _)| it.offset..it.offset + u64::from(it.len))
            .collect();
        disk.prepare(&writes)?;
        for (request, payload) in &requests {
            match request.command {
                command::READ => {
                    let into = answers.put(&mut stream, request.cookie, request.len as usize)?;
                    disk.read(request.offset, into)?;
                    continue;
                }
                command::WRITE => disk.write(request.offset, payload)?,
                command::FLUSH => disk.flush()?,
                command::DISC => return answers.send(&mut stream),
                _ => return Err(io::Error::other("a command that is not served")),
            }
            answers.put(&mut stream, request.cookie, 0)?;
        }
        answers.send(&mut stream)?;
        received.copy_within(used..len, 0);
        len -= used;
    }
}

/// A request and its payload.
type Whole<'a> = (Request, &'a [u8]);

/// The requests that are there as a whole, and how many bytes they have.
fn requests(mut bytes: &[u8]) -> io::Result<(Vec<Whole<'_>>, usize)> {
    let (mut requests, mut used) = (Vec::new(), 0);
    while let Some((head, rest)) = bytes.split_first_chunk::<REQUEST_LEN>() {
        let request = Request::decode(*head).ok_or_else(|| io::Error::other("no request"))?;
        let len = request.payload_bytes() as usize;
        if REQUEST_LEN + len > RECEIVE_BYTES {
            return Err(io::Error::other("a request that is too long"));
        }
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        requests.push((request, payload));
        used += REQUEST_LEN + len;
        bytes = rest;
    }
    Ok((requests, used))
}

/// Answers gathered for one system call.
struct Answers {
    bytes: Vec<u8>,
    len: usize,
}

impl Answers {
    fn new() -> Self {
        Self { bytes: vec![0; SEND_BYTES], len: 0 }
    }

    /// Adds an answer with room for `data` bytes, which it returns. Sends those before if there is
    /// no room left for it.
    fn put(&mut self, to: &mut UnixStream, cookie: u64, data: usize) -> io::Result<&mut [u8]> {
        let needed = SIMPLE_REPLY_LEN + data;
        if self.len + needed > self.bytes.len() {
            self.send(to)?;
            if needed > self.bytes.len() {
                self.bytes.resize(needed, 0);
            }
        }
        let answer = &mut self.bytes[self.len..self.len + needed];
        let head = SimpleReply { cookie, errno: None }.encode();
        answer[..SIMPLE_REPLY_LEN].copy_from_slice(&head);
        self.len += needed;
        Ok(&mut answer[SIMPLE_REPLY_LEN..])
    }

    fn send(&mut self, to: &mut UnixStream) -> io::Result<()> {
        let len = std::mem::take(&mut self.len);
        to.write_all(&self.bytes[..len])
    }
}

/// False if the client hangs up.
fn handshake(stream: &mut UnixStream, size_bytes: u64) -> io::Result<bool> {
    let flags = transmission::HAS_FLAGS | transmission::SEND_FLUSH;
    stream.write_all(&Greeting::NEWSTYLE.encode())?;
    let mut client_flags = [0; 4];
    stream.read_exact(&mut client_flags)?;
    loop {
        let mut head = [0; OPTION_HEADER_LEN];
        if let Err(error) = stream.read_exact(&mut head) {
            let left = error.kind() == io::ErrorKind::UnexpectedEof;
            return if left { Ok(false) } else { Err(error) };
        }
        let head = OptionHeader::decode(head).ok_or_else(|| io::Error::other("no option"))?;
        stream.read_exact(&mut vec![0; head.len_bytes as usize])?;
        let mut reply = |reply: OptionReply| stream.write_all(&reply.encode(head.code));
        match head.code {
            option_code::GO => {
                reply(OptionReply::Info(Info::Export { size_bytes, flags }))?;
                reply(OptionReply::Ack)?;
                return Ok(true);
            }
            option_code::EXPORT_NAME => {
                let reply = ExportNameReply { size_bytes, flags };
                stream.write_all(&reply.encode(client_flags[3] & 2 == 0))?;
                return Ok(true);
            }
            option_code::ABORT => {
                reply(OptionReply::Ack)?;
                return Ok(false);
            }
            _ => reply(OptionReply::Refused(Refusal::Unsupported, "this server is bare".into()))?,
        }
    }
}
