//! `dmsnap serve` with clients that nobody here wrote: nbdinfo, nbdcopy, qemu-io, qemu-img, fio.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

fn cow(place: &Place, name: &str) -> String {
    format!("{name}={}", place.text(name))
}

#[test]
fn origin_and_snapshots_are_devices_of_their_own() {
    let place = Place::new(32, &["a", "b"]);
    let before = place.read("origin");
    let (a, b) = (cow(&place, "a"), cow(&place, "b"));
    let serving = Serving::start(&place, &["--snapshot", &a, "--snapshot", &b]);

    let list = tool("nbdinfo", &["--list", &place.uri("")]);
    for export in ["export=\"origin\"", "export=\"a\"", "export=\"b\""] {
        assert!(list.contains(export), "{list}");
    }
    place.qemu_io("a", &["write -P 1 1M 64k", "write -P 2 5M 512", "write -z 6M 8k", "flush"]);
    place.qemu_io("origin", &["write -P 3 2M 4k", "write -P 4 5M 8k", "discard 9M 4k", "flush"]);
    place.qemu_io("b", &["write -P 5 1M 4k", "flush", "read -P 5 1M 4k"]);

    let mut expected = before.clone();
    let fill = |content: &mut [u8], at: u64, len: u64, byte: u8| {
        let at = usize::try_from(at).expect("small");
        content[at..at + usize::try_from(len).expect("small")].fill(byte);
    };
    fill(&mut expected, MIB, 64 << 10, 1);
    fill(&mut expected, 5 * MIB, 512, 2);
    fill(&mut expected, 6 * MIB, 8 << 10, 0);
    assert!(place.copy_of("a") == expected, "snapshot a");
    let snapshot_a = expected;
    let mut expected = before.clone();
    fill(&mut expected, MIB, 4 << 10, 5);
    assert!(place.copy_of("b") == expected, "snapshot b");
    let snapshot_b = expected;
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &place.uri("b"), &place.text("copy")]);

    // What has changed since the snapshot was made, on its own export and on the origin's.
    let changed = [
        (0, MIB, 0),
        (MIB, 64 << 10, 1),
        (MIB + (64 << 10), MIB - (64 << 10), 0),
        (2 * MIB, 4 << 10, 1),
        (2 * MIB + (4 << 10), 3 * MIB - (4 << 10), 0),
        (5 * MIB, 8 << 10, 1),
        (5 * MIB + (8 << 10), MIB - (8 << 10), 0),
        (6 * MIB, 8 << 10, 1),
        (6 * MIB + (8 << 10), 3 * MIB - (8 << 10), 0),
        (9 * MIB, 4 << 10, 1),
        (9 * MIB + (4 << 10), 23 * MIB - (4 << 10), 0),
    ];
    assert_eq!(place.map("origin", "qemu:dirty-bitmap:a"), changed);
    assert_eq!(place.map("a", "qemu:dirty-bitmap:a"), changed);
    let depth = place.map("a", "qemu:allocation-depth");
    assert!(
        depth
            .iter()
            .zip(changed)
            .all(|(found, (at, len, flag))| { *found == (at, len, if flag == 1 { 1 } else { 2 }) })
    );
    assert_eq!(serving.stop(), "");

    // Every store is sound, and shows offline what was served.
    for (name, snapshot) in [("a", snapshot_a), ("b", snapshot_b)] {
        tool(DMSNAP, &["check", &place.text(name), &place.text("origin")]);
        let out = place.text(&format!("{name}.img"));
        tool(DMSNAP, &["export", &place.text(name), &place.text("origin"), &out]);
        assert!(fs::read(out).expect("readable") == snapshot, "snapshot {name} offline");
    }
}

