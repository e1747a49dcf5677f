use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{command, parsed, read};
use crate::kernel::history::model::{How, Shape, Step, Write, index, tag};
use crate::kernel::nbd::Nbd;
use crate::kernel::pair::directory;

/// NBD's number for a device without room.
const NO_SPACE: u32 = 28;

/// An origin with snapshots, served by `dmsnap serve` to clients.
pub(crate) struct Served {
    dir: TempDir,
    snapshots: BTreeMap<u32, Shape>,
    /// Served from a table in the kernel's words, not from options.
    by_table: bool,
    server: Option<Server>,
}

struct Server {
    child: Child,
    clients: HashMap<String, Nbd>,
}

impl Served {
    /// Serves an origin with this content.
    pub(crate) fn new(origin: &[u8], by_table: bool) -> Self {
        let dir = directory();
        fs::write(dir.path().join("origin"), origin).expect("the origin can be written");
        let mut served = Self { dir, snapshots: BTreeMap::new(), by_table, server: None };
        served.start(None);
        served
    }

    /// Does a step, except [`Step::Add`]. False if the request fails.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Add { .. } => unreachable!("needs the bytes of a store"),
            Step::Remove { id } => self.again(|this| this.forget(id)),
            Step::WriteOrigin(write) => return self.write("origin", write),
            Step::WriteSnapshot { id, write } => return self.write(&format!("s{id}"), write),
            Step::Discard { id, at, count } => {
                let Some(client) = self.client(&format!("s{id}")) else { return false };
                let trimmed = client.trim(at * 512, bytes(count)).is_ok();
                return trimmed && client.flush().is_ok();
            }
            Step::Reopen => self.again(|_| ()),
            Step::Grow { id, cow } => {
                self.snapshots.get_mut(&id).expect("known").cow = cow;
                let file = File::options().write(true).open(self.cow(id)).expect("it is there");
                file.set_len(cow * 512).expect("it can grow");
            }
            Step::Merge { id, how, ref meanwhile } => self.merge(id, how, meanwhile),
        }
        true
    }

    /// Takes a snapshot of this moment, on a store with these bytes.
    pub(crate) fn add(&mut self, id: u32, shape: Shape, store: &[u8]) {
        fs::write(self.cow(id), store).expect("the store can be written");
        self.again(|this| _ = this.snapshots.insert(id, shape));
    }

    pub(crate) fn cow(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("cow{id}"))
    }

    fn origin(&self) -> PathBuf {
        self.dir.path().join("origin")
    }

    fn forget(&mut self, id: u32) {
        fs::remove_file(self.cow(id)).expect("it is there");
        self.snapshots.remove(&id);
    }

    /// Ends the server in an orderly way, and starts another one.
    fn again(&mut self, between: impl FnOnce(&mut Self)) {
        self.stop();
        between(self);
        self.start(None);
    }

    fn start(&mut self, merge: Option<u32>) {
        let text = |path: PathBuf| path.to_str().expect("plain").to_owned();
        let mut args = vec!["serve".to_owned(), text(self.origin())];
        args.push(format!("--nbd=unix:{}", text(self.socket())));
        if self.by_table {
            fs::write(self.dir.path().join("table"), self.table(merge)).expect("written");
            args.push(format!("--table={}", text(self.dir.path().join("table"))));
        } else {
            for (id, shape) in self.valid() {
                let features = if shape.zeroes { ",discard-zeroes" } else { "" };
                args.push(format!("--snapshot=s{id}={}{features}", text(self.cow(*id))));
            }
            args.extend(merge.map(|id| format!("--merge=s{id}")));
        }
        // Several windows, even of so little.
        args.extend(merge.map(|_| "--window=64k".to_owned()));
        let told = File::create(self.dir.path().join("told")).expect("a file can be made");
        let child = command(&args).stderr(told).spawn().expect("the command starts");
        let server = Server { child, clients: HashMap::new() };
        self.server.replace(server);
        self.wait_for("a client", |this| Nbd::connect(&this.socket(), "origin").is_ok());
    }

    /// Snapshots that can be served: a store that was dropped is refused.
    fn valid(&self) -> impl Iterator<Item = (&u32, &Shape)> {
        self.snapshots.iter().filter(|(id, _)| self.status_on_disk(**id) != "Invalid")
    }

    /// Lines as `dmsetup table` prints them.
    fn table(&self, merge: Option<u32>) -> String {
        let origin = self.origin();
        let origin = origin.display();
        let sectors = fs::metadata(self.origin()).expect("it is there").len() / 512;
        let lines = self.valid().map(|(id, shape)| {
            let target = if merge == Some(*id) { "snapshot-merge" } else { "snapshot" };
            let store = if shape.po { "PO" } else { "P" };
            let features = if shape.zeroes { " 1 discard_zeroes_cow" } else { "" };
            let (cow, chunk) = (self.cow(*id), shape.chunk);
            let cow = cow.display();
            format!("s{id}: 0 {sectors} {target} {origin} {cow} {store} {chunk}{features}\n")
        });
        format!("o: 0 {sectors} snapshot-origin {origin}\n") + &lines.collect::<String>()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn wait_for(&self, what: &str, mut ready: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !ready(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what}: {}", self.told());
            sleep(Duration::from_millis(2));
        }
    }

    /// What the server said on stderr.
    fn told(&self) -> String {
        fs::read_to_string(self.dir.path().join("told")).expect("text")
    }

    fn stop(&mut self) {
        let mut server = self.server.take().expect("it runs");
        kill_process(Pid::from_child(&server.child), Signal::TERM).expect("signalled");
        let status = server.child.wait().expect("ended");
        // A client that flushes a snapshot that was dropped has lost something.
        let dropped = self.valid().count() < self.snapshots.len();
        let dropped = dropped && self.told().contains("not all durable");
        assert!(status.success() || dropped, "{status}: {}", self.told());
    }

    /// A client of an export; `None` if there is no such export.
    fn client(&mut self, export: &str) -> Option<&mut Nbd> {
        let socket = self.socket();
        let clients = &mut self.server.as_mut().expect("it runs").clients;
        if !clients.contains_key(export) {
            clients.insert(export.into(), Nbd::connect(&socket, export).ok()?);
        }
        clients.get_mut(export)
    }

    /// A write, then a flush: what the kernel has acknowledged is durable.
    fn write(&mut self, export: &str, write: Write) -> bool {
        let Some(client) = self.client(export) else { return false };
        let written = match write.number {
            0 => client.write_zeroes(write.at * 512, bytes(write.count)),
            _ => client.write(write.at * 512, &content(write)),
        };
        // Of one without room a first part is there.
        if matches!(written, Ok(()) | Err(NO_SPACE)) {
            client.flush().unwrap_or_else(|refused| panic!("{export}: flush: {refused}"));
        }
        written.is_ok()
    }

    fn merge(&mut self, id: u32, how: How, meanwhile: &[Write]) {
        self.stop();
        let alone = self.snapshots.len() == 1 && meanwhile.is_empty();
        if alone && matches!(how, How::Handover) {
            dmsnap!("merge", self.cow(id), self.origin(), "--window", "64k").ok();
        } else {
            self.start(Some(id));
            for (n, write) in meanwhile.iter().enumerate() {
                let export = if n % 2 == 0 { "origin".into() } else { format!("s{id}") };
                assert!(self.write(&export, *write), "a write during a merge fails");
            }
            self.wait_for("end of the merge", |this| this.told().contains(": merged\n"));
            self.stop();
        }
        let left = self.info(id);
        assert_eq!(left["exceptions"], 0, "{left}");
        self.forget(id);
        self.start(None);
    }

    /// The content of the origin or of a snapshot; `None` if it cannot be read.
    pub(crate) fn content(&mut self, id: Option<u32>, sectors: u64) -> Option<Vec<u8>> {
        let export = id.map_or("origin".into(), |id| format!("s{id}"));
        self.client(&export)?.read(0, bytes(sectors)).ok()
    }

    fn info(&self, id: u32) -> serde_json::Value {
        parsed(&dmsnap!("info", self.cow(id), "--json").ok())
    }

    /// The words of the status line, as the bytes of the store say it.
    pub(crate) fn status_on_disk(&self, id: u32) -> String {
        self.info(id)["status"].as_str().expect("text").to_owned()
    }

    /// Ends the server. Gives the origin and the stores as they are on disk.
    pub(crate) fn end(mut self) -> (Vec<u8>, BTreeMap<u32, Vec<u8>>) {
        self.stop();
        let stores = self.snapshots.keys().map(|id| (*id, read(&self.cow(*id)))).collect();
        (read(&self.origin()), stores)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bytes(sectors: u64) -> u32 {
    u32::try_from(sectors * 512).expect("small")
}

/// The bytes of a write.
pub(crate) fn content(write: Write) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(index(write.count * 512));
    for sector in write.range() {
        bytes.extend(tag(write.number, sector).to_le_bytes().repeat(64));
    }
    bytes
}
