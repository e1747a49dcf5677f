//! The command of `--run`.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command};

use compio::runtime::fd::PollFd;
use futures_util::future::{Either, select};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use super::listening::Listening;
use crate::exit::Outcome;
use crate::report::Failure;
use crate::signals::Stop;

/// A place for the socket of a server without an address of its own. Removed on drop.
#[derive(Debug)]
pub(super) struct PrivateSocket {
    _folder: TempDir,
    pub(super) address: String,
}

impl PrivateSocket {
    pub(super) fn new() -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix("dmsnap").tempdir();
        let folder = made.map_err(|error| Failure::about(&env::temp_dir(), error))?;
        let path = folder.path().join("socket");
        let path = path.to_str();
        let path =
            path.ok_or_else(|| Failure::about(&env::temp_dir(), "is a path that is not text"))?;
        let address = format!("unix:{path}");
        Ok(Self { _folder: folder, address })
    }
}

/// A command that is served.
#[derive(Debug)]
pub(super) struct Captive {
    child: Child,
}

impl Captive {
    /// Runs it by a shell, with the variables that say where it is served.
    pub(super) fn start(
        command: &OsStr,
        listening: &Listening,
        export: Option<&str>,
    ) -> Result<Self, Failure> {
        let address = listening.addresses.first().map(String::as_str).unwrap_or_default();
        let unix_socket = address.strip_prefix("unix:").unwrap_or_default();
        let port = listening.port.map(|it| it.to_string()).unwrap_or_default();
        let uri = listening.uris.first().map(String::as_str).unwrap_or_default();
        // As programs knew it before there were URIs.
        let nbd = match unix_socket {
            "" => format!("nbd:localhost:{port}"),
            path => format!("nbd:unix:{path}"),
        };
        let tls = if uri.starts_with("nbds") { "1" } else { "" };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).envs([
            ("uri", uri),
            ("unixsocket", unix_socket),
            ("port", &port),
            ("nbd", &nbd),
            ("tls", tls),
            ("exportname", export.unwrap_or_default()),
        ]);
        // The manager hears from the server alone.
        shell.env_remove("NOTIFY_SOCKET");
        let started = shell.spawn();
        let child = started.map_err(|error| Failure::about(Path::new("sh"), error))?;
        Ok(Self { child })
    }

    /// Returns when it has ended, and how.
    async fn end(&mut self) -> io::Result<Outcome> {
        let end = PollFd::new(pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?)?;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(Outcome::of(status)),
                None => end.read_ready().await?,
            }
        }
    }
}

/// Returns when a server is to end: it was told to, or its command has ended, and how.
pub(super) async fn end(
    stop: &Stop,
    captive: Option<&mut Captive>,
) -> Option<Result<Outcome, Failure>> {
    let Some(captive) = captive else {
        stop.wait().await;
        return None;
    };
    match select(pin!(stop.wait()), pin!(captive.end())).await {
        Either::Left(_) => None,
        Either::Right((ended, _)) => Some(ended.map_err(|error| Failure::of("--run", error))),
    }
}
