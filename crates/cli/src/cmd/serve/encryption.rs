use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dmsnap_serve::nbd;

use crate::report::Failure;

/// How clients' connections are encrypted.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Encryption")]
pub(super) struct Encryption {
    /// Whether connections are encrypted
    ///
    /// off: never. on: if the client asks for it. required: a client that does not ask is told nothing
    /// and served nothing. Left out, it is off, or required where --tls-certificates is given.
    #[arg(long, value_enum, value_name = "WHEN")]
    tls: Option<When>,

    /// Folder of PEM files: server-cert.pem, server-key.pem, ca-cert.pem
    ///
    /// The names are those that QEMU and nbdkit use. The certificates are X.509, the protocol is
    /// TLS 1.2 or 1.3. Pre-shared keys are not possible: the library has none.
    #[arg(long, value_name = "DIR", required_if_eq_any = [("tls", "on"), ("tls", "required")])]
    tls_certificates: Option<PathBuf>,

    /// Let in only clients with a certificate that ca-cert.pem vouches for
    ///
    /// Every connection is encrypted then: not with --tls on or off.
    #[arg(long, requires = "tls_certificates")]
    tls_verify_peer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    Off,
    On,
    #[value(alias = "require")]
    Required,
}

impl Encryption {
    /// Reads the certificates; `None` if nothing is to be encrypted.
    pub(super) fn tls(&self) -> Result<Option<nbd::Tls>, Failure> {
        if let Some(when @ (When::On | When::Off)) = self.tls
            && self.tls_verify_peer
        {
            let when = if when == When::On { "on" } else { "off" };
            let found = format_args!(
                "found --tls {when}, which lets clients in without encryption and so without a certificate"
            );
            let refused = Failure::of("--tls-verify-peer", found);
            return Err(refused.advise("leave --tls out, or say --tls required"));
        }
        let Some(dir) = self.tls_certificates.as_deref().filter(|_| self.tls != Some(When::Off))
        else {
            return Ok(None);
        };
        let chain = read(&dir.join("server-cert.pem"))?;
        let key = read(&dir.join("server-key.pem"))?;
        let authorities =
            self.tls_verify_peer.then(|| read(&dir.join("ca-cert.pem"))).transpose()?;
        let required = self.tls != Some(When::On);
        let tls = nbd::Tls::from_pem(&chain, &key, authorities.as_deref(), required);
        tls.map(Some)
            .map_err(|error| Failure::about(dir, format_args!("not usable for TLS: {error}")))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::about(path, error)
            .advise("--tls-certificates needs server-cert.pem and server-key.pem"),
        _ => Failure::about(path, error),
    })
}
