use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::fields::Fields;
use super::*;

/// Everything that either side says.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Greeting(Greeting),
    Option(OptionRequest),
    OptionReply(u32, OptionReply),
    ExportName(ExportNameReply, bool),
    Request(Request),
    Command(Command),
    Simple(SimpleReply),
    Chunk { cookie: u64, last: bool, chunk: Chunk },
}

impl Message {
    /// Encoded and decoded.
    fn again(&self) -> Self {
        match self {
            Self::Greeting(it) => Self::Greeting(Greeting::decode(it.encode()).expect("magic")),
            Self::Option(it) => {
                let bytes = it.encode();
                let (header, data) = bytes.split_first_chunk().expect("a header");
                let header = OptionHeader::decode(*header).expect("the magic");
                assert_eq!(header.len_bytes as usize, data.len());
                Self::Option(OptionRequest::decode(header.code, data).expect("understood"))
            }
            Self::OptionReply(code, it) => {
                let bytes = it.encode(*code);
                let (header, data) = bytes.split_first_chunk().expect("a header");
                let header = OptionReplyHeader::decode(*header).expect("the magic");
                assert_eq!(header.len_bytes as usize, data.len());
                let is_last = matches!(it, OptionReply::Ack | OptionReply::Refused(..));
                assert_eq!(header.is_last(), is_last);
                let reply = OptionReply::decode(header.kind, data).expect("understood");
                Self::OptionReply(header.code, reply)
            }
            Self::ExportName(it, padded) => {
                let bytes = it.encode(*padded);
                let (head, padding) = bytes.split_first_chunk().expect("as long");
                Self::ExportName(ExportNameReply::decode(*head), padding.len() == 124)
            }
            Self::Request(it) => Self::Request(Request::decode(it.encode()).expect("the magic")),
            Self::Command(it) => {
                let facts = Facts {
                    size_bytes: u64::MAX,
                    read_only: false,
                    structured: true,
                    has_contexts: true,
                };
                Self::Command(it.request(7).understand(facts).expect("understood"))
            }
            Self::Simple(it) => Self::Simple(SimpleReply::decode(it.encode()).expect("magic")),
            Self::Chunk { cookie, last, chunk } => {
                let bytes = chunk.clone().encode(*cookie, *last).collect::<Vec<_>>().concat();
                let (header, payload) = bytes.split_first_chunk().expect("a header");
                let header = ChunkHeader::decode(*header).expect("the magic");
                assert_eq!(header.len_bytes as usize, payload.len());
                let payload = Bytes::copy_from_slice(payload);
                let chunk = Chunk::decode(header.kind, &payload).expect("understood");
                Self::Chunk { cookie: header.cookie, last: header.last, chunk }
            }
        }
    }
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<u16>().prop_map(|flags| Message::Greeting(Greeting { flags })),
        option().prop_map(Message::Option),
        (any::<u32>(), option_reply()).prop_map(|(code, it)| Message::OptionReply(code, it)),
        (any::<u64>(), any::<u16>(), any::<bool>()).prop_map(|(size_bytes, flags, padded)| {
            Message::ExportName(ExportNameReply { size_bytes, flags }, padded)
        }),
        (any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
            |(flags, command, cookie, offset, len)| {
                Message::Request(Request { flags, command, cookie, offset, len })
            }
        ),
        commands().prop_map(Message::Command),
        (any::<u64>(), of(errno()))
            .prop_map(|(cookie, errno)| Message::Simple(SimpleReply { cookie, errno })),
        (any::<u64>(), any::<bool>(), chunks()).prop_map(|(cookie, last, chunk)| Message::Chunk {
            cookie,
            last,
            chunk
        }),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,40}"
}

fn option() -> impl Strategy<Value = OptionRequest> {
    let selection =
        || (name(), vec(any::<u16>(), 0..9)).prop_map(|(name, infos)| Selection { name, infos });
    let query =
        || (name(), vec(name(), 0..9)).prop_map(|(name, queries)| MetaQuery { name, queries });
    prop_oneof![
        name().prop_map(OptionRequest::ExportName),
        Just(OptionRequest::Abort),
        Just(OptionRequest::List),
        Just(OptionRequest::StartTls),
        selection().prop_map(OptionRequest::Info),
        selection().prop_map(OptionRequest::Go),
        Just(OptionRequest::StructuredReply),
        query().prop_map(OptionRequest::ListMeta),
        query().prop_map(OptionRequest::SetMeta),
    ]
}

