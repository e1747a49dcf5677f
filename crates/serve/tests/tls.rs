//! Encrypted connections, with clients that others wrote.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::client::Client;
use crate::common::{Plain, Serving, attempt, noise, run, texts};
use dmsnap::device::Memory;
use dmsnap_nbd::client::{ClientOptions, Encryption, Event, Handshake, HandshakeEvent};
use dmsnap_nbd::{Command, Extent, OptionRequest, Request, Selection, command};
use dmsnap_serve::nbd::{Limits, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// An authority, and a server and a client it vouches for, in the files that clients look for.
struct Certificates {
    dir: tempfile::TempDir,
    authority: String,
    chain: String,
    key: String,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut authority = CertificateParams::new(Vec::new()).expect("a certificate");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = authority.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(authority, key);
        let signed = |purpose| {
            let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
            params.extended_key_usages = vec![purpose];
            params.key_usages =
                vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &issuer).expect("a signature");
            (certificate.pem(), key.serialize_pem())
        };
        let (chain, key) = signed(ExtendedKeyUsagePurpose::ServerAuth);
        let (client_chain, client_key) = signed(ExtendedKeyUsagePurpose::ClientAuth);
        for (name, content) in [
            ("ca-cert.pem", &pem),
            ("client-cert.pem", &client_chain),
            ("client-key.pem", &client_key),
        ] {
            fs::write(dir.path().join(name), content).expect("a file");
        }
        Self { dir, authority: pem, chain, key }
    }

    fn tls(&self, asks_clients: bool, required: bool) -> Tls {
        let authorities = asks_clients.then_some(self.authority.as_bytes());
        Tls::from_pem(self.chain.as_bytes(), self.key.as_bytes(), authorities, required)
            .expect("good certificates")
    }

    /// Encrypts as a client of the server.
    fn tunnel(
        &self,
        socket: TcpStream,
    ) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes());
        roots.add(authority.expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        rustls::StreamOwned::new(client, socket)
    }

    fn uri(&self, serving: &Serving) -> String {
        let dir = self.dir.path().display();
        format!("nbds://localhost:{}/disk?tls-certificates={dir}", serving.tcp.port())
    }
}

