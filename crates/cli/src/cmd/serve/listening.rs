use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dmsnap_serve::nbd::Listener;
use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::report::Failure;

/// Where clients look first.
const DEFAULT_ADDRESS: &str = "127.0.0.1:10809";

/// Where clients come from, and how they name what we listen on ourselves.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listeners: Vec<Listener>,
    pub(super) uris: Vec<String>,
}

impl Listening {
    /// Listens at these addresses, at the usual one if there are none; or, if the process was
    /// started for sockets that somebody else listens on (`LISTEN_FDS`), on those alone.
    pub(super) async fn at(addresses: &[String], encrypted: bool) -> Result<Self, Failure> {
        let mut inherited = ListenFd::from_env();
        let mut listening = Self { listeners: Vec::new(), uris: Vec::new() };
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
        let usual = [DEFAULT_ADDRESS.to_owned()];
        for address in if addresses.is_empty() { &usual } else { addresses } {
            let listener = listen(address).await.map_err(|error| failure(address, &error))?;
            listening.uris.push(told(address, &listener, encrypted));
            listening.listeners.push(listener);
        }
        Ok(listening)
    }
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
        (io::ErrorKind::InvalidInput, Some(path)) => {
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

/// Listens; a socket file that nobody listens on any more is taken over. A server that was killed
/// a moment ago still listens until the system has cleared up its ring, so it is given a second.
async fn listen(address: &str) -> io::Result<Listener> {
    const PAUSE: Duration = Duration::from_millis(50);
    let Some(path) = address.strip_prefix("unix:").map(Path::new) else {
        return Listener::tcp(address).await;
    };
    for _ in 0..20 {
        match Listener::unix(path).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_socket(path) => {
                match UnixStream::connect(path) {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        std::fs::remove_file(path)?;
                    }
                    _ => compio::time::sleep(PAUSE).await,
                }
            }
            other => return other,
        }
    }
    Listener::unix(path).await
}

/// Any other file refuses connections, too, and is nobody's to remove.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// How a client names what it can connect to.
fn told(address: &str, listener: &Listener, encrypted: bool) -> String {
    let scheme = if encrypted { "nbds" } else { "nbd" };
    match (address.strip_prefix("unix:"), listener.tcp_address()) {
        (Some(path), _) => format!("{scheme}+unix:///?socket={path}"),
        (None, Ok(bound)) => format!("{scheme}://{bound}"),
        (None, Err(_)) => format!("{scheme}://{address}"),
    }
}
