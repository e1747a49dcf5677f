use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{BlockSize, ExportNameReply, OptionReplyHeader, option_code};

#[test]
fn all_that_can_be_agreed_on_is() {
    let transmission = transmitting(true);
    let info = transmission.info();
    assert_eq!((info.size_bytes, info.structured), (SIZE_BYTES, true));
    assert_eq!(info.contexts, [(7, BASE.to_owned())]);
    assert!(!transmitting(false).info().structured);
}

#[test]
fn an_old_server_is_asked_the_old_way() {
    let mut handshake = Handshake::new(options(Goal::Transmission));
    handshake.receive(&Greeting { flags: crate::FLAG_FIXED_NEWSTYLE }.encode());
    assert!(handshake.next().expect("a greeting").is_none());
    assert_eq!(handshake.output.drain(..4).collect::<Vec<_>>(), [0, 0, 0, 1]);
    let script = [
        (go(), vec![refused(Refusal::Unsupported)]),
        (OptionRequest::ExportName("disk".into()), vec![]),
    ];
    assert!(talk(&mut handshake, &script).expect("goes on").is_empty());
    let reply = ExportNameReply { size_bytes: 512, flags: 1 }.encode(true);
    let (last, all) = reply.split_last().expect("bytes");
    handshake.receive(all);
    assert!(handshake.next().expect("more comes").is_none());
    handshake.receive(&[*last]);
    let ready = handshake.next().expect("padding");
    assert!(matches!(ready, Some(HandshakeEvent::Ready(it)) if it.info().size_bytes == 512));
}

#[test]
fn what_is_not_there_is_gone_without() {
    let wishes = ClientOptions { structured: true, ..options(Goal::Transmission) };
    let script = [
        (OptionRequest::StructuredReply, vec![refused(Refusal::Unsupported)]),
        (go(), vec![export(), OptionReply::Ack]),
    ];
    let events = agree(wishes, &script).expect("agreed");
    assert!(matches!(&events[..], [HandshakeEvent::Ready(it)] if !it.info().structured));
}

#[test]
fn exports_are_listed_and_described() {
    let server = |name: &str| OptionReply::Server { name: name.into(), description: "it".into() };
    let script = [(OptionRequest::List, vec![server("a"), server("b"), OptionReply::Ack])];
    let mut handshake = greeted(options(Goal::List));
    let events = talk(&mut handshake, &script).expect("a list");
    assert!(matches!(&events[..], [
        HandshakeEvent::Listed { name: a, .. },
        HandshakeEvent::Listed { name: b, description },
        HandshakeEvent::ListEnd,
    ] if (a.as_str(), b.as_str(), description.as_str()) == ("a", "b", "it")));
    assert_eq!(handshake.take_output(), OptionRequest::Abort.encode());

    let OptionRequest::Go(selection) = go() else { unreachable!("it is") };
    let sizes = BlockSize { minimum: 512, preferred: 4096, maximum: 1 << 20 };
    let replies = vec![export(), OptionReply::Info(Info::BlockSize(sizes)), OptionReply::Ack];
    let script = [(OptionRequest::Info(selection), replies)];
    let events = agree(options(Goal::Info), &script).expect("facts");
    let [HandshakeEvent::Described(info)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((info.size_bytes, info.block_size), (SIZE_BYTES, Some(sizes)));
}

#[test]
fn encryption_begins_before_anything_else_is_said() {
    let encrypted = |encryption| ClientOptions { encryption, ..options(Goal::Transmission) };
    let start = (OptionRequest::StartTls, vec![OptionReply::Ack]);
    let refusing = (OptionRequest::StartTls, vec![refused(Refusal::Policy)]);
    let told = vec![export(), OptionReply::Ack];

    let mut handshake = greeted(encrypted(Encryption::Required));
    let events = talk(&mut handshake, std::slice::from_ref(&start)).expect("goes on");
    assert!(matches!(&events[..], [HandshakeEvent::StartTls]));
    assert!(handshake.take_output().is_empty());
    handshake.encrypted().expect("now it may");
    let events = talk(&mut handshake, &[(go(), told.clone())]).expect("agreed");
    assert!(matches!(&events[..], [HandshakeEvent::Ready(it)] if it.info().encrypted));

    let refusal = agree(encrypted(Encryption::Required), std::slice::from_ref(&refusing));
    assert!(matches!(refusal, Err(ClientError::Refused { code: option_code::STARTTLS, .. })));
    let events = agree(encrypted(Encryption::IfOffered), &[refusing, (go(), told)]);
    assert!(matches!(&events.expect("agreed")[..], [HandshakeEvent::Ready(_)]));

    // Words that somebody puts into the server's mouth, with its answer or after it.
    let mut handshake = greeted(encrypted(Encryption::Required));
    handshake.receive(&[&OptionReply::Ack.encode(option_code::STARTTLS)[..], b"x"].concat());
    assert_eq!(handshake.next().expect_err("x"), ClientError::BeforeEncryption);
    let mut handshake = greeted(encrypted(Encryption::Required));
    talk(&mut handshake, &[start]).expect("goes on");
    handshake.receive(b"x");
    assert_eq!(handshake.encrypted(), Err(ClientError::BeforeEncryption));
}

#[test]
fn a_handshake_that_makes_no_sense_ends() {
    let wrong = |options, script: &[_]| agree(options, script).expect_err("nonsense");
    let plain = || options(Goal::Transmission);
    let size = wrong(plain(), &[(go(), vec![OptionReply::Ack])]);
    assert_eq!(size, ClientError::NoSize);
    let unknown = wrong(plain(), &[(go(), vec![refused(Refusal::Unknown)])]);
    assert!(matches!(unknown, ClientError::Refused { refusal: Refusal::Unknown, .. }));
    let server = OptionReply::Server { name: "a".into(), description: String::new() };
    let other = wrong(plain(), &[(go(), vec![server])]);
    assert_eq!(other, ClientError::NoAnswer { code: option_code::GO });
    let sizes = Info::BlockSize(BlockSize { minimum: 0, preferred: 0, maximum: 0 });
    let sizes =
        wrong(plain(), &[(go(), vec![export(), OptionReply::Info(sizes), OptionReply::Ack])]);
    assert!(matches!(sizes, ClientError::Decode(DecodeError::Malformed(_))));

    let mut handshake = greeted(plain());
    handshake.receive(&OptionReply::Ack.encode(option_code::LIST));
    assert!(matches!(handshake.next(), Err(ClientError::OtherOption { .. })));
    let mut handshake = Handshake::new(plain());
    handshake.receive(&[0; 18]);
    assert!(matches!(handshake.next(), Err(ClientError::Decode(DecodeError::Magic { .. }))));
}

proptest! {
    #[test]
    fn no_server_makes_a_handshake_panic(
        noise in vec(any::<u8>(), 0..200),
        code in 0u32..11,
        kind in prop_oneof![0u32..6, Just(Refusal::Policy.number())],
    ) {
        for goal in [Goal::Transmission, Goal::Info, Goal::List] {
            let mut handshake = greeted(ClientOptions { structured: true, ..options(goal) });
            let len_bytes = u32::try_from(noise.len()).expect("small");
            handshake.receive(&OptionReplyHeader { code, kind, len_bytes }.encode());
            handshake.receive(&noise);
            while let Ok(Some(_)) = handshake.next() {}
        }
    }
}