fn serving(tls: Tls, content: Vec<u8>) -> Serving {
    Serving::start_with(Limits::default(), Some(tls), async move |_, exports| {
        exports.add(Plain::new("disk", Memory::from(content))).expect("the first");
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn encrypted_copies_both_ways_are_equal() {
    let certificates = Certificates::new();
    for asks_clients in [false, true] {
        let serving = serving(certificates.tls(asks_clients, true), vec![0; 16 << 20]);
        let uri = certificates.uri(&serving);
        let told = run("nbdinfo", &[&uri]);
        assert!(told.contains("with TLS"), "{told}");
        let [from, back] = ["from", "back"].map(|name| serving.dir.path().join(name));
        let content = noise(16 << 20, 11);
        fs::write(&from, &content).expect("a file");
        run("nbdcopy", &["--connections=4", "--requests=16", text(&from), &uri]);
        run("nbdcopy", &["--connections=4", "--request-size=8388608", &uri, text(&back)]);
        assert!(fs::read(&back).expect("the copy") == content, "nbdcopy");
        let credentials =
            format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", text(certificates.dir.path()));
        let image = format!(
            "driver=nbd,server.type=inet,server.host=localhost,server.port={},export=disk,\
             tls-creds=tls0",
            serving.tcp.port()
        );
        let convert =
            ["convert", "--object", &credentials, "--image-opts", &image, "-O", "raw", text(&back)];
        fs::remove_file(&back).expect("the copy");
        run("qemu-img", &convert);
        assert!(fs::read(&back).expect("the copy") == content, "qemu-img");
    }
}

#[test]
fn a_client_without_a_certificate_is_not_let_in_where_one_is_asked_for() {
    let certificates = Certificates::new();
    let serving = serving(certificates.tls(true, true), vec![0; 1 << 20]);
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::remove_file(certificates.dir.path().join(name)).expect("a file");
    }
    let output = attempt("nbdinfo", &[&certificates.uri(&serving)]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{:?}", texts(&output));
}

#[test]
fn where_encryption_is_required_nothing_else_is_answered() {
    const TLS_REQUIRED: u32 = 0x8000_0005;
    let certificates = Certificates::new();
    let serving = serving(certificates.tls(false, true), vec![0; 1 << 20]);
    let mut client = Client::haggling(&serving);
    let selection = Selection { name: "disk".into(), infos: Vec::new() };
    for option in [
        OptionRequest::List,
        OptionRequest::StructuredReply,
        OptionRequest::Info(selection.clone()),
        OptionRequest::Go(selection),
    ] {
        let replies = client.option(&option);
        assert_eq!((replies.len(), replies[0].0), (1, TLS_REQUIRED), "{option:?}");
    }
    client.write(&OptionRequest::ExportName("disk".into()).encode());
    client.sees_the_end();
    let plain = attempt("nbdinfo", &[&serving.uri("disk")]);
    assert!(!plain.status.success(), "{plain:?}");
}

#[test]
fn where_it_is_offered_clients_choose_and_nothing_said_before_counts() {
    let certificates = Certificates::new();
    let serving = serving(certificates.tls(false, false), vec![0; 1 << 20]);
    assert_eq!(run("nbdinfo", &["--size", &serving.uri("disk")]), "1048576\n");
    assert_eq!(run("nbdinfo", &["--size", &certificates.uri(&serving)]), "1048576\n");
    // Words that come along with the request to encrypt are not taken for the client's.
    let mut client = Client::haggling(&serving);
    let mut words = OptionRequest::StartTls.encode();
    words.extend(OptionRequest::List.encode());
    client.write(&words);
    client.sees_the_end();
    // What is not TLS, and silence, end there.
    let mut client = Client::haggling(&serving);
    assert_eq!(client.option(&OptionRequest::StartTls), [(1, Vec::new())]);
    client.write(&noise(1000, 5));
    client.sees_the_end();
}

/// A client that stops in the middle of the handshake is let go at the end, and costs nobody else
/// anything before.
#[test]
fn shutting_down_waits_for_no_half_encrypted_client() {
    let certificates = Certificates::new();
    let serving = serving(certificates.tls(false, false), vec![0; 1 << 20]);
    let mut halves: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::haggling(&serving);
            assert_eq!(client.option(&OptionRequest::StartTls), [(1, Vec::new())]);
            // The beginning of a record that never ends.
            client.write(&[0x16, 3, 1, 2, 0]);
            client
        })
        .collect();
    assert_eq!(run("nbdinfo", &["--size", &certificates.uri(&serving)]), "1048576\n");
    let began = Instant::now();
    serving.stop().expect("a good end");
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    halves.iter_mut().for_each(Client::sees_the_end);
}

#[test]
fn certificates_that_are_none_are_refused() {
    let certificates = Certificates::new();
    let (chain, key) = (certificates.chain.as_bytes(), certificates.key.as_bytes());
    assert!(Tls::from_pem(b"", key, None, true).is_err());
    assert!(Tls::from_pem(chain, b"nonsense", None, true).is_err());
    assert!(Tls::from_pem(chain, key, Some(b""), true).is_err());
    let other = Certificates::new();
    assert!(Tls::from_pem(chain, other.key.as_bytes(), None, true).is_err(), "another's key");
}

/// A client may end its half as soon as it has asked everything, and begin to listen then.
#[test]
fn a_client_that_has_ended_its_half_gets_all_answers() {
    const ANSWERS: usize = 32;
    const LEN: usize = 1 << 20;
    let certificates = Certificates::new();
    let content = noise(LEN, 3);
    let serving = serving(certificates.tls(false, true), content.clone());
    let mut socket = TcpStream::connect(serving.tcp).expect("it listens");
    let start = [&3_u32.to_be_bytes()[..], &OptionRequest::StartTls.encode()].concat();
    socket.write_all(&start).expect("asked");
    socket.read_exact(&mut [0; 18 + 20]).expect("greeting and answer");
    let mut tunnel = certificates.tunnel(socket);
    let read = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, len: 1 << 20 };
    let mut asked = OptionRequest::ExportName("disk".into()).encode();
    (0..ANSWERS).for_each(|_| asked.extend(read.encode()));
    asked.extend(Request { command: command::DISC, len: 0, ..read }.encode());
    tunnel.write_all(&asked).expect("asked");
    tunnel.conn.send_close_notify();
    tunnel.flush().expect("sent");
    tunnel.sock.shutdown(std::net::Shutdown::Write).expect("ended");
    sleep(Duration::from_millis(300));

    let mut heard = Vec::new();
    tunnel.read_to_end(&mut heard).expect("all of it, and the end");
    // Size and flags of the export, without padding; then the answers.
    assert_eq!(heard.len(), 10 + ANSWERS * (16 + LEN));
    assert!(heard[10..].chunks(16 + LEN).all(|answer| answer[16..] == content[..]));
}

