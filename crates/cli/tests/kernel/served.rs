use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};

use crate::common::{command, read};
use crate::kernel::guest::{Guest, skipped};
use crate::kernel::pair::{Pair, To, sha256};
use crate::kernel::random::Random;

/// Chunk sizes in bytes, and sectors of the origin: most end in the middle of a chunk.
const STORES: [(u64, u64); 4] =
    [(512, 4099), (4 << 10, 8195), (16 << 10, 8192 + 31), (64 << 10, 16384 + 1)];

/// The longest single write of an NBD client, in sectors.
const LONGEST_SECTORS: u64 = 256;

#[test]
fn a_kernel_goes_on_with_what_was_served_and_it_is_served_again() {
    if skipped() {
        return;
    }
    let mut random = Random::new();
    let mut guest = Guest::new();
    let mut pairs = STORES.map(|(chunk_bytes, origin_sectors)| {
        Pair::create(&format!("v{chunk_bytes}"), chunk_bytes, origin_sectors, None, &mut random)
    });
    let served = pairs.each_mut().map(|pair| {
        write_served(pair, &mut random);
        let told = (copies_served(pair), pair.status());
        go_on(pair, &mut guest, &mut random);
        told
    });
    let said = guest.run();
    for (pair, ([origin, snapshot], status)) in pairs.iter().zip(served) {
        let name = &pair.name;
        assert_eq!(said.get(name, "served-status"), status);
        assert_eq!(said.get(name, "served-snapshot"), snapshot, "{name}: served, then mapped");
        assert_eq!(said.get(name, "served-origin"), origin, "{name}: served, then mapped");
        assert_eq!(said.get(name, "status"), pair.status());
        assert_eq!(said.get(name, "snapshot"), sha256(&pair.snapshot), "{name}: the model");
        let [origin, snapshot] = copies_served(pair);
        assert_eq!(said.get(name, "snapshot"), snapshot, "{name}: mapped, then served");
        assert_eq!(said.get(name, "origin"), origin, "{name}: mapped, then served");
        pair.assert_exported(name);
    }
}

/// Writes to both exports, by a client that nobody here wrote.
fn write_served(pair: &mut Pair, random: &mut Random) {
    let serving = Serving::start(pair);
    let sectors = pair.snapshot.len() as u64 / 512;
    for round in 0..3_u8 {
        for (export, byte) in [("s", 2 * round + 1), ("origin", 2 * round + 2)] {
            let mut writes = Vec::new();
            for _ in 0..4 {
                let first = random.below(sectors);
                let count = (1 + random.below(LONGEST_SECTORS)).min(sectors - first);
                writes.push(format!("write -P {byte} {} {}", first * 512, count * 512));
                let range = index(first * 512)..index((first + count) * 512);
                match export {
                    "s" => pair.snapshot[range].fill(byte),
                    _ => pair.current[range].fill(byte),
                }
            }
            writes.push("flush".into());
            let mut qemu_io = Command::new("qemu-io");
            qemu_io.args(["-f", "raw"]);
            writes.iter().for_each(|write| _ = qemu_io.args(["-c", write]));
            let told = tool(qemu_io.arg(serving.uri(export)));
            assert!(!told.contains("failed"), "{writes:?}: {told}");
        }
    }
    serving.stop();
}

/// Serves a pair, and gives the hashes of the origin and the snapshot as nbdcopy has them, which are
/// those of the model.
fn copies_served(pair: &Pair) -> [String; 2] {
    let serving = Serving::start(pair);
    let copy = pair.path("copy");
    let hashes = [("origin", &pair.current), ("s", &pair.snapshot)].map(|(export, model)| {
        tool(Command::new("nbdcopy").arg(serving.uri(export)).arg(&copy));
        let content = read(&copy);
        fs::remove_file(&copy).expect("the copy is there");
        assert!(content == *model, "{}: {export} is not the model", pair.name);
        sha256(&content)
    });
    serving.stop();
    hashes
}

/// The kernel reads what was served, and writes more.
fn go_on(pair: &mut Pair, guest: &mut Guest, random: &mut Random) {
    let disks = pair.disks(guest);
    let name = pair.name.clone();
    guest.line(format!("map {name} {disks}"));
    guest.line(format!("status {name} served-status"));
    guest.line(format!("content {name} served-snapshot /dev/mapper/{name}"));
    guest.line(format!("content {name} served-origin /dev/mapper/{name}-origin"));
    for _ in 0..2 {
        pair.write(To::Snapshot, 3, guest, random);
        pair.write(To::Origin, 3, guest, random);
    }
    guest.line(format!("content {name} snapshot /dev/mapper/{name}"));
    guest.line(format!("content {name} origin /dev/mapper/{name}-origin"));
    guest.line(format!("status {name} status"));
    guest.line(format!("unmap {name}"));
}

/// A server of a pair; its snapshot is the export `s`. Killed if a test fails meanwhile.
struct Serving {
    child: Child,
    socket: String,
}

impl Serving {
    fn start(pair: &Pair) -> Self {
        let text = |path: &std::path::Path| path.to_str().expect("plain").to_owned();
        let socket = text(&pair.path("socket"));
        let (snapshot, nbd) = (format!("s={}", text(&pair.cow)), format!("unix:{socket}"));
        let mut child =
            command(&["serve", &text(&pair.origin), "--snapshot", &snapshot, "--nbd", &nbd])
                .spawn()
                .expect("the command starts");
        let mut ready = String::new();
        let out = child.stdout.take().expect("piped");
        let serving = Self { child, socket };
        BufReader::new(out).read_line(&mut ready).expect("a line");
        assert!(ready.starts_with("listening on "), "{}: {ready}", pair.name);
        serving
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket)
    }

    /// Ends it as an administrator would.
    #[track_caller]
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a tool of the system, which must be there and succeed.
#[track_caller]
fn tool(line: &mut Command) -> String {
    let done = line.output().unwrap_or_else(|error| panic!("{line:?}: {error}"));
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line:?}: {told}{error}");
    told
}

fn index(byte: u64) -> usize {
    usize::try_from(byte).expect("small")
}
