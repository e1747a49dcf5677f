//! Encrypted connections, with clients that others wrote.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::client::Client;
use common::{Plain, Serving, attempt, noise, run, texts};
use dmsnap::device::Memory;
use dmsnap_serve::nbd::codec::{OptionRequest, Selection};
use dmsnap_serve::nbd::{Limits, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

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