fn option_reply() -> impl Strategy<Value = OptionReply> {
    let refusal = prop_oneof![1u32..14, any::<u32>()].prop_map(|number| {
        Refusal::from_number(number | option_reply_type::REFUSED).expect("refuses")
    });
    let info = prop_oneof![
        (any::<u64>(), any::<u16>())
            .prop_map(|(size_bytes, flags)| Info::Export { size_bytes, flags }),
        name().prop_map(Info::Name),
        name().prop_map(Info::Description),
        any::<[u32; 3]>().prop_map(|[minimum, preferred, maximum]| {
            Info::BlockSize(BlockSize { minimum, preferred, maximum })
        }),
        (4u16.., vec(any::<u8>(), 0..9)).prop_map(|(number, data)| Info::Other { number, data }),
    ];
    prop_oneof![
        Just(OptionReply::Ack),
        (name(), name()).prop_map(|(name, description)| OptionReply::Server { name, description }),
        info.prop_map(OptionReply::Info),
        (any::<u32>(), name()).prop_map(|(id, name)| OptionReply::MetaContext { id, name }),
        (refusal, name()).prop_map(|(refusal, why)| OptionReply::Refused(refusal, why.into())),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let at = 0..u64::MAX >> 1;
    let range = (at, 1..=MAX_PAYLOAD_BYTES);
    (range, any::<[bool; 3]>()).prop_flat_map(|((at, len), [fua, keep, fast])| {
        prop_oneof![
            Just(Command::Read { at, len }),
            Just(Command::Write { at, len, fua }),
            Just(Command::Flush),
            Just(Command::Trim { at, len, fua }),
            Just(Command::WriteZeroes { at, len, fua, keep, fast }),
            Just(Command::Cache { at, len }),
            Just(Command::BlockStatus { at, len, one: keep }),
            Just(Command::Disconnect),
        ]
    })
}

fn errno() -> impl Strategy<Value = Errno> {
    (1u32..200).prop_map(|number| Errno::from_number(number).expect("not 0"))
}

fn chunks() -> impl Strategy<Value = Chunk> {
    let extent = (any::<u32>(), any::<u32>())
        .prop_map(|(len, flags)| Extent { len_bytes: len.into(), flags });
    prop_oneof![
        Just(Chunk::None),
        (any::<u64>(), vec(any::<u8>(), 1..99))
            .prop_map(|(at, data)| Chunk::Data { at, data: data.into() }),
        (any::<u64>(), any::<u32>()).prop_map(|(at, len_bytes)| Chunk::Hole { at, len_bytes }),
        (any::<u32>(), vec(extent, 0..9))
            .prop_map(|(context, extents)| Chunk::Status { context, extents }),
        (errno(), name()).prop_map(|(errno, message)| Chunk::Error(errno, message)),
        (errno(), name(), any::<u64>()).prop_map(|(errno, message, at)| Chunk::ErrorAt {
            errno,
            message,
            at
        }),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_codec_panic(
        code in 0u32..16,
        data in vec(any::<u8>(), 0..300),
        option in any::<[u8; OPTION_HEADER_LEN]>(),
        request in any::<[u8; REQUEST_LEN]>(),
    ) {
        let _ = OptionRequest::decode(code, &data);
        let _ = OptionHeader::decode(option);
        let _ = Request::decode(request);
        let _ = OptionReply::decode(code, &data);
        let _ = OptionReply::decode(option_reply_type::REFUSED | code, &data);
        for kind in (0..7).chain([chunk_type::ERROR, chunk_type::ERROR_OFFSET, chunk_type::FAILED]) {
            let _ = Chunk::decode(kind, &Bytes::copy_from_slice(&data));
        }
    }

    #[test]
    fn every_message_survives_encoding(message in message()) {
        prop_assert_eq!(message.again(), message);
    }

    /// Data cut short or with something after it is never taken for an option of another meaning.
    #[test]
    fn a_wrong_length_is_refused(name in "[a-z]{0,20}", cut in 1usize..12, extra in 1usize..9) {
        let query = MetaQuery { name: name.clone(), queries: vec![name.clone()] };
        let selection = Selection { name, infos: vec![3, 1] };
        for option in [OptionRequest::Go(selection), OptionRequest::SetMeta(query)] {
            let bytes = option.encode();
            let (header, data) = bytes.split_first_chunk().expect("a header");
            let code = OptionHeader::decode(*header).expect("the magic").code;
            let short = &data[..data.len().saturating_sub(cut)];
            prop_assert!(OptionRequest::decode(code, short).is_err());
            let long = [data, &vec![0; extra]].concat();
            prop_assert!(OptionRequest::decode(code, &long).is_err());
        }
    }

    /// Whatever a request says, what reaches a device lies inside the export and
    /// carries no more than the maximum payload.
    #[test]
    fn no_request_reaches_beyond_the_export(
        flags in prop_oneof![Just(0u16), 0u16..32, any::<u16>()],
        command in prop_oneof![0u16..9, any::<u16>()],
        cookie in any::<u64>(),
        offset in prop_oneof![(0u64..300).prop_map(|n| n * 512), any::<u64>()],
        len in prop_oneof![(0u32..300).prop_map(|n| n * 512), any::<u32>()],
        size_blocks in 0u64..300,
        read_only in any::<bool>(),
        structured in any::<bool>(),
        has_contexts in any::<bool>(),
    ) {
        let request = Request { flags, command, cookie, offset, len };
        prop_assert_eq!(Request::decode(request.encode()), Some(request));
        let facts = Facts { size_bytes: size_blocks * 512, read_only, structured, has_contexts };
        let Ok(command) = request.understand(facts) else { return Ok(()) };
        let (at, len, writes) = match command {
            Command::Read { at, len } => (at, len, false),
            Command::Cache { at, len } => (at, len, false),
            Command::BlockStatus { at, len, .. } => {
                prop_assert!(structured && has_contexts && len > 0);
                (at, len, false)
            }
            Command::Write { at, len, .. }
            | Command::Trim { at, len, .. }
            | Command::WriteZeroes { at, len, .. } => (at, len, true),
            Command::Flush | Command::Disconnect => return Ok(()),
        };
        prop_assert!(at + u64::from(len) <= facts.size_bytes);
        prop_assert!(!(writes && read_only));
    }
}

#[test]
fn refusals_name_the_error_the_protocol_wants() {
    let facts = Facts { size_bytes: 4096, read_only: false, structured: true, has_contexts: false };
    let refused = |command, flags, offset, len, read_only| {
        let request = Request { flags, command, cookie: 0, offset, len };
        request.understand(Facts { read_only, ..facts }).expect_err("refused").0
    };
    for (command, beyond) in [
        (command::READ, Errno::Inval),
        (command::WRITE, Errno::NoSpc),
        (command::TRIM, Errno::Inval),
        (command::WRITE_ZEROES, Errno::NoSpc),
        (command::CACHE, Errno::Inval),
        (command::BLOCK_STATUS, Errno::Inval),
    ] {
        assert_eq!(refused(command, 0, 4096, 512, false), beyond, "{command}");
        assert_eq!(refused(command, 0, u64::MAX - 511, 512, false), beyond, "{command}");
        assert_eq!(refused(command, 0, 4095, 2, false), beyond, "{command}, unaligned");
        assert_eq!(refused(command, 1 << 9, 0, 512, false), Errno::Inval, "{command}, flags");
    }
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(refused(command, 0, 0, 512, true), Errno::Perm, "{command}");
    }
    assert_eq!(refused(command::BLOCK_STATUS, 0, 0, 512, false), Errno::Inval, "no context");
    assert_eq!(refused(99, 0, 0, 0, false), Errno::Inval, "unknown");
    assert_eq!(refused(command::READ, flag::REQ_ONE, 0, 512, false), Errno::Inval);
    assert_eq!(refused(command::WRITE, flag::DF, 0, 512, false), Errno::Inval);
    let huge = Facts { size_bytes: u64::MAX - 511, ..facts };
    let long =
        Request { flags: 0, command: command::WRITE, cookie: 0, offset: 0, len: (32 << 20) + 512 };
    assert_eq!(long.understand(huge).expect_err("too long").0, Errno::Inval);
}

#[test]
fn every_command_may_carry_fua() {
    let facts = Facts { size_bytes: 4096, read_only: false, structured: true, has_contexts: true };
    for command in 0..=command::BLOCK_STATUS {
        let len = if command == command::FLUSH { 0 } else { 512 };
        let request = Request { flags: flag::FUA, command, cookie: 0, offset: 0, len };
        assert!(request.understand(facts).is_ok(), "{command}");
    }
}

#[test]
fn a_structured_reply_marks_its_last_chunk_and_tells_its_length() {
    let extents = vec![Extent { len_bytes: 512, flags: 3 }; 2];
    let chunks = vec![
        Chunk::Status { context: 1, extents },
        Chunk::Error(Errno::Io, "told".into()),
        Chunk::Data { at: 512, data: Bytes::from_static(&[7; 512]) },
    ];
    let bytes = Reply::structured(77, chunks).0.concat();
    let mut rest = &bytes[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let mut fields = Fields(rest);
        assert_eq!(fields.u32(), Some(STRUCTURED_REPLY_MAGIC));
        let (flags, kind) = (fields.u16().expect("flags"), fields.u16().expect("kind"));
        assert_eq!(fields.u64(), Some(77));
        let len = fields.u32().expect("length");
        rest = fields.0.split_at_checked(len as usize).expect("all of it").1;
        seen.push((flags, kind, len));
    }
    assert_eq!(seen, [(0, 5, 4 + 16), (0, 0x8001, 6 + 4), (1, 1, 8 + 512)]);
}

/// A mistake that both sides make is seen by nobody else: these bytes are the protocol's.
#[test]
fn replies_are_as_the_protocol_says() {
    let reply = OptionReply::MetaContext { id: 5, name: "a:b".into() }.encode(10);
    let magic = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9];
    let rest = [0, 0, 0, 10, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 5, b'a', b':', b'b'];
    assert_eq!(reply, [&magic[..], &rest].concat());
    let simple = SimpleReply { cookie: 0x0102, errno: Some(Errno::NoSpc) }.encode();
    assert_eq!(simple, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 1, 2]);
    let hole = Chunk::Hole { at: 3, len_bytes: 4 }.encode(6, true).collect::<Vec<_>>().concat();
    let head = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 12];
    assert_eq!(hole, [&head[..], &[0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4]].concat());
    assert_eq!(Refusal::Unknown.number(), 0x8000_0006);
    assert_eq!(Greeting::NEWSTYLE.encode(), *b"NBDMAGICIHAVEOPT\0\x03");
}
