//! Clients that mean harm, or have gone mad, harm nobody but themselves.

use std::io::Write;

use crate::common::client::{Client, is_well};
use crate::common::{Serving, noise};
use dmsnap_nbd::{MetaQuery, OptionRequest, Selection};
use dmsnap_serve::nbd::Limits;

const READ: u16 = 0;
const WRITE: u16 = 1;

fn go() -> OptionRequest {
    OptionRequest::Go(Selection { name: "disk".into(), infos: vec![3] })
}

#[test]
fn garbage_ends_the_connection() {
    let serving = Serving::memory(Limits::default(), 1 << 20);
    for seed in 1..40 {
        let mut client = Client::greeted(&serving);
        // The server may hang up before it has read it all.
        let _ = client.stream.write_all(&noise(10_000, seed));
        client.sees_the_end();
        let mut client = Client::haggling(&serving);
        let _ = client.stream.write_all(&noise(10_000, seed));
        client.sees_the_end();
        let mut client = Client::transmitting(&serving, seed % 2 == 0);
        let _ = client.stream.write_all(&noise(10_000, seed));
        client.sees_the_end();
    }
    let mut client = Client::greeted(&serving);
    client.write(&4u32.to_be_bytes());
    client.sees_the_end();
    is_well(&serving);
}

#[test]
fn options_that_make_no_sense_are_refused_and_the_next_one_is_heard() {
    const UNSUPPORTED: u32 = 0x8000_0001;
    const INVALID: u32 = 0x8000_0003;
    const UNKNOWN: u32 = 0x8000_0006;
    const TOO_BIG: u32 = 0x8000_0009;
    let serving = Serving::memory(Limits::default(), 1 << 20);
    let mut client = Client::haggling(&serving);
    let name = |len: u32| [&len.to_be_bytes()[..], &vec![b'n'; len as usize], &[0; 2]].concat();
    let unread = vec![7; 5 << 20];
    for (code, data, kind) in [
        (99, &[][..], UNSUPPORTED),
        (99, &unread, UNSUPPORTED),
        (5, &[], UNSUPPORTED),
        (11, &[], UNSUPPORTED),
        (3, &[1], INVALID),
        (8, &[0; 4], INVALID),
        (7, &[], INVALID),
        (7, &[0, 0, 0, 9, b'x', 0, 0], INVALID),
        (7, &[0, 0, 0, 0, 0xff, 0xff], INVALID),
        (7, &[0, 0, 0, 1, 0xff, 0, 0], INVALID),
        (7, &[0xff; 6], TOO_BIG),
        (6, &name(4096), UNKNOWN),
        (6, &name(4097), TOO_BIG),
        (7, &unread, TOO_BIG),
        (9, &[0; 8], INVALID),
        (10, &[0; 8], INVALID),
        (10, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], INVALID),
    ] {
        let len = u32::try_from(data.len()).expect("a test's option");
        let replies = client.raw_option(code, len, data);
        assert_eq!(replies.last().map(|(kind, _)| *kind), Some(kind), "option {code}");
    }
    let listed = client.option(&OptionRequest::List);
    assert_eq!((listed[0].0, listed[1].0), (2, 1));
    assert_eq!(&listed[0].1[..8], b"\0\0\0\x04disk");
    assert_eq!(client.option(&OptionRequest::Abort), [(1, Vec::new())]);
    client.sees_the_end();

    for (len, name) in [(4, &b"none"[..]), (4097, &[b'n'; 4097]), (1, &[0xff])] {
        let mut client = Client::haggling(&serving);
        client.write(b"IHAVEOPT\0\0\0\x01");
        client.write(&u32::to_be_bytes(len));
        client.write(name);
        client.sees_the_end();
    }
    is_well(&serving);
}

