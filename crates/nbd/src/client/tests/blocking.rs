use std::collections::VecDeque;
use std::io::{self, Read, Write};

use bytes::Bytes;

use super::*;
use crate::{Command, Errno, REQUEST_LEN, Reply, Request, command};

/// A server whose export holds its positions, and whose every other call is interrupted.
#[derive(Debug, Default)]
struct Peer {
    said: VecDeque<u8>,
    interrupts: bool,
}

impl Peer {
    fn say(&mut self, reply: &Reply) {
        self.said.extend(reply.0.iter().flatten());
    }
}

impl Read for Peer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupts = !self.interrupts;
        if self.interrupts {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // In small pieces, as a socket may.
        let len = into.len().min(7);
        self.said.read(&mut into[..len])
    }
}

impl Write for Peer {
    fn write(&mut self, heard: &[u8]) -> io::Result<usize> {
        let request = heard.first_chunk::<REQUEST_LEN>().and_then(|it| Request::decode(*it));
        if let Some(Request { command, cookie, offset, len, .. }) = request {
            match command {
                command::READ => {
                    let content = (offset..offset + u64::from(len)).map(|at| at.to_le_bytes()[0]);
                    self.say(&Reply::simple(cookie, None, Some(content.collect::<Bytes>())));
                }
                command::FLUSH => self.say(&Reply::simple(cookie, Some(Errno::Io), None)),
                _ => self.say(&Reply::simple(cookie, None, None)),
            }
        }
        Ok(heard.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connected() -> Blocking<Peer> {
    let mut peer = Peer::default();
    peer.said.extend(Greeting::NEWSTYLE.encode());
    for reply in [export(), OptionReply::Ack] {
        peer.said.extend(reply.encode(go().code()));
    }
    Blocking::new(peer, options(Goal::Transmission)).expect("agreed")
}

#[test]
fn requests_are_answered_one_by_one_also_where_calls_are_interrupted() {
    let mut client = connected();
    assert_eq!(client.info().size_bytes, SIZE_BYTES);
    assert_eq!(client.read(250, 10).expect("read"), [250, 251, 252, 253, 254, 255, 0, 1, 2, 3]);
    client.write(512, &[1; 512]).expect("written");
    client.run(Command::Trim { at: 0, len: 512, fua: false }).expect("given back");
}

#[test]
fn what_the_server_cannot_do_leaves_the_connection_as_it_was() {
    let mut client = connected();
    let failed = client.flush();
    assert!(
        matches!(&failed, Err(BlockingError::Failed(it)) if it.errno == Errno::Io),
        "{failed:?}"
    );
    let impossible = client.read(SIZE_BYTES, 1);
    let is_impossible =
        |it| matches!(it, &Err(BlockingError::Client(ClientError::Impossible { .. })));
    assert!(is_impossible(&impossible), "{impossible:?}");
    assert_eq!(client.read(0, 1).expect("read"), [0]);
}

#[test]
fn the_end_of_the_stream_is_an_error() {
    let ended = Blocking::new(Peer::default(), options(Goal::Transmission)).expect_err("no server");
    let is_end = |it: &io::Error| it.kind() == io::ErrorKind::UnexpectedEof;
    assert!(matches!(&ended, BlockingError::Stream(it) if is_end(it)), "{ended}");
}
