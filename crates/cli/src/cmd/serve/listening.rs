use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process;

use dmsnap_serve::control::{Control, OwnerSocket};
use dmsnap_serve::nbd::{Listener, SocketAccess};
use listenfd::ListenFd;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sd_notify::NotifyState;

use crate::report::Failure;

/// What a query of a URI holds as it is: letters, digits, and these.
const NOT_PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where clients come from, and how they name what we listen on ourselves.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listeners: Vec<Listener>,
    /// As the command line names them.
    pub(super) addresses: Vec<String>,
    pub(super) uris: Vec<String>,
    /// The port of the first one, if it has one.
    pub(super) port: Option<u16>,
}

impl Listening {
    /// Listens at these addresses; or, if the process was started for sockets that somebody else listens
    /// on (`LISTEN_FDS`), on those alone.
    pub(super) async fn at(
        addresses: &[String],
        access: SocketAccess,
        encrypted: bool,
    ) -> Result<Self, Failure> {
        let mut inherited = ListenFd::from_env();
        let (listeners, uris, port) = (Vec::new(), Vec::new(), None);
        let mut listening = Self { listeners, addresses: addresses.to_vec(), uris, port };
        if inherited.len() > 0 {
            if let Some(address) = addresses.first() {
                let found = "given as well as sockets to serve (LISTEN_FDS)";
                return Err(Failure::of(address, found).advise("leave --nbd out"));
            }
            for n in 0..inherited.len() {
                let listener = inherit(&mut inherited, n)
                    .map_err(|error| Failure::of(&format!("socket {n} of LISTEN_FDS"), error))?;
                listening.listeners.push(listener);
            }
            return Ok(listening);
        }
        if addresses.is_empty() {
            // The sockets were meant for another process.
            return Err(nowhere());
        }
        for address in addresses {
            let listener = listen(address, access).await;
            let listener = listener.map_err(|error| failure(address, &error))?;
            let bound = listener.tcp_address().ok();
            if listening.uris.is_empty() {
                listening.port = bound.map(|it| it.port());
            }
            listening.uris.push(told(address, bound, encrypted));
            listening.listeners.push(listener);
        }
        Ok(listening)
    }
}

/// Refuses to serve where no client could come from. There is no address by default: a port of TCP is open to
/// every user of the machine.
pub(super) fn refuse_nowhere(addresses: &[String]) -> Result<(), Failure> {
    // Not taken out of the environment: that is done when they are listened on.
    match addresses.is_empty() && env::var_os("LISTEN_FDS").is_none() {
        true => Err(nowhere()),
        false => Ok(()),
    }
}

/// Refuses sockets that a service manager has opened for this process, for a server that is another process, or
/// belongs to a command.
pub(super) fn refuse_activated() -> Result<(), Failure> {
    let is_ours = |pid: OsString| pid.to_str() == Some(&process::id().to_string());
    match env::var_os("LISTEN_FDS").is_some() && env::var_os("LISTEN_PID").is_none_or(is_ours) {
        true => Err(Failure::of("LISTEN_FDS", "there are sockets of a service manager to serve")
            .advise("leave --fork and --run out")),
        false => Ok(()),
    }
}

fn nowhere() -> Failure {
    let found = "is not given, and there is no socket of a service manager";
    Failure::of("--nbd", found).advise(
        "say where clients come from: --nbd unix:PATH, for you alone, \
         or --nbd 127.0.0.1:10809, for every user of this machine",
    )
}

/// Where to listen, as the command line says it: `unix:PATH` or `HOST:PORT`.
pub(super) fn address(text: &str) -> Result<String, String> {
    let whole = match (text.strip_prefix("unix:"), text.rsplit_once(':')) {
        (Some(path), _) => !path.is_empty(),
        (None, Some((host, port))) => {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let named = !host.is_empty() && !host.contains(['/', ':']);
            (named || bracketed) && port.parse::<u16>().is_ok()
        }
        (None, None) => false,
    };
    match whole {
        true => Ok(text.into()),
        false => Err("it is unix:PATH or HOST:PORT, with a port below 65536".into()),
    }
}

fn failure(address: &str, error: &io::Error) -> Failure {
    let path = address.strip_prefix("unix:").map(Path::new);
    match (error.kind(), path) {
        (io::ErrorKind::AddrInUse, Some(path)) if !is_socket(path) => {
            Failure::about(path, "is there already, and no socket").advise("choose another path")
        }
        (io::ErrorKind::AddrInUse, _) => Failure::of(address, "somebody listens there already")
            .advise("choose another address, or end that one"),
        (io::ErrorKind::NotFound, Some(path)) => {
            Failure::about(path, "its directory does not exist").advise("make it first")
        }
        (io::ErrorKind::InvalidFilename, Some(path)) => {
            let found = format_args!("too long for a socket: {} bytes", path.as_os_str().len());
            Failure::about(path, found).advise("107 are possible")
        }
        _ => Failure::of(address, format_args!("cannot listen: {error}")),
    }
}

/// Tells a service manager, where there is one, how far the server is.
pub(super) fn notify(state: NotifyState<'_>) {
    // Without one, or with one that does not listen, it is served all the same.
    let _ = sd_notify::notify(&[state]);
}

fn inherit(inherited: &mut ListenFd, n: usize) -> io::Result<Listener> {
    if let Ok(Some(listener)) = inherited.take_unix_listener(n) {
        return Listener::from_unix(listener);
    }
    match inherited.take_tcp_listener(n)? {
        Some(listener) => Listener::from_tcp(listener),
        None => Err(io::Error::other("taken twice")),
    }
}

async fn listen(address: &str, access: SocketAccess) -> io::Result<Listener> {
    match address.strip_prefix("unix:") {
        Some(path) => Listener::unix_for(Path::new(path), access).await,
        None => Listener::tcp(address).await,
    }
}

/// Any other file refuses connections, too, and is nobody's to remove.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// How a client names what it can connect to. A path may hold what has a meaning in a URI.
fn told(address: &str, bound: Option<SocketAddr>, encrypted: bool) -> String {
    let scheme = if encrypted { "nbds" } else { "nbd" };
    match (address.strip_prefix("unix:"), bound) {
        (Some(path), _) => {
            format!("{scheme}+unix:///?socket={}", utf8_percent_encode(path, NOT_PLAIN))
        }
        (None, Some(bound)) => format!("{scheme}://{bound}"),
        (None, None) => format!("{scheme}://{address}"),
    }
}

/// Listens for clients of the control socket.
pub(super) async fn open_control(path: &Path) -> Result<Control, Failure> {
    let socket = OwnerSocket::take_patiently(path).await;
    socket.and_then(Control::start).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let found = "already exists and is not a stale socket";
            Failure::about(path, found).advise("choose another path for --control")
        }
        _ => Failure::about(path, format_args!("no control socket: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_escaped() {
        let told = |address: &str| told(address, None, false);
        assert_eq!(told("unix:/run/a-b_c.sock"), "nbd+unix:///?socket=/run/a-b_c.sock");
        assert_eq!(
            told("unix:/run/a b&c#d%20+?=\u{1b}\u{e4}"),
            "nbd+unix:///?socket=/run/a%20b%26c%23d%2520%2B%3F%3D%1B%C3%A4"
        );
        let bound = "[::1]:10809".parse().expect("an address");
        assert_eq!(super::told("localhost:0", Some(bound), true), "nbds://[::1]:10809");
    }
}
