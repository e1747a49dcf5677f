//! A client that says exactly what a test wants it to say, sense or not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dmsnap_serve::nbd::codec::{
    OPTION_REPLY_MAGIC, OptionRequest, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    Selection,
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
        let greeting = client.read(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
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

    pub fn read_u32(&mut self) -> u32 {
        u32::from_be_bytes(self.read(4).try_into().expect("4 bytes"))
    }

    pub fn read_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.read(8).try_into().expect("8 bytes"))
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
            assert_eq!(self.read_u64(), OPTION_REPLY_MAGIC);
            assert_eq!(self.read_u32(), code);
            let kind = self.read_u32();
            let len = self.read_u32() as usize;
            replies.push((kind, self.read(len)));
            if kind == 1 || kind >> 31 == 1 {
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
        let mut answer = Answer { cookie: 0, errno: 0, data: Vec::new() };
        loop {
            let magic = self.read_u32();
            if !self.structured {
                assert_eq!(magic, SIMPLE_REPLY_MAGIC);
                answer.errno = self.read_u32();
                answer.cookie = self.read_u64();
                if answer.errno == 0 {
                    answer.data = self.read(expected);
                }
                return answer;
            }
            assert_eq!(magic, STRUCTURED_REPLY_MAGIC);
            let head = self.read_u32();
            answer.cookie = self.read_u64();
            let len = self.read_u32() as usize;
            let payload = self.read(len);
            match head & 0xffff {
                0x8001 => {
                    answer.errno = u32::from_be_bytes(payload[..4].try_into().expect("4 bytes"));
                }
                1 => answer.data.extend_from_slice(&payload[8..]),
                _ => answer.data.extend_from_slice(&payload),
            }
            if head >> 16 == 1 {
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
