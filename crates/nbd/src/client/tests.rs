mod blocking; // over a stream
mod handshake; // what is agreed on
mod transmission; // requests and replies

use super::*;
use crate::{
    Greeting, Info, MetaQuery, OptionReply, OptionRequest, Selection, transmission as can,
};

const SIZE_BYTES: u64 = 1 << 20;
const BASE: &str = "base:allocation";

fn options(goal: Goal) -> ClientOptions {
    ClientOptions { export: "disk".into(), goal, ..ClientOptions::default() }
}

fn export() -> OptionReply {
    let flags = can::HAS_FLAGS | can::SEND_FLUSH | can::SEND_FUA | can::SEND_TRIM;
    OptionReply::Info(Info::Export { size_bytes: SIZE_BYTES, flags })
}

fn go() -> OptionRequest {
    let infos = vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE];
    OptionRequest::Go(Selection { name: "disk".into(), infos })
}

fn refused(refusal: Refusal) -> OptionReply {
    OptionReply::Refused(refusal, "told".into())
}

/// A server that expects these options and answers them so; what it says comes byte by byte.
fn talk(
    handshake: &mut Handshake,
    script: &[(OptionRequest, Vec<OptionReply>)],
) -> Result<Vec<HandshakeEvent>, ClientError> {
    let mut events = Vec::new();
    for (option, replies) in script {
        assert_eq!(handshake.take_output(), option.encode());
        for byte in replies.iter().flat_map(|reply| reply.encode(option.code())) {
            handshake.receive(&[byte]);
            while let Some(event) = handshake.next()? {
                events.push(event);
            }
        }
    }
    Ok(events)
}

/// As [`talk`], from the greeting on.
fn agree(
    options: ClientOptions,
    script: &[(OptionRequest, Vec<OptionReply>)],
) -> Result<Vec<HandshakeEvent>, ClientError> {
    talk(&mut greeted(options), script)
}

fn greeted(options: ClientOptions) -> Handshake {
    let mut handshake = Handshake::new(options);
    assert!(handshake.next().expect("nothing wrong").is_none());
    handshake.receive(&Greeting::NEWSTYLE.encode());
    assert!(handshake.next().expect("a greeting").is_none());
    assert_eq!(handshake.output[..4], [0, 0, 0, 3]);
    handshake.output.drain(..4);
    handshake
}

fn transmitting(structured: bool) -> Transmission {
    let contexts = if structured { vec![BASE.to_owned(), "qemu:x".into()] } else { Vec::new() };
    let query = MetaQuery { name: "disk".into(), queries: contexts.clone() };
    let context = |id, name: &str| OptionReply::MetaContext { id, name: name.into() };
    let chosen = vec![context(7, BASE), OptionReply::Ack];
    let told = vec![export(), OptionReply::Ack];
    let script = [
        (OptionRequest::StructuredReply, vec![OptionReply::Ack]),
        (OptionRequest::SetMeta(query), chosen),
        (go(), told),
    ];
    let script = if structured { &script[..] } else { &script[2..] };
    let events = agree(ClientOptions { contexts, ..options(Goal::Transmission) }, script);
    match events.expect("agreed").pop() {
        Some(HandshakeEvent::Ready(transmission)) => *transmission,
        other => panic!("{other:?}"),
    }
}