fn next_event(stream: &mut (impl Read + Write), handshake: &mut Handshake) -> HandshakeEvent {
    loop {
        if let Some(event) = handshake.next().expect("sense") {
            return event;
        }
        stream.write_all(&handshake.take_output()).expect("the server listens");
        stream.flush().expect("the server listens");
        let received = stream.read(handshake.space()).expect("the server answers");
        assert!(received > 0, "the server has hung up");
        handshake.received(received);
    }
}

/// The client of `dmsnap_nbd` agrees on all that there is with this server, and gets right answers.
#[test]
fn the_client_of_the_protocol_package_encrypts_and_asks() {
    const LEN: u32 = 1 << 20;
    let certificates = Certificates::new();
    let content = noise(LEN as usize, 7);
    let serving = serving(certificates.tls(false, true), content.clone());
    let mut socket = TcpStream::connect(serving.tcp).expect("it listens");
    let mut handshake = Handshake::new(ClientOptions {
        export: "disk".into(),
        encryption: Encryption::Required,
        contexts: vec!["base:allocation".into(), "base:none".into()],
        ..ClientOptions::default()
    });
    let start = next_event(&mut socket, &mut handshake);
    assert!(matches!(start, HandshakeEvent::StartTls), "{start:?}");
    let mut tunnel = certificates.tunnel(socket);
    handshake.encrypted().expect("nothing came before");
    let mut requests = match next_event(&mut tunnel, &mut handshake) {
        HandshakeEvent::Ready(requests) => *requests,
        event => panic!("{event:?}"),
    };
    let info = requests.info();
    assert_eq!((info.size_bytes, info.structured, info.encrypted), (LEN.into(), true, true));
    assert_eq!(info.contexts, [(1, "base:allocation".to_owned())]);
    assert_eq!(info.block_size.map(|it| (it.minimum, it.preferred)), Some((1, 4096)));

    let half = LEN / 2;
    for command in [
        Command::Read { at: 0, len: half },
        Command::Flush,
        Command::BlockStatus { at: 0, len: LEN, one: false },
        Command::Read { at: half.into(), len: half },
    ] {
        let (_, header) = requests.begin(command).expect("the export can do it");
        tunnel.write_all(&header).expect("the server listens");
    }
    let (mut read, mut extents) = (vec![0; LEN as usize], Vec::new());
    while requests.in_flight() > 0 {
        match requests.next().expect("sense") {
            Some(Event::Data { at, bytes, .. }) => {
                let at = usize::try_from(at).expect("small");
                read[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Some(Event::Extents { extents: more, .. }) => extents.extend(more),
            Some(Event::Done { result, .. }) => result.expect("no failure"),
            Some(event) => panic!("{event:?}"),
            None => {
                let received = tunnel.read(requests.space()).expect("the server answers");
                assert!(received > 0, "the server has hung up");
                requests.received(received);
            }
        }
    }
    assert!(read == content, "other bytes");
    assert_eq!(extents, [Extent { len_bytes: LEN.into(), flags: 0 }]);
}
