//! A volume that is served whole: what was flushed survives the server, whatever becomes of it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use compio::runtime::Runtime;
use dmsnap::device::{Access, Caching, File};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap_nbd::client::{Blocking, BlockingError, ClientOptions};
use tempfile::TempDir;

use crate::common::PATIENCE;

const LEN_BYTES: usize = 1 << 20;
const CHUNK: usize = 4096;

type Connection = Blocking<UnixStream>;

/// The example `serve_snapshot`, with an origin of ones.
struct Example {
    dir: TempDir,
    /// Its end is the end of the server.
    input: Option<ChildStdin>,
    server: Child,
}

impl Example {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("origin"), vec![1; LEN_BYTES]).expect("written");
        Runtime::new().expect("a runtime").block_on(async {
            let (path, len) = (dir.path().join("cow"), 4 * LEN_BYTES as u64);
            let cow = File::create_new(&path, len, Caching::Buffered, Access::default()).await;
            let chunk = ChunkSize::from_sectors(8).expect("legal");
            ops::create(&cow.expect("a new file"), chunk, false).await.expect("a store");
        });
        let (server, input) = spawn(dir.path());
        Self { dir, input, server }
    }

    fn restart(&mut self) {
        self.server.wait().expect("a child");
        (self.server, self.input) = spawn(self.dir.path());
    }

    /// Connects as soon as the server listens.
    fn connect(&self, export: &str) -> Connection {
        let began = Instant::now();
        loop {
            match connect(&self.dir.path().join("socket"), export) {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{export}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn spawn(dir: &Path) -> (Child, Option<ChildStdin>) {
    let path = |name: &str| dir.join(name);
    let server = Command::new(example())
        .args([path("origin"), path("cow"), path("socket")])
        .stdin(Stdio::piped())
        .spawn();
    let mut server = server.expect("examples are built with the tests");
    let input = server.stdin.take();
    (server, input)
}

/// Cargo builds it together with this program: `deps/integration-HASH` and `examples/serve_snapshot`.
fn example() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let target = own.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    target.join("examples/serve_snapshot")
}

fn connect(socket: &Path, export: &str) -> Result<Connection, BlockingError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Blocking::new(stream, ClientOptions { export: export.into(), ..ClientOptions::default() })
}

fn read(client: &mut Connection, chunk: usize) -> Vec<u8> {
    let (at, len) = ((chunk * CHUNK) as u64, u32::try_from(CHUNK).expect("small"));
    client.read(at, len).expect("read")
}

fn write(client: &mut Connection, chunk: usize, byte: u8) -> Result<(), BlockingError> {
    client.write((chunk * CHUNK) as u64, &[byte; CHUNK])
}

#[test]
fn what_was_flushed_survives_a_killed_server() {
    let mut example = Example::start();
    let (mut origin, mut snapshot) = (example.connect("origin"), example.connect("snapshot"));
    write(&mut origin, 3, 7).expect("written");
    write(&mut snapshot, 5, 9).expect("written");
    snapshot.flush().expect("durable");
    origin.flush().expect("durable");
    write(&mut snapshot, 6, 11).expect("written, and not flushed");
    example.server.kill().expect("a child");
    example.restart();

    let (mut origin, mut snapshot) = (example.connect("origin"), example.connect("snapshot"));
    assert_eq!(read(&mut origin, 3), [7; CHUNK]);
    assert_eq!(read(&mut snapshot, 3), [1; CHUNK], "the snapshot has the old data");
    assert_eq!(read(&mut snapshot, 5), [9; CHUNK]);
    assert_eq!(read(&mut origin, 5), [1; CHUNK], "the origin knows nothing of it");
    let last = read(&mut snapshot, 6);
    assert!(last == [1; CHUNK] || last == [11; CHUNK], "all of it, or nothing");
}

#[test]
fn a_server_that_ends_publishes_and_flushes_everything() {
    let mut example = Example::start();
    let mut snapshot = example.connect("snapshot");
    write(&mut snapshot, 5, 9).expect("written, and not flushed");
    drop(example.input.take());
    let ended = example.server.wait().expect("a child");
    assert!(ended.success(), "{ended}");
    assert!(!example.dir.path().join("socket").exists(), "its socket is gone");
    example.restart();
    assert_eq!(read(&mut example.connect("snapshot"), 5), [9; CHUNK]);
}
