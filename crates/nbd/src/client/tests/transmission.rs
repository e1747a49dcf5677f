use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{
    BlockSize, Chunk, ChunkHeader, Command, Extent, Reply, Request, SimpleReply, chunk_type,
};

/// What came of some bytes: events as text, because they borrow, neighbouring data joined.
fn events(client: &mut Transmission) -> Result<Vec<String>, ClientError> {
    let mut told = Vec::new();
    while let Some(event) = client.next()? {
        told.push(match event {
            Event::Data { id, at, bytes } => format!("{} data {at} {bytes:?}", id.slot()),
            Event::Hole { id, at, len_bytes } => format!("{} hole {at}+{len_bytes}", id.slot()),
            Event::Extents { id, context, at, extents } => {
                let extents: Vec<_> = extents.iter().map(|it| (it.len_bytes, it.flags)).collect();
                format!("{} extents of {context} at {at} {extents:?}", id.slot())
            }
            Event::Done { id, result: Ok(()) } => format!("{} done", id.slot()),
            Event::Done { id, result: Err(failure) } => format!("{}: {failure}", id.slot()),
        });
    }
    Ok(told)
}

fn cookie(header: [u8; 28]) -> u64 {
    Request::decode(header).expect("a request").cookie
}

fn begin(client: &mut Transmission, command: Command) -> u64 {
    cookie(client.begin(command).expect("possible").1)
}

fn simple(cookie: u64, errno: Option<Errno>, data: &[u8]) -> Vec<u8> {
    [&SimpleReply { cookie, errno }.encode()[..], data].concat()
}

fn structured(cookie: u64, chunks: Vec<Chunk>) -> Vec<u8> {
    Reply::structured(cookie, chunks).0.concat()
}

#[test]
fn requests_in_flight_are_answered_in_any_order() {
    let mut client = transmitting(false);
    let read = begin(&mut client, Command::Read { at: 512, len: 4 });
    let write = begin(&mut client, Command::Write { at: 0, len: 4, fua: true });
    let flush = begin(&mut client, Command::Flush);
    assert_eq!(client.in_flight(), 3);
    let answers = [
        simple(flush, None, &[]),
        simple(read, None, &[1, 2, 3, 4]),
        simple(write, Some(Errno::NoSpc), &[]),
    ];
    client.receive(&answers.concat());
    assert_eq!(
        events(&mut client).expect("in order"),
        ["2 done", "0 data 512 [1, 2, 3, 4]", "0 done", "1: the server answers NoSpc "]
    );
    assert_eq!(client.in_flight(), 0);
    assert_ne!(begin(&mut client, Command::Flush), write, "its slot is used again");
    assert_eq!(client.in_flight(), 1);
    client.receive(&simple(write, None, &[]));
    let twice = client.next().expect_err("it has ended");
    assert_eq!(twice, ClientError::NoRequest { cookie: write });
}

#[test]
fn structured_replies_come_in_chunks() {
    let mut client = transmitting(true);
    let read = begin(&mut client, Command::Read { at: 0, len: 1024 });
    let failing = begin(&mut client, Command::Read { at: 0, len: 1024 });
    let status = begin(&mut client, Command::BlockStatus { at: 512, len: 1024, one: false });
    let trim = begin(&mut client, Command::Trim { at: 0, len: 512, fua: false });
    let data = |at, len| Chunk::Data { at, data: Bytes::from(vec![5; len]) };
    let extent = |len_bytes, flags| Extent { len_bytes, flags };
    let extents = vec![extent(512, 0), extent(4096, 3)];
    let chunks =
        |cookie, last, chunk: Chunk| chunk.encode(cookie, last).collect::<Vec<_>>().concat();
    let answers = [
        chunks(read, false, data(1022, 2)),
        chunks(failing, false, Chunk::Error(Errno::Io, "gone".into())),
        chunks(read, true, Chunk::Hole { at: 0, len_bytes: 1022 }),
        structured(status, vec![Chunk::Status { context: 7, extents }]),
        chunks(failing, true, Chunk::None),
        simple(trim, None, &[]),
    ];
    client.receive(&answers.concat());
    assert_eq!(
        events(&mut client).expect("in order"),
        [
            "0 data 1022 [5, 5]",
            "0 hole 0+1022",
            "0 done",
            "2 extents of 7 at 512 [(512, 0), (4096, 3)]",
            "2 done",
            "1: the server answers Io gone",
            "3 done",
        ]
    );
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    let data = |at, len| Chunk::Data { at, data: Bytes::from(vec![5; len]) };
    let status = |context, extents: &[u64]| {
        let extents = extents.iter().map(|len| Extent { len_bytes: *len, flags: 0 });
        Chunk::Status { context, extents: extents.collect() }
    };
    let read = Command::Read { at: 512, len: 512 };
    let ask = Command::BlockStatus { at: 512, len: 512, one: false };
    let wrong = |command, chunks| {
        let mut client = transmitting(true);
        let cookie = begin(&mut client, command);
        client.receive(&structured(cookie, chunks));
        events(&mut client).expect_err("a lie")
    };
    let outside = |at, len_bytes| ClientError::OutOfRange { at, len_bytes };
    assert_eq!(wrong(read, vec![data(511, 2)]), outside(511, 2));
    assert_eq!(wrong(read, vec![data(1000, 25)]), outside(1000, 25));
    assert_eq!(wrong(read, vec![data(u64::MAX, 2)]), outside(u64::MAX, 2));
    assert_eq!(wrong(read, vec![data(512, 512), data(512, 1)]), outside(512, 1));
    assert_eq!(wrong(read, vec![data(512, 500)]), ClientError::Missing { missing_bytes: 12 });
    assert_eq!(wrong(read, vec![Chunk::None]), ClientError::Missing { missing_bytes: 512 });
    assert_eq!(wrong(ask, vec![Chunk::None]), ClientError::Missing { missing_bytes: 512 });
    assert_eq!(wrong(ask, vec![status(8, &[512])]), ClientError::NoContext { id: 8 });
    assert_eq!(wrong(ask, vec![status(7, &[512, 1])]), outside(1024, 1));
    assert_eq!(wrong(ask, vec![status(7, &[0])]), outside(512, 0));
    for (command, chunk) in [(ask, data(512, 1)), (read, status(7, &[1])), (ask, status(7, &[]))] {
        let command_number = command.request(0).command;
        let wrong = wrong(command, vec![chunk]);
        assert_eq!(wrong, ClientError::WrongReply { command: command_number });
    }

    let mut client = transmitting(true);
    let cookie = begin(&mut client, read);
    client.receive(&simple(cookie, None, &[]));
    assert!(matches!(client.next(), Err(ClientError::WrongReply { .. })), "a read has chunks");
    let mut client = transmitting(false);
    let cookie = begin(&mut client, read);
    client.receive(&structured(cookie, vec![data(512, 512)]));
    assert!(matches!(client.next(), Err(ClientError::Decode(_))), "not agreed on");
}

