//! A server in a thread of its own, and whatever talks to it.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

pub mod client; // a client of the tests' own

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use compio::runtime::Runtime;
use dmsnap::device::{Access, Barrier, Caching, Device, File, Memory, Mode};
use dmsnap_serve::export::{Export, Exports, Extent, StatusKind, allocation};
use dmsnap_serve::nbd::{Limits, Listener, Server, Tls};

/// An export of any device, as a test wants it.
pub struct Plain<D> {
    pub name: String,
    pub device: D,
    pub barrier: Barrier,
    pub read_only: bool,
    /// Answered for `qemu:allocation-depth` and `qemu:dirty-bitmap:day`.
    pub extents: Vec<Extent>,
}

impl<D> Plain<D> {
    pub fn new(name: &str, device: D) -> Self {
        let (name, barrier) = (name.into(), Barrier::default());
        Self { name, device, barrier, read_only: false, extents: Vec::new() }
    }
}

impl<D: Device + 'static> Export for Plain<D> {
    type Device = D;

    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> &D {
        &self.device
    }

    async fn flush(&self) -> io::Result<()> {
        self.barrier.flush(&self.device).await
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn description(&self) -> Option<String> {
        Some(format!("the test's {}", self.name))
    }

    fn status_kinds(&self) -> Vec<StatusKind> {
        let mut kinds = vec![StatusKind::Allocation];
        if !self.extents.is_empty() {
            let changed = StatusKind::ChangedSince { snapshot: "day".into(), id: 0 };
            kinds.extend([StatusKind::Depth, changed]);
        }
        kinds
    }

    async fn status(
        &self,
        kind: &StatusKind,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        if *kind == StatusKind::Allocation {
            return allocation(&self.device, range, most).await;
        }
        let mut skip = range.start;
        let mut answer = Vec::new();
        for extent in &self.extents {
            let skipped = skip.min(extent.len_bytes);
            skip -= skipped;
            answer.push(Extent { len_bytes: extent.len_bytes - skipped, ..*extent });
        }
        Ok(answer)
    }
}

/// A server that runs in a thread of its own, on a Unix socket and a TCP port.
pub struct Serving {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub tcp: SocketAddr,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Serving {
    /// Starts a server; `fill` adds the exports, inside the server's runtime.
    pub fn start<F>(limits: Limits, fill: F) -> Self
    where
        F: AsyncFnOnce(&Path, &Exports) + Send + 'static,
    {
        Self::start_with(limits, None, fill)
    }

    /// As [`start`](Self::start), encrypted.
    pub fn start_with<F>(limits: Limits, tls: Option<Tls>, fill: F) -> Self
    where
        F: AsyncFnOnce(&Path, &Exports) + Send + 'static,
    {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("nbd");
        let (place, path) = (dir.path().to_owned(), socket.clone());
        let (stop, stopped) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            Runtime::new().expect("a runtime").block_on(async move {
                let exports = Exports::new();
                fill(&place, &exports).await;
                let unix = Listener::unix(&path).await?;
                let tcp = Listener::tcp("127.0.0.1:0").await?;
                tell.send(tcp.tcp_address()?).expect("the test waits");
                let stopped = compio::runtime::spawn_blocking(move || stopped.recv());
                let shutdown = async { drop(stopped.await) };
                let mut server = Server::new(exports, limits);
                if let Some(tls) = tls {
                    server = server.with_tls(tls);
                }
                server.run(vec![unix, tcp], shutdown).await
            })
        });
        let tcp = told.recv().expect("the server starts");
        Self { dir, socket, tcp, stop: Some(stop), thread: Some(thread) }
    }

    /// A server for one export of zeroes in memory, called "disk".
    pub fn memory(limits: Limits, len_bytes: usize) -> Self {
        Self::start(limits, async move |_, exports| {
            let disk = Plain::new("disk", Memory::zeroed(len_bytes));
            exports.add(disk).expect("the first");
        })
    }

    /// A server for a new file, called "disk", at `dir/disk`.
    pub fn file(limits: Limits, len_bytes: u64) -> Self {
        Self::start(limits, async move |dir, exports| {
            let path = dir.join("disk");
            let file = File::create_new(&path, len_bytes, Caching::Direct, Access::default()).await;
            let file = file.expect("a new file");
            exports.add(Plain::new("disk", file)).expect("the first");
        })
    }

    /// Both ways to reach export `name`.
    pub fn uris(&self, name: &str) -> [String; 2] {
        let socket = self.socket.display();
        [format!("nbd+unix:///{name}?socket={socket}"), format!("nbd://{}/{name}", self.tcp)]
    }

    /// The URI over the Unix socket.
    pub fn uri(&self, name: &str) -> String {
        let [unix, _] = self.uris(name);
        unix
    }

    /// Shuts the server down and waits for its end.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().expect("the server's thread"),
            None => Ok(()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let ended = self.end();
        if !std::thread::panicking() {
            ended.expect("the server ends well");
        }
    }
}

/// Runs a client; it must succeed. Returns its standard output.
pub fn run(command: &str, arguments: &[&str]) -> String {
    let output = attempt(command, arguments);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{command} {arguments:?}:\n{stdout}{stderr}");
    stdout
}

/// Runs a client, which may fail.
pub fn attempt(command: &str, arguments: &[&str]) -> Output {
    // A server that hangs must not hang the tests.
    let output = Command::new("timeout")
        .args(["60", command])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils)");
    let missing = output.status.code() == Some(127);
    assert!(!missing, "{command} is missing: run ./check, which installs what the tests need");
    output
}

/// Standard output and standard error.
pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Bytes that look random and are the same every time.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// Opens a file for the server.
pub async fn open(path: &Path, mode: Mode) -> File {
    File::open(path, mode, Caching::Direct).await.expect("the file opens")
}

/// What every wait of a test is bounded by.
pub const PATIENCE: Duration = Duration::from_secs(20);