#[test]
fn contexts_hold_for_the_export_they_were_chosen_for_and_only_the_last_ones() {
    let serving = Serving::memory(Limits::default(), 1 << 20);
    let select = |name: &str, queries: &[&str]| {
        let queries = queries.iter().map(|query| (*query).to_owned()).collect();
        OptionRequest::SetMeta(MetaQuery { name: name.into(), queries })
    };
    let chosen = |client: &mut Client, option: &OptionRequest| client.option(option).len() - 1;
    for (last, has_status) in [(&["base:allocation"][..], true), (&["base:"], false), (&[], false)]
    {
        let mut client = Client::haggling(&serving);
        client.option(&OptionRequest::StructuredReply);
        client.structured = true;
        assert_eq!(chosen(&mut client, &select("", &["base:allocation", "x-other:1"])), 1);
        assert_eq!(chosen(&mut client, &select("disk", last)), usize::from(has_status));
        client.option(&go());
        let answer = client.request(7, 0, 0, 4096);
        assert_eq!(answer.errno, if has_status { 0 } else { 22 }, "{last:?}");
        if has_status {
            assert_eq!(answer.data, [0, 0, 0, 1, 0, 0, 0x10, 0, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn refused_requests_leave_the_stream_in_step() {
    let serving = Serving::memory(Limits::default(), 1 << 20);
    for structured in [false, true] {
        let mut client = Client::transmitting(&serving, structured);
        let unread = vec![5; (32 << 20) + 512];
        for (offset, payload, errno) in [
            (1 << 20, &unread[..512], 28),
            (u64::MAX, &unread[..512], 28),
            (7, &unread[..512], 0),
            (0, &unread[..513], 0),
            (0, &unread, 22),
            (0, &[], 0),
        ] {
            let len = u32::try_from(payload.len()).expect("a test's payload");
            client.ask(WRITE, 0, 1, offset, len);
            client.write(payload);
            assert_eq!(client.answer(0).errno, errno, "{len} bytes at {offset}");
        }
        for (command, flags, offset, len, errno) in [
            (READ, 0, 1 << 20, 512, 22),
            (READ, 0, 0, u32::MAX, 22),
            (READ, 1 << 7, 0, 512, 22),
            (READ, 0, 0, 0, 0),
            (READ, 1, 0, 512, 0),
            (3, 0, 512, 0, 22),
            (3, 0, 0, 0, 0),
            (4, 0, 1 << 20, 512, 22),
            (4, 1, 0, 1 << 20, 0),
            (5, 0, 0, 512, 0),
            (6, 0, 1 << 20, 512, 28),
            (6, 1 << 4, 0, 512, 95),
            (6, 1 << 1, 0, 0, 0),
            (6, 3, 0, 512, 0),
            (7, 0, 0, 512, 22),
            (8, 0, 0, 0, 22),
            (u16::MAX, 0, 0, 0, 22),
        ] {
            let answer = client.request(command, flags, offset, len);
            assert_eq!(answer.errno, errno, "command {command}, {len} bytes at {offset}");
            assert_eq!(answer.cookie, 4711);
        }
        assert_eq!(client.request(READ, 0, 4096, 4097).data, [0; 4097]);
    }
}

/// What a client says that reads, writes and asks for the status, after the greeting.
fn session() -> Vec<u8> {
    let mut session = 3u32.to_be_bytes().to_vec();
    session.extend(OptionRequest::StructuredReply.encode());
    let query = MetaQuery { name: "disk".into(), queries: vec!["base:allocation".into()] };
    session.extend(OptionRequest::SetMeta(query).encode());
    session.extend(go().encode());
    for (command, len) in [(READ, 65_536), (WRITE, 512), (7, 4096)] {
        let request = dmsnap_nbd::Request { flags: 0, command, cookie: 1, offset: 0, len };
        session.extend(request.encode());
        session.extend(std::iter::repeat_n(1, if command == WRITE { 512 } else { 0 }));
    }
    session
}

#[test]
fn a_client_may_go_away_inside_every_field() {
    let serving = Serving::memory(Limits::default(), 1 << 20);
    let session = session();
    for cut in 0..=session.len() {
        let mut client = Client::greeted(&serving);
        client.write(&session[..cut]);
        // Half of them say good-bye to the socket and read on; the others are simply gone.
        if cut % 2 == 0 {
            client.falls_silent();
            client.sees_the_end();
        }
    }
    is_well(&serving);
}

#[test]
fn sessions_with_wrong_bytes_end_and_harm_nobody() {
    let serving = Serving::memory(Limits::default(), 1 << 20);
    let session = session();
    for at in 0..session.len() {
        for wrong in [session[at] ^ 1, session[at] ^ 0x80, 0xff] {
            let mut wrong_session = session.clone();
            wrong_session[at] = wrong;
            let mut client = Client::greeted(&serving);
            // The server may hang up before it has read it all.
            let _ = client.stream.write_all(&wrong_session);
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            client.sees_the_end();
        }
    }
    is_well(&serving);
}
