//! Clients of the NBD server that encrypt, whose encrypted bytes are spoilt, or who do not encrypt where they must.

use std::sync::{Arc, LazyLock};

use dmsnap_nbd::{Greeting, OptionRequest, Request, Selection, command};
use dmsnap_serve::nbd::Tls;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};

use crate::input::{Input, told};
use crate::nbd::{civil, connected, script, serving};
use crate::socket::{heard, in_time};
use crate::talk::{Model, judge};
use crate::tunnel::{self, Spoilt};

/// A server and clients that trust it.
struct Trust {
    /// Certificate and private key, as PEM.
    server: (String, String),
    client: Arc<ClientConfig>,
}

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let own = params.self_signed(&key).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(own.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Trust { server: (own.pem(), key.serialize_pem()), client: Arc::new(client) }
});

/// How the client talks; what happens to its bytes; then what it says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (required, mode) = (input.u8() % 2 == 1, input.u8() % 4);
    let spoilt = Spoilt::from(&mut input);
    let said = script(&mut input);
    let (chain, key) = &TRUST.server;
    let tls = Tls::from_pem(chain.as_bytes(), key.as_bytes(), None, required).expect("PEM");
    told(|| format!("required: {required}, mode {mode}, {spoilt:?}"));
    in_time(serving(false, Some(tls), async |mut model| {
        match mode {
            0 => after_start(&said).await,
            1 if required => in_plain(&said).await,
            1 | 2 => on_a_bad_line(&spoilt).await,
            _ => in_private(&said, &mut model).await,
        }
        in_private(&civil("origin"), &mut model).await;
    }));
}

/// All of it through the tunnel.
async fn in_private(said: &[u8], model: &mut Model) {
    // Its flags are said before it, and are always the same.
    let rest = &said[4..];
    let answers = tunnel::heard(connected(), TRUST.client.clone(), rest, &Spoilt::Nothing).await;
    let said = [&3_u32.to_be_bytes()[..], rest].concat();
    judge(&said, &[&Greeting::NEWSTYLE.encode()[..], &answers].concat(), true, model);
}

/// Only what was sent as it was is answered, and then as on a good line.
async fn on_a_bad_line(spoilt: &Spoilt) {
    let read = Request { flags: 0, command: command::READ, cookie: 7, offset: 8192, len: 16 << 10 };
    let said = [
        OptionRequest::Go(Selection { name: "s".into(), infos: Vec::new() }).encode(),
        read.encode().to_vec(),
    ]
    .concat();
    let client = || TRUST.client.clone();
    let right = tunnel::heard(connected(), client(), &said, &Spoilt::Nothing).await;
    let found = tunnel::heard(connected(), client(), &said, spoilt).await;
    assert!(right.len() > 16 << 10 && right.starts_with(&found), "an answer to what nobody said");
}

/// Bytes as they come where the handshake of TLS should be: nothing in them is an option any more.
async fn after_start(said: &[u8]) {
    let start = [&3_u32.to_be_bytes()[..], &OptionRequest::StartTls.encode()].concat();
    let answers = heard(connected(), &[&start, said].concat()).await;
    assert!(!shows_data(&answers), "data for nobody who encrypts");
}

/// No encryption where it is required.
async fn in_plain(said: &[u8]) {
    let answers = heard(connected(), said).await;
    assert!(!shows_data(&answers), "data for nobody who encrypts");
}

/// A sector of what the devices hold.
fn shows_data(answers: &[u8]) -> bool {
    answers.windows(512).any(|it| it[0] >= 16 && it.iter().all(|byte| *byte == it[0]))
}
