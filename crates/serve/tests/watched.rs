//! Clients that watch the status over the control socket: they hear of a change when it happens, and one that
//! reads nothing costs the server nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use compio::runtime::Runtime;
use dmsnap::device::Memory;
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::volume::{SnapshotOptions, View, Volume};
use dmsnap_serve::control::{Control, Controller, OwnerSocket, ServerFacts};
use dmsnap_serve::export::Exports;
use dmsnap_serve::{Merger, NoOpener};
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::PATIENCE;

const CHUNK: usize = 4096;
const CHUNKS: u64 = 4000;

/// A name of the origin that makes a status larger than the buffer of a socket.
const NAME_BYTES: usize = 256 << 10;

/// A control socket of a volume with one snapshot. Nobody calls its clock.
struct Server {
    dir: TempDir,
    /// Chunks of the snapshot to be written; the server ends when this is gone.
    write: Option<UnboundedSender<u64>>,
    written: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = OwnerSocket::bind(&dir.path().join("control")).expect("listens");
        let (write, asked) = unbounded();
        let (done, written) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            Runtime::new().expect("a runtime").block_on(serve(socket, asked, done));
        });
        Self { dir, write: Some(write), written, thread: Some(thread) }
    }

    /// A chunk of the snapshot gets new content: a change.
    fn write(&self, chunk: u64) {
        self.write.as_ref().expect("it serves").unbounded_send(chunk).expect("it serves");
        self.written.recv_timeout(PATIENCE).expect("written");
    }

    fn ask(&self, path: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("control")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        stream
    }

    fn watch(&self) -> Events {
        Events(BufReader::new(self.ask("/v1/events")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.write.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(socket: OwnerSocket, mut asked: UnboundedReceiver<u64>, done: mpsc::Sender<()>) {
    let len = usize::try_from(CHUNKS).expect("small") * CHUNK;
    let cow = Memory::zeroed(2 * len);
    ops::create(&cow, ChunkSize::from_sectors(8).expect("legal"), false).await.expect("a store");
    let volume = Rc::new(Volume::new(Memory::zeroed(len)).expect("a size"));
    let snapshot = volume.open("s", cow, SnapshotOptions::default()).await.expect("opens");
    let merger = Merger::new(volume.clone(), 1 << 20, Box::new(|_, _| {}));
    let origin = "x".repeat(NAME_BYTES);
    let facts = ServerFacts { version: "1".into(), origin, read_only: false };
    let controller = Controller::new(volume.clone(), Exports::new(), merger, NoOpener, facts);
    let view = View::snapshot(&volume, &snapshot);
    let writes = async {
        while let Some(chunk) = asked.next().await {
            let write = dmsnap::device::Device::write(&view, chunk * 4096, vec![7; CHUNK].into());
            write.await.expect("there is room");
            let _ = done.send(());
        }
    };
    Control::start(socket).expect("a thread").serve(&controller, writes).await;
}

/// The exceptions that the statuses tell of, as they come; the end is the server's.
struct Events(BufReader<UnixStream>);

impl Iterator for Events {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("in time") == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                // One that was cut off in the middle of a status gets nothing more.
                let status: Value = serde_json::from_str(data).ok()?;
                return status["snapshots"][0]["exceptions"].as_u64();
            }
        }
    }
}

#[test]
fn a_watcher_hears_of_a_change_without_a_clock() {
    let server = Server::start();
    let mut events = server.watch();
    assert_eq!(events.next(), Some(0), "one at once");
    for chunk in 0..5 {
        server.write(chunk);
        assert!(events.any(|exceptions| exceptions == chunk + 1));
    }
}

#[test]
fn a_watcher_that_reads_nothing_slows_nobody_and_misses_what_happens() {
    let server = Server::start();
    let silent = server.ask("/v1/events");
    let mut events = server.watch();
    assert_eq!(events.next(), Some(0), "one at once");
    let reader = std::thread::spawn(move || {
        let mut told = Vec::new();
        while told.last() != Some(&CHUNKS) {
            told.push(events.next().expect("no end"));
        }
        told
    });
    let (began, before) = (Instant::now(), resident_kib());
    for chunk in 0..CHUNKS {
        server.write(chunk);
        std::thread::sleep(Duration::from_micros(250));
    }
    // A status for each change would be 1000 MiB; other tests of this program take memory, too.
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 256 << 10, "it grew by {grown} KiB");
    // One that reads gets the last, and few of those before, however fast they come.
    let told = reader.join().expect("it was told the last status");
    let most = began.elapsed().as_millis() / 100 + 2;
    assert!(told.is_sorted() && told.len() >= 3, "{told:?}");
    assert!(told.len() as u128 <= most, "{} statuses, more than {most}", told.len());
    // What was sent to the silent one is what its socket had room for: it hears no more than the first and the last.
    let late: Vec<u64> = Events(BufReader::new(silent)).take_while(|it| *it < CHUNKS).collect();
    assert!(late.len() <= 3, "{late:?}");
}

/// Memory of this program.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