#[test]
fn usr1_tells_how_everything_is_and_ends_nothing() {
    let place = Place::new(16, &["a", "b"]);
    let (a, b) = (cow(&place, "a"), cow(&place, "b"));
    let filling = Serving::start(&place, &["--snapshot", &a]);
    place.qemu_io("a", &["write -P 7 0 4M", "flush"]);
    filling.stop();

    let merging = ["--merge", "a", "--rate", "64k", "--window", "64k"];
    let args = [&["--snapshot", &a, "--snapshot", &b][..], &merging].concat();
    let mut serving = Serving::start(&place, &args);
    for _ in 0..2 {
        rustix::process::kill_process(serving.pid(), rustix::process::Signal::USR1).expect("sent");
        let lines = [(); 4].map(|()| serving.next_line());
        assert_eq!(lines[0], format!("dmsnap: origin {}: 16 MiB", place.text("origin")));
        for (line, state) in [(&lines[1], "a: merging, "), (&lines[2], "b: active, ")] {
            assert!(line.starts_with(&format!("dmsnap: {state}")), "{lines:?}");
            assert!(line.contains(" % full, ") && line.contains(" of 96 MiB, "), "{lines:?}");
            assert!(line.contains(" exception"), "{lines:?}");
        }
        assert!(lines[3].starts_with("dmsnap: merge of a: running, "), "{lines:?}");
        assert!(lines[3].contains(" of 4 MiB done"), "{lines:?}");
    }
    place.qemu_io("b", &["read 0 64k"]);
    serving.stop();
}

#[test]
fn clients_write_and_verify_while_a_snapshot_merges() {
    let place = Place::new(64, &["s", "other"]);
    let before = place.read("origin");
    let (s, other) = (cow(&place, "s"), cow(&place, "other"));
    let filling = Serving::start(&place, &["--snapshot", &s]);
    place.qemu_io("s", &["write -P 7 0 40M", "flush"]);
    filling.stop();

    let merging = ["--merge", "s", "--rate", "20M", "--window", "1M"];
    let args = [&["--snapshot", &s, "--snapshot", &other][..], &merging].concat();
    let serving = Serving::start(&place, &args);
    // The lower half belongs to the merge and its readers, the upper one to fio.
    let fio = tool(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", place.uri("s")),
            "--rw=randwrite",
            "--bs=4k-32k",
            "--offset=20m",
            "--size=40m",
            "--io_size=60m",
            "--iodepth=32",
            "--fsync=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--output-format=terse",
            "--aux-path=/tmp",
            "--verify_state_save=0",
        ],
    );
    assert!(!fio.is_empty());
    place.qemu_io("origin", &["read -P 7 0 20M"]);
    assert!(place.copy_of("other") == before, "the other snapshot has changed");
    let served = place.copy_of("s");
    assert!(place.copy_of("origin") == served, "origin and merging snapshot are one");
    let said = serving.stop();

    // Here the merge may have ended or not: the rest is merged offline.
    tool(DMSNAP, &["check", &place.text("other"), &place.text("origin")]);
    let left = tool(DMSNAP, &["info", "--json", &place.text("s")]);
    if left.contains("\"exceptions\":0") {
        // It may have been told to stop when nothing was left and that was not yet said.
        assert!(said.contains("s: merged") || said.contains("exceptions left"), "{said}");
    } else {
        assert!(said.contains("exceptions left"), "{said}");
        tool(DMSNAP, &["merge", &place.text("s"), &place.text("origin")]);
    }
    assert!(place.read("origin") == served, "the origin is not what was served");
}

