//! A client that says exactly what a test wants it to say, sense or not. So it is made of single
//! messages: `dmsnap_nbd::client` says only what makes sense.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmsnap_nbd::{
    CHUNK_HEADER_LEN, Chunk, ChunkHeader, GREETING_LEN, Greeting, OPTION_REPLY_HEADER_LEN,
    OptionReplyHeader, OptionRequest, Request, SIMPLE_REPLY_LEN, Selection, SimpleReply,
};

use super::{PATIENCE, Serving};

/// A connection to a server.
pub struct Client {
    pub stream: UnixStream,
    pub structured: bool,
}

/// What an option was answered: kind and data of every reply.
pub type OptionReplies = Vec<(u32, Vec<u8>)>;

/// What a request was answered, all chunks together.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub errno: u32,
    pub data: Vec<u8>,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn greeted(serving: &Serving) -> Self {
        let stream = UnixStream::connect(&serving.socket).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        let mut client = Self { stream, structured: false };
        let greeting = client.read_array::<GREETING_LEN>();
        assert_eq!(Greeting::decode(greeting), Ok(Greeting::NEWSTYLE));
        client
    }

    /// Greets back, with all the flags there are.
    pub fn haggling(serving: &Serving) -> Self {
        let mut client = Self::greeted(serving);
        client.write(&3u32.to_be_bytes());
        client
    }

    /// Has chosen the default export.
    pub fn transmitting(serving: &Serving, structured: bool) -> Self {
        let mut client = Self::haggling(serving);
        if structured {
            assert_eq!(client.option(&OptionRequest::StructuredReply), [(1, Vec::new())]);
            client.structured = true;
        }
        let go = OptionRequest::Go(Selection { name: String::new(), infos: Vec::new() });
        let replies = client.option(&go);
        assert_eq!(replies.last().map(|(kind, _)| *kind), Some(1), "{replies:?}");
        client
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    fn read_array<const N: usize>(&mut self) -> [u8; N] {
        self.read(N).try_into().expect("as many")
    }

    /// The server has hung up, or does so in time. What it said before does not matter.
    pub fn sees_the_end(&mut self) {
        let mut rest = Vec::new();
        let end = self.stream.read_to_end(&mut rest);
        let reset = end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(end.is_ok() || reset, "{end:?}");
    }

    /// Sends an option and reads all its replies.
    pub fn option(&mut self, option: &OptionRequest) -> OptionReplies {
        let bytes = option.encode();
        self.write(&bytes);
        let code = u32::from_be_bytes(bytes[8..12].try_into().expect("4 bytes"));
        self.option_replies(code)
    }

    /// Sends an option of any code and data.
    pub fn raw_option(&mut self, code: u32, len: u32, data: &[u8]) -> OptionReplies {
        self.write(b"IHAVEOPT");
        self.write(&code.to_be_bytes());
        self.write(&len.to_be_bytes());
        self.write(data);
        self.option_replies(code)
    }

    fn option_replies(&mut self, code: u32) -> OptionReplies {
        let mut replies = Vec::new();
        loop {
            let header = self.read_array::<OPTION_REPLY_HEADER_LEN>();
            let header = OptionReplyHeader::decode(header).expect("an option reply");
            assert_eq!(header.code, code);
            replies.push((header.kind, self.read(header.len_bytes as usize)));
            if header.is_last() {
                return replies;
            }
        }
    }

    /// Sends a request without reading the answer.
    pub fn ask(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        self.write(&Request { flags, command, cookie, offset, len }.encode());
    }

    /// Sends a request and reads its answer, the only one under way.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Answer {
        self.ask(command, flags, 4711, offset, len);
        let expected = if command == 0 { len as usize } else { 0 };
        self.answer(expected)
    }

    /// Reads an answer; `expected` is what a simple reply carries when all goes well.
    pub fn answer(&mut self, expected: usize) -> Answer {
        if !self.structured {
            let reply = self.read_array::<SIMPLE_REPLY_LEN>();
            let SimpleReply { cookie, errno } = SimpleReply::decode(reply).expect("a reply");
            let data = if errno.is_none() { self.read(expected) } else { Vec::new() };
            return Answer { cookie, errno: errno.map_or(0, |errno| errno as u32), data };
        }
        let mut answer = Answer { cookie: 0, errno: 0, data: Vec::new() };
        loop {
            let header = self.read_array::<CHUNK_HEADER_LEN>();
            let header = ChunkHeader::decode(header).expect("a chunk");
            answer.cookie = header.cookie;
            let payload = Bytes::from(self.read(header.len_bytes as usize));
            match Chunk::decode(header.kind, &payload).expect("a chunk") {
                Chunk::Data { data, .. } => answer.data.extend_from_slice(&data),
                Chunk::Error(errno, _) => answer.errno = errno as u32,
                _ => answer.data.extend_from_slice(&payload),
            }
            if header.last {
                return answer;
            }
        }
    }

    /// Says that nothing more will be said.
    pub fn falls_silent(&self) {
        self.stream.shutdown(Shutdown::Write).expect("connected");
    }
}

/// A well-behaved client gets its answers, quickly.
pub fn is_well(serving: &Serving) {
    let began = Instant::now();
    let mut client = Client::transmitting(serving, true);
    client.ask(1, 0, 1, 8192, 512);
    client.write(&[9; 512]);
    assert_eq!(client.answer(0).errno, 0);
    assert_eq!(client.request(0, 0, 8192, 512).data, [9; 512]);
    client.ask(2, 0, 0, 0, 0);
    client.sees_the_end();
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
}
