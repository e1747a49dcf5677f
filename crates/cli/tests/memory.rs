//! The memory of `dmsnap serve` is bounded whatever clients do, and given back when they are gone.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::controlled::{ctl, ctl_json};
use crate::serving::{DMSNAP, Place, Serving, tool};

const MIB: u64 = 1 << 20;

/// A line of the server's status that is in KiB, in MiB.
fn mib(serving: &Serving, name: &str) -> u64 {
    let status = format!("/proc/{}/status", serving.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    let kib = line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

fn rss(serving: &Serving) -> u64 {
    mib(serving, "VmRSS:")
}

fn most(serving: &Serving) -> u64 {
    mib(serving, "VmHWM:")
}

/// A sparse origin, and a store with chunks of this size.
fn place(origin_mib: u64, cow: &str, chunk: &str) -> Place {
    let place = Place::empty();
    let origin = File::create(place.path("origin")).expect("made");
    origin.set_len(origin_mib * MIB).expect("sparse");
    let args = ["create", "--size", cow, "--chunk-size", chunk, &place.text("s")];
    tool(DMSNAP, &args);
    place
}

fn snapshot(place: &Place) -> String {
    format!("--snapshot=s={}", place.text("s"))
}

fn nbdsh(place: &Place, export: &str, script: &str) -> String {
    // The system's own Python has the module; another may come first on the path.
    let path = format!("PATH=/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let uri = place.uri(export);
    tool("env", &[&path, "timeout", "120", "nbdsh", "--uri", &uri, "-c", script])
}

#[test]
fn small_writes_into_large_chunks_take_no_large_memory() {
    let place = place(2048, "3G", "64M");
    let serving = Serving::start(&place, &[&snapshot(&place), "--memory", "128M"]);
    let before = rss(&serving);
    let script = "
left = [h.aio_pwrite(b'x' * 4096, i * (64 << 20)) for i in range(32)]
while left:
    h.poll(-1)
    left = [c for c in left if not h.aio_command_completed(c)]
assert h.pread(4096, 64 << 20) == b'x' * 4096
assert h.pread(4096, (64 << 20) + 4096) == bytes(4096)";
    nbdsh(&place, "s", script);
    let grown = most(&serving) - before;
    assert!(grown < 128, "it grew by {grown} MiB");
    // To the origin, whose old data is kept.
    let script = "
left = [h.aio_pwrite(b'y' * 4096, i * (64 << 20) + (32 << 20)) for i in range(4)]
while left:
    h.poll(-1)
    left = [c for c in left if not h.aio_command_completed(c)]
h.flush()";
    nbdsh(&place, "origin", script);
    let grown = most(&serving) - before;
    assert!(grown < 128, "it grew by {grown} MiB");
    serving.stop();
}

#[test]
fn a_merge_takes_no_window_that_is_too_large() {
    let place = place(512, "600M", "64k");
    let control = crate::controlled::control(&place);
    let args = [&snapshot(&place), "--memory", "128M", "--control", &control];
    let serving = Serving::start(&place, &args);
    nbdsh(
        &place,
        "s",
        "
for i in range(0, 400 << 20, 4 << 20):
    h.pwrite(b'x' * (4 << 20), i)
h.flush()",
    );
    let before = rss(&serving);
    let merge = ctl_json(&place, &["merge", "start", "s", "--window", "1T", "--wait"]);
    assert_eq!(merge["window_bytes"], 8 * MIB, "{merge}");
    let grown = most(&serving).saturating_sub(before);
    assert!(grown < 128, "it grew by {grown} MiB");
    let told = ctl(&place, &["status"]);
    assert!(told.contains("merged") && !told.contains("merging"), "{told}");
    assert!(ctl(&place, &["status", "--dmsetup"]).contains("snapshot-merge"));
    serving.stop();
}

#[test]
fn what_clients_have_used_is_given_back_when_they_are_gone() {
    let place = place(512, "16M", "4k");
    let serving = Serving::start(&place, &[&snapshot(&place), "--memory", "1G"]);
    let before = rss(&serving);
    let script = "
for size in list(range(1 << 20, 32 << 20, 1 << 20)) + [32 << 20]:
    left = [h.aio_pread(nbd.Buffer(size), 0) for i in range(4)]
    while left:
        h.poll(-1)
        left = [c for c in left if not h.aio_command_completed(c)]";
    nbdsh(&place, "s", script);
    let began = Instant::now();
    loop {
        let left = rss(&serving).saturating_sub(before);
        if left < 16 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{left} MiB are kept");
        sleep(Duration::from_millis(200));
    }
    serving.stop();
}
