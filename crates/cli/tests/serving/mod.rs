//! Servers under test, and their clients.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const DMSNAP: &str = env!("CARGO_BIN_EXE_dmsnap");
pub(crate) const MIB: u64 = 1 << 20;

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a program, which must be there and succeed.
pub(crate) fn tool(name: &str, args: &[&str]) -> String {
    let done = output(name, args);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{name} {args:?}: {}\n{out}{err}", done.status);
    out.into_owned()
}

pub(crate) fn output(name: &str, args: &[&str]) -> Output {
    Command::new(name)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; ./check installs what tests need"))
}

pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    /// An origin of `mib` MiB whose sectors differ, and stores for it.
    pub(crate) fn new(mib: u64, cows: &[&str]) -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a directory") };
        let sectors = 0..mib * MIB / 512;
        let content: Vec<u8> = sectors.flat_map(|n| n.to_le_bytes().repeat(64)).collect();
        fs::write(place.path("origin"), content).expect("written");
        for cow in cows {
            tool(DMSNAP, &["create", "--size", "96M", &place.text(cow)]);
        }
        place
    }

    /// For an origin that lies elsewhere.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("plain").to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("readable")
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.text("socket"))
    }

    /// The content of an export, by nbdcopy.
    pub(crate) fn copy_of(&self, export: &str) -> Vec<u8> {
        let _ = fs::remove_file(self.path("copy"));
        tool("nbdcopy", &[&self.uri(export), &self.text("copy")]);
        self.read("copy")
    }

    pub(crate) fn qemu_io(&self, export: &str, commands: &[&str]) {
        let uri = self.uri(export);
        let mut args = vec!["-f", "raw"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(&uri);
        let told = tool("qemu-io", &args);
        assert!(!told.contains("failed"), "{commands:?}: {told}");
    }

    pub(crate) fn map(&self, export: &str, context: &str) -> Vec<(u64, u64, u64)> {
        let map = format!("--map={context}");
        let json = tool("nbdinfo", &["--json", &map, &self.uri(export)]);
        let extents: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
        let number = |it: &serde_json::Value, name| it[name].as_u64().expect("a number");
        extents
            .iter()
            .map(|it| (number(it, "offset"), number(it, "length"), number(it, "type")))
            .collect()
    }
}

/// A server, which is killed if a test forgets it.
pub(crate) struct Serving(Child);

impl Serving {
    pub(crate) fn start(place: &Place, args: &[&str]) -> Self {
        Self::exactly(place, &[&[place.text("origin").as_str()], args].concat())
    }

    /// With these arguments only, but for where it listens.
    pub(crate) fn exactly(place: &Place, args: &[&str]) -> Self {
        let nbd = format!("unix:{}", place.text("socket"));
        let mut child = Command::new(DMSNAP)
            .args(["serve", "--nbd", &nbd])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut ready = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut ready).expect("a line");
        if !ready.starts_with("listening on nbd") {
            let ended = child.wait_with_output().expect("ended");
            panic!("{args:?}: {ready}{}", String::from_utf8_lossy(&ended.stderr));
        }
        Self(child)
    }

    /// Ends it as an administrator would. Returns what it said on stderr.
    pub(crate) fn stop(self) -> String {
        let (status, said) = self.end();
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// Waits for it to end without being told to here.
    pub(crate) fn stop_by_itself(mut self) {
        let status = self.0.wait().expect("ended");
        assert!(status.success(), "{status}");
    }

    /// The same, however it ends; but it has to, and soon.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM)
            .expect("signalled");
        let began = Instant::now();
        let status = loop {
            match self.0.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(began.elapsed() < PATIENCE, "the server does not end"),
            }
            sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        let mut err = self.0.stderr.take().expect("piped");
        std::io::Read::read_to_string(&mut err, &mut said).expect("text");
        (status, said)
    }

    /// The next line it says on stderr; nothing once it has ended.
    pub(crate) fn next_line(&mut self) -> String {
        let err = self.0.stderr.as_mut().expect("piped");
        let bytes = std::io::Read::bytes(err).map(|byte| byte.expect("readable"));
        let line: Vec<u8> = bytes.take_while(|byte| *byte != b'\n').collect();
        String::from_utf8(line).expect("text")
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