/// A server that claims much makes a client allocate nothing.
#[test]
fn memory_does_not_grow_by_claims() {
    let mut client = transmitting(true);
    client.info.size_bytes = 1 << 40;
    client.facts.size_bytes = 1 << 40;
    let read = begin(&mut client, Command::Read { at: 0, len: 32 << 20 });
    let header = |kind, len_bytes| ChunkHeader { last: true, kind, cookie: read, len_bytes };
    client.receive(&header(chunk_type::OFFSET_DATA, (32 << 20) + 8).encode());
    client.receive(&0_u64.to_be_bytes());
    let mut left = 32 << 20;
    while left > 0 {
        let received = client.space().len().min(left);
        client.received(received);
        left -= received;
        assert!(!events(&mut client).expect("data").is_empty());
        assert!(client.space().len() <= 512 << 10, "{}", client.space().len());
    }
    assert_eq!(client.in_flight(), 0);

    let write = begin(&mut client, Command::Write { at: 0, len: 1, fua: false });
    let long =
        ChunkHeader { last: true, kind: chunk_type::ERROR, cookie: write, len_bytes: 1 << 20 };
    client.receive(&long.encode());
    assert_eq!(client.next().expect_err("long"), ClientError::TooLong { len_bytes: 1 << 20 });
}

#[test]
fn what_would_be_refused_is_not_asked() {
    let mut client = transmitting(false);
    for command in [
        Command::Read { at: SIZE_BYTES - 1, len: 2 },
        Command::Write { at: 0, len: (32 << 20) + 1, fua: false },
        Command::BlockStatus { at: 0, len: 512, one: true },
        Command::WriteZeroes { at: 0, len: 512, fua: false, keep: true, fast: false },
        Command::Cache { at: 0, len: 512 },
        Command::Disconnect,
    ] {
        let refused = client.begin(command).expect_err("impossible");
        assert!(matches!(refused, ClientError::Impossible { .. }), "{command:?}: {refused:?}");
    }
    assert_eq!(client.in_flight(), 0);
    client.info.block_size = Some(BlockSize { minimum: 1, preferred: 512, maximum: 512 });
    assert!(client.begin(Command::Read { at: 0, len: 512 }).is_ok());
    assert!(client.begin(Command::Read { at: 0, len: 513 }).is_err());
}

proptest! {
    /// Bytes that are nearly replies, cut anywhere: nothing panics, and the events stay the same.
    #[test]
    fn no_server_makes_a_client_panic(
        structured in any::<bool>(),
        kinds in vec((0u16..6, 0u32..3, any::<u64>(), 0u32..600, any::<bool>()), 0..6),
        noise in vec(any::<u8>(), 0..200),
        piece in 1usize..40,
    ) {
        let (mut whole, mut cut) = (transmitting(structured), transmitting(structured));
        let mut said = Vec::new();
        for client in [&mut whole, &mut cut] {
            begin(client, Command::Read { at: 0, len: 64 });
            begin(client, Command::Flush);
            if structured {
                begin(client, Command::BlockStatus { at: 0, len: 512, one: false });
            }
        }
        for (kind, slot, at, len_bytes, last) in kinds {
            let cookie = slot.into();
            if structured {
                let kind = if kind == 4 { chunk_type::ERROR } else { kind };
                said.extend(ChunkHeader { last, kind, cookie, len_bytes }.encode());
                said.extend((at % 64).to_be_bytes());
                said.extend(&noise);
            } else {
                said.extend(simple(cookie, Errno::from_number(kind.into()), &noise));
            }
        }
        whole.receive(&said);
        let of_whole = ends(&mut whole);
        let mut of_cut = Vec::new();
        for piece in said.chunks(piece) {
            cut.receive(piece);
            of_cut.extend(ends(&mut cut));
            if of_cut.iter().any(Result::is_err) {
                break;
            }
        }
        prop_assert_eq!(of_whole, of_cut);
    }
}

/// The requests that ended, and the error that ended the connection.
fn ends(client: &mut Transmission) -> Vec<Result<String, ClientError>> {
    let mut ends = Vec::new();
    loop {
        match client.next() {
            Ok(None) => return ends,
            Ok(Some(Event::Done { id, result })) => ends.push(Ok(format!("{id:?} {result:?}"))),
            Ok(Some(_)) => {}
            Err(error) => {
                ends.push(Err(error));
                return ends;
            }
        }
    }
}
