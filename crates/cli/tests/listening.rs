//! Where `dmsnap serve` takes clients from, and how their connections are encrypted.

use std::fs;
use std::process::Command;

use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Writes an authority, a server and a client it vouches for into the files all programs look for.
fn certify(place: &Place) {
    let mut authority = CertificateParams::new(Vec::new()).expect("a certificate");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let pem = authority.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, key);
    fs::write(place.path("ca-cert.pem"), pem).expect("written");
    for (name, purpose) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a signature");
        fs::write(place.path(&format!("{name}-cert.pem")), certificate.pem()).expect("written");
        fs::write(place.path(&format!("{name}-key.pem")), key.serialize_pem()).expect("written");
    }
}

#[test]
fn a_server_that_requires_encryption_serves_nobody_without() {
    let place = Place::new(1, &["a"]);
    certify(&place);
    let (dir, a) = (place.text(""), format!("a={}", place.text("a")));
    let args = ["--snapshot", &a, "--tls=required", "--tls-certificates", &dir];
    let serving = Serving::start(&place, &[&args[..], &["--tls-verify-peer"]].concat());
    let plain = output("nbdinfo", &[&place.uri("a")]);
    assert!(!plain.status.success(), "{plain:?}");
    let uri = |certificates: &str| {
        let socket = place.text("socket");
        format!(
            "nbds+unix://localhost/a?socket={socket}&tls-certificates={certificates}&\
             tls-hostname=localhost"
        )
    };
    let told = tool("nbdinfo", &[&uri(&dir)]);
    assert!(told.contains("with TLS"), "{told}");
    tool("nbdcopy", &[&uri(&dir), &place.text("copy")]);
    assert!(place.read("copy") == place.read("origin"));
    // Nobody vouches for this one.
    let other = Place::new(1, &[]);
    certify(&other);
    fs::copy(place.path("ca-cert.pem"), other.path("ca-cert.pem")).expect("copied");
    let stranger = output("nbdinfo", &[&uri(&other.text(""))]);
    assert!(!stranger.status.success(), "{stranger:?}");
    serving.stop();
}

#[test]
fn options_of_encryption_that_make_no_sense_are_refused() {
    let place = Place::new(1, &[]);
    let (origin, dir) = (place.text("origin"), place.text("nowhere"));
    let nbd = format!("unix:{}", place.text("socket"));
    let refuse = |args: &[&str], status: i32, words: &str| {
        let done = output(DMSNAP, &[&["serve", &origin, "--nbd", &nbd][..], args].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    refuse(&["--tls=required"], 2, "--tls-certificates");
    refuse(&["--tls-verify-peer"], 2, "--tls-certificates");
    refuse(&["--tls=perhaps"], 2, "required");
    refuse(&["--tls-certificates", &dir], 3, "server-cert.pem");
    certify(&place);
    // A client that does not encrypt would be let in without any certificate.
    for when in ["on", "off"] {
        let (when, dir) = (format!("--tls={when}"), place.text(""));
        let args = [&when, "--tls-certificates", &dir, "--tls-verify-peer"];
        refuse(&args, 3, "leave --tls out, or say --tls required");
    }
    fs::write(place.path("server-key.pem"), "nonsense").expect("written");
    refuse(&["--tls-certificates", &place.text("")], 3, "not usable for TLS");
}

/// libnbd's programs listen themselves and start the server for it, as a service manager does.
#[test]
fn sockets_of_a_service_manager_are_served() {
    let place = Place::new(2, &[]);
    let origin = place.text("origin");
    let size = tool("nbdinfo", &["--size", "[", DMSNAP, "serve", &origin, "]"]);
    assert_eq!(size, format!("{}\n", 2 * MIB));
    tool("nbdcopy", &["[", DMSNAP, "serve", &origin, "]", &place.text("copy")]);
    assert!(place.read("copy") == place.read("origin"));
    let nbd = format!("unix:{}", place.text("socket"));
    let refused = output("nbdinfo", &["--", "[", DMSNAP, "serve", &origin, "--nbd", &nbd, "]"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("leave --nbd out"), "{said}");
}

/// A TCP socket that was listened on before, and a word to the manager once it is served.
#[test]
fn a_service_manager_is_told_when_the_server_is_ready() {
    const MANAGER: &str = "
import os, socket, sys
notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notified.bind(sys.argv[1])
notified.settimeout(60)
tcp = socket.socket()
tcp.bind(('127.0.0.1', 0))
tcp.listen()
child = os.fork()
if child == 0:
    os.dup2(tcp.fileno(), 3)
    os.environ.update(NOTIFY_SOCKET=sys.argv[1], LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
    os.execv(sys.argv[2], sys.argv[2:])
print(notified.recv(100).decode().strip(), flush=True)
client = socket.create_connection(tcp.getsockname())
print(client.recv(8).decode(), flush=True)
os.kill(child, 15)
print(notified.recv(100).decode().strip(), flush=True)
print(os.waitpid(child, 0)[1], flush=True)
";
    let place = Place::new(1, &[]);
    let done = Command::new("python3")
        .args(["-c", MANAGER, &place.text("notify"), DMSNAP, "serve", &place.text("origin")])
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(said, "READY=1\nNBDMAGIC\nSTOPPING=1\n0\n", "{done:?}");
}
