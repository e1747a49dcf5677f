//! OUTPUT that takes bytes in their order: standard output, a pipe, a socket.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dmsnap::ops::Sink;

use crate::report::Failure;

/// Standard output.
const DASH: &str = "-";
const STDOUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where a stream goes.
#[derive(Debug)]
pub(crate) struct Stream {
    to: Arc<To>,
    /// Standard output itself: nothing else may be written there.
    pub(crate) is_stdout: bool,
}

#[derive(Debug)]
enum To {
    File(File),
    Socket(UnixStream),
}

/// A name by which the file can be looked at: `-` has none of its own.
pub(crate) fn named(output: &Path) -> &Path {
    if output == Path::new(DASH) { Path::new(STDOUT[0]) } else { output }
}

impl Stream {
    /// Opens OUTPUT if it is a stream; `None` if it is, or may become, a file or a disk. A pipe is waited
    /// for until somebody reads it.
    pub(crate) async fn open(output: &Path) -> Result<Option<Self>, Failure> {
        let failed = |error: io::Error| {
            Failure::about(output, format_args!("cannot be opened for writing: {error}"))
        };
        if output == Path::new(DASH) || STDOUT.iter().any(|name| output == Path::new(name)) {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                let found = "is a terminal, which takes no image";
                return Err(Failure::about(output, found).advise("name a file, or pipe it on"));
            }
            let file = stdout.as_fd().try_clone_to_owned().map_err(failed)?.into();
            return Ok(Some(Self { to: Arc::new(To::File(file)), is_stdout: true }));
        }
        let Ok(metadata) = output.metadata() else { return Ok(None) };
        let (kind, path) = (metadata.file_type(), output.to_owned());
        let to = if kind.is_fifo() {
            let open = move || OpenOptions::new().write(true).open(path);
            To::File(blocking(open).await.map_err(failed)?)
        } else if kind.is_socket() {
            To::Socket(blocking(move || UnixStream::connect(path)).await.map_err(failed)?)
        } else {
            return Ok(None);
        };
        Ok(Some(Self { to: Arc::new(to), is_stdout: false }))
    }
}

impl Sink for Stream {
    /// On a thread of its own: who reads may be slow.
    async fn take(&mut self, bytes: Bytes) -> io::Result<()> {
        let to = self.to.clone();
        let write = move || match &*to {
            To::File(file) => (&*file).write_all(&bytes),
            To::Socket(socket) => (&*socket).write_all(&bytes),
        };
        blocking(write).await
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let died = |_| io::Error::other("the thread that made the call died");
    compio::runtime::spawn_blocking(call).await.map_err(died)?
}