/// Killed again and again under writes: what was flushed is there after the restart, on the origin
/// and on every snapshot, and the snapshots keep what the origin was.
#[test]
fn what_was_flushed_survives_a_killed_server() {
    let place = Place::new(16, &["a", "b"]);
    let (a, b) = (cow(&place, "a"), cow(&place, "b"));
    let args = ["--snapshot", a.as_str(), "--snapshot", b.as_str()];
    let before = place.read("origin");
    let mut expected: Vec<(&str, u64, u8)> = Vec::new();
    for round in 1..=8_u8 {
        let serving = Serving::start(&place, &args);
        for (export, at, byte) in &expected {
            place.qemu_io(export, &[&format!("read -P {byte} {at} 24k")]);
        }
        let at = u64::from(round) * MIB + 512 * u64::from(round);
        for (n, export) in ["origin", "a", "b"].into_iter().enumerate() {
            let byte = round * 3 + u8::try_from(n).expect("small");
            let write = format!("write -P {byte} {at} 24k");
            place.qemu_io(export, &[&write, "flush"]);
            expected.push((export, at, byte));
        }
        // Writes that nobody waits for are under way when it dies.
        let uri = place.uri("a");
        let noise = format!("aio_write -P 250 {}M 1M", 10 + round % 4);
        let mut busy = Command::new("qemu-io")
            .args(["-f", "raw", "-c", &noise, "-c", &noise, "-c", "aio_flush", &uri])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-io");
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 3));
        serving.kill();
        let _ = busy.wait();
        for name in ["a", "b"] {
            tool(DMSNAP, &["check", &place.text(name), &place.text("origin")]);
        }
    }
    let serving = Serving::start(&place, &args);
    for (export, at, byte) in &expected {
        place.qemu_io(export, &[&format!("read -P {byte} {at} 24k")]);
    }
    // Nobody wrote to the first 512 KiB: all three still show it.
    let untouched = |content: &[u8]| content[..512 << 10] == before[..512 << 10];
    assert!(["origin", "a", "b"].iter().all(|export| untouched(&place.copy_of(export))));
    serving.stop();
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let place = Place::new(1, &["a"]);
    let refuse = |args: &[&str], status: i32, words: &str| {
        let mut all = vec!["serve"];
        all.extend(args);
        let done = output(DMSNAP, &all);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        if status == 3 {
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    };
    let nbd = format!("unix:{}", place.text("socket"));
    let (origin, a) = (place.text("origin"), cow(&place, "a"));
    let missing = format!("m={}", place.text("missing"));
    let same = format!("o={origin}");
    let twice = ["--snapshot", &a, "--snapshot", &a];
    refuse(&[&origin, "--nbd", &nbd, "--snapshot", &missing], 3, "missing");
    refuse(&[&origin, "--nbd", &nbd, "--snapshot", &same], 3, "same file");
    refuse(&[&[origin.as_str(), "--nbd", &nbd][..], &twice].concat(), 3, "same file");
    refuse(&[&origin, "--nbd", &nbd, "--merge", "zzz"], 3, "zzz");
    refuse(&[&origin, "--snapshot", "no-equals-sign"], 2, "NAME=COW");
    refuse(&[&origin, "--snapshot", "origin=x"], 2, "origin");
    refuse(&[&origin, "--snapshot", "s=x,on-full=never"], 2, "on-full=never");
    fs::write(place.path("junk"), vec![7; 8192]).expect("written");
    let junk = format!("j={}", place.text("junk"));
    refuse(&[&origin, "--nbd", &nbd, "--snapshot", &junk], 3, "magic");
    // What a merge would refuse, too.
    fs::copy(place.path("a"), place.path("nested")).expect("copied");
    let nested = place.text("nested");
    refuse(&[&nested, "--nbd", &nbd, "--snapshot", &a, "--merge", "a"], 3, "header");
    // A device in use by another server.
    let serving = Serving::start(&place, &["--snapshot", &a]);
    let other = format!("unix:{}", place.text("other-socket"));
    refuse(&[&origin, "--nbd", &other, "--snapshot", &a], 3, "in use");
    assert!(Path::new(&place.path("socket")).exists());
    serving.stop();
    assert!(!Path::new(&place.path("socket")).exists(), "the socket is taken away");
}

