use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
    }

    #[test]
    fn options_survive_encoding(
        name in "[^\0]{0,40}",
        infos in vec(any::<u16>(), 0..9),
        queries in vec("[^\0]{0,20}", 0..9),
    ) {
        let selection = Selection { name: name.clone(), infos };
        let query = MetaQuery { name: name.clone(), queries };
        for option in [
            OptionRequest::ExportName(name),
            OptionRequest::Abort,
            OptionRequest::List,
            OptionRequest::StartTls,
            OptionRequest::Info(selection.clone()),
            OptionRequest::Go(selection),
            OptionRequest::StructuredReply,
            OptionRequest::ListMeta(query.clone()),
            OptionRequest::SetMeta(query),
        ] {
            let bytes = option.encode();
            let (header, data) = bytes.split_first_chunk().expect("a header");
            let header = OptionHeader::decode(*header).expect("the magic");
            prop_assert_eq!(header.len_bytes as usize, data.len());
            prop_assert_eq!(OptionRequest::decode(header.code, data), Ok(option));
        }
    }

    /// Data cut short or with something behind it is never taken for an option of another meaning.
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

    /// Whatever a request says, what reaches a device lies inside the export, is aligned, and
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
            Command::BlockStatus { at, len, .. } => {
                prop_assert!(structured && has_contexts && len > 0);
                (at, len, false)
            }
            Command::Write { at, len, .. }
            | Command::Trim { at, len, .. }
            | Command::WriteZeroes { at, len, .. } => (at, len, true),
            Command::Flush | Command::Cache | Command::Disconnect => return Ok(()),
        };
        prop_assert!(at.is_multiple_of(512) && len.is_multiple_of(512));
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
        assert_eq!(refused(command, 0, 1, 512, false), Errno::Inval, "{command}, unaligned");
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
    let extents = vec![crate::nbd::Extent { len_bytes: 512, flags: 3 }; 2];
    let chunks = vec![
        Chunk::Status { context: 1, extents },
        Chunk::Error(Errno::Io, "told".into()),
        Chunk::Data { at: 512, data: bytes::Bytes::from_static(&[7; 512]) },
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