/// Evidence: a store with leftovers past its end, which opening for writing would wipe.
#[test]
fn a_read_only_server_writes_neither_device() {
    let place = Place::new(8, &["a"]);
    let a = cow(&place, "a");
    let serving = Serving::start(&place, &["--snapshot", &a]);
    place.qemu_io("a", &["write -P 1 1M 64k", "write -P 2 5M 4k", "flush"]);
    serving.stop();
    let mut store = place.read("a");
    // Slot 200 of area 0, far past the end: origin chunk 9, COW chunk 300.
    let slot = 4096 + 200 * 16;
    store[slot..slot + 16].copy_from_slice(&[9_u64.to_le_bytes(), 300_u64.to_le_bytes()].concat());
    fs::write(place.path("a"), &store).expect("written");
    let out = place.text("out");
    tool(DMSNAP, &["export", &place.text("a"), &place.text("origin"), &out]);
    let origin = place.read("origin");
    for name in ["a", "origin"] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        fs::set_permissions(place.path(name), permissions).expect("read-only");
    }

    let serving = Serving::start(&place, &["--read-only", "--snapshot", &a]);
    assert!(place.copy_of("a") == place.read("out"), "the snapshot as exported");
    assert!(place.copy_of("origin") == origin);
    tool("nbdinfo", &["--is", "read-only", &place.uri("a")]);
    serving.stop();
    assert!(place.read("a") == store, "the COW device has been written");
    assert!(place.read("origin") == origin, "the origin has been written");
}

/// What libnbd can ask for, on an origin that is one hole.
#[test]
fn libnbd_gets_every_command_and_every_context() {
    const ASK: &str = "
import nbd
can = 'fua flush trim zero fast_zero cache df multi_conn'.split()
print([it for it in can if not getattr(h, 'can_' + it)()], h.get_block_size(nbd.SIZE_MAXIMUM))
h.pwrite(b'x' * 65536, 1 << 20, nbd.CMD_FLAG_FUA)
h.pwrite(bytes(range(256)) * (1 << 17), 32 << 20)
h.zero(8192, 2 << 20, nbd.CMD_FLAG_NO_HOLE)
try: h.zero(65536, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
except nbd.Error as error: print(error.errno)
h.trim(1 << 20, 4 << 20)
h.cache(1 << 20, 0)
whole = []
read = h.pread_structured(1 << 20, 1 << 20, lambda it, at, *_: whole.append((at, len(it))), nbd.CMD_FLAG_DF)
print(whole, bytes(read[:65536]) == b'x' * 65536)
print(bytes(h.pread(32 << 20, 32 << 20)) == bytes(range(256)) * (1 << 17))
h.flush()
";
    let place = Place::new(1, &["a"]);
    let origin = fs::File::create(place.path("origin")).expect("made");
    origin.set_len(64 * MIB).expect("made");
    drop(origin);
    let serving = Serving::start(&place, &["--snapshot", &cow(&place, "a")]);
    // The system's own Python has the module; another may come first on the path.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("nbdsh")
        .args(["--uri", &place.uri("a"), "--command", ASK])
        .env("PATH", path)
        .output()
        .expect("nbdsh");
    let said = String::from_utf8_lossy(&done.stdout);
    let expected = "[] 33554432\nENOTSUP\n[(1048576, 1048576)] True\nTrue\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&done.stderr));

    let (hole, data) = (3, 0);
    let written = [(MIB, 64 << 10), (2 * MIB, 8 << 10), (32 * MIB, 32 * MIB)];
    let mut extents = Vec::new();
    let mut end = 0;
    for (at, len) in written {
        extents.extend([(end, at - end, hole), (at, len, data)]);
        end = at + len;
    }
    assert_eq!(place.map("a", "base:allocation"), extents);
    assert_eq!(place.map("origin", "base:allocation"), [(0, 64 * MIB, hole)]);
    let local = |kind| if kind == data { 1 } else { 0 };
    let changed: Vec<_> = extents.iter().map(|(at, len, kind)| (*at, *len, local(*kind))).collect();
    assert_eq!(place.map("a", "qemu:dirty-bitmap:a"), changed);
    assert_eq!(place.map("a", "qemu:allocation-depth"), changed);
    assert_eq!(serving.stop(), "");
}
