//! `dmsnap serve --control` and `dmsnap ctl`: a server that is looked at and changed while clients
//! that nobody here wrote use it.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::controlled::{
    Events, SECOND, control, ctl, ctl_json, http, raw, refused, start, wait_until,
};
use crate::serving::{DMSNAP, MIB, Place, output, tool};
use serde_json::{Value, json};

#[test]
fn snapshots_come_and_go_under_clients() {
    let place = Place::new(16, &["a"]);
    let before = place.read("origin");
    let a = format!("a={}", place.text("a"));
    let serving = start(&place, &["--snapshot", &a]);
    let mode = fs::metadata(place.path("control")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A client that goes on through all of it.
    let noise = format!("aio_write -P 9 8M {MIB}");
    let mut busy = Command::new("qemu-io")
        .args(["-f", "raw", &place.uri("origin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io");
    let mut orders = busy.stdin.take().expect("piped");
    let mut more = || writeln!(orders, "{noise}\naio_flush").expect("it listens");

    more();
    let made = format!("b={},on-full=fail", place.text("b"));
    let told = ctl(&place, &["snapshot", "create", &made, "--make", "--size", "32M"]);
    assert!(told.starts_with("b: ") && told.ends_with(" 0 exceptions\n"), "{told}");
    let shown = place.copy_of("b");
    place.qemu_io("b", &["write -P 5 1M 64k", "flush", "read -P 5 1M 64k"]);
    more();
    place.qemu_io("origin", &["write -P 6 4M 1M", "flush"]);
    let mut expected = shown;
    expected[usize::try_from(MIB).expect("small")..][..64 << 10].fill(5);
    assert!(place.copy_of("b") == expected, "b is of its moment");
    assert!(place.copy_of("a") == before, "a is of the beginning");

    let status = ctl_json(&place, &["status"]);
    let b = &status["snapshots"][1];
    assert_eq!(
        (&b["name"], &b["on_full"], &b["state"]),
        (&json!("b"), &json!("fail"), &json!("active"))
    );
    assert_eq!(b["cow"], json!(place.text("b")));
    assert_eq!(status["exports"].as_array().map(Vec::len), Some(3));

    // A client of `b` is sent away when it goes.
    let mut reader = Command::new("qemu-io")
        .args(["-r", "-f", "raw", &place.uri("b")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-io");
    wait_until("a client of b", || {
        ctl_json(&place, &["status"])["exports"][2]["connections"] == json!(1)
    });
    assert_eq!(ctl(&place, &["snapshot", "remove", "b"]), "");
    let list = tool("nbdinfo", &["--list", &place.uri("")]);
    assert!(!list.contains("export=\"b\""), "{list}");
    let _ = reader.kill();
    let _ = reader.wait();
    refused(&place, &["snapshot", "remove", "b"], "no snapshot is named b");
    more();

    // Its store is whole, and can be served again under another name.
    tool(DMSNAP, &["check", &place.text("b"), &place.text("origin")]);
    ctl(&place, &["snapshot", "create", &format!("again={}", place.text("b"))]);
    place.qemu_io("again", &["read -P 5 1M 64k"]);
    drop(orders);
    assert!(busy.wait().expect("ended").success());
    assert_eq!(serving.stop(), "");
    assert!(!place.path("control").exists(), "the socket is taken away");
}

#[test]
fn sizes_that_are_less_than_there_is_are_refused() {
    let place = Place::new(1, &["s", "late"]);
    let s = format!("--snapshot=s={}", place.text("s"));
    let serving = start(&place, &[&s]);
    let had = fs::metadata(place.path("s")).expect("there").len();
    refused(
        &place,
        &["grow", "s", "1M"],
        "s: its COW device has 100663296 bytes, and 1048576 are less",
    );
    ctl(&place, &["grow", "s", "96M"]);
    assert_eq!(fs::metadata(place.path("s")).expect("there").len(), had);
    let late = format!("late={},max-size=1M", place.text("late"));
    refused(
        &place,
        &["snapshot", "create", &late],
        "100663296 bytes already, and max-size=1048576",
    );
    serving.stop();
    let args = ["serve", &place.text("origin"), "--nbd", &format!("unix:{}", place.text("socket"))];
    let done = output(DMSNAP, &[&args[..], &[&format!("{s},max-size=95M")]].concat());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(3) && said.contains("max-size=99614720 is less"), "{said}");
}

#[test]
fn the_control_socket_may_be_named_anywhere_and_must_be_named() {
    let place = Place::new(1, &[]);
    let serving = start(&place, &[]);
    let control = control(&place);
    for args in [["ctl", "--control", &control, "status"], ["ctl", "status", "--control", &control]]
    {
        assert!(tool(DMSNAP, &args).starts_with("origin "), "{args:?}");
    }
    serving.stop();
    let done = output(DMSNAP, &["ctl", "status"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("--control unix:PATH is not given"), "{said}");
    assert!(said.contains("Usage: dmsnap ctl "), "{said}");
}

/// What `promtool check metrics` asks for, by the tool where it is there and by its main rules in any case.
#[test]
fn metrics_are_as_prometheus_wants_them() {
    let place = Place::new(1, &["s"]);
    let serving = start(&place, &[&format!("--snapshot=s={}", place.text("s"))]);
    place.qemu_io("s", &["write 0 64k", "flush"]);
    ctl(&place, &["merge", "start", "s", "--wait"]);
    let (status, text) = http(&place, "GET", "/metrics", "");
    assert_eq!(status, 200);
    let mut told: Vec<(&str, &str)> = Vec::new();
    let mut samples = HashSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, _] => {
                assert!(told.iter().all(|(it, _)| *it != name), "{name} twice");
            }
            ["#", "TYPE", name, kind] => {
                assert!(text.contains(&format!("# HELP {name} ")), "no help: {name}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                told.push((name, kind));
            }
            ["#", ..] => panic!("{line}"),
            _ => {
                let (sample, _) = line.rsplit_once(' ').expect("a value");
                assert!(samples.insert(sample), "twice: {sample}");
                let (family, kind) = told.last().expect("a type first");
                let name = sample.split('{').next().expect("a name");
                let rest = name.strip_prefix(family).unwrap_or("other");
                let known = match *kind {
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&rest),
                    _ => rest.is_empty(),
                };
                assert!(known, "{name} after {family}");
            }
        }
    }
    assert!(told.len() > 20, "{text}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Ok(mut child) = promtool.stderr(Stdio::piped()).spawn() {
        let mut to = child.stdin.take().expect("piped");
        Write::write_all(&mut to, text.as_bytes()).expect("written");
        drop(to);
        let done = child.wait_with_output().expect("ended");
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    }
    let asked = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n";
    let open = raw(&place, asked.as_bytes());
    assert!(open.contains("# TYPE dmsnap_requests counter") && open.contains("# EOF"), "{open}");
    serving.stop();
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let place = Place::new(4, &["a", "t"]);
    let (a, t) = (format!("a={}", place.text("a")), format!("t={},transient=4k", place.text("t")));
    let serving = start(&place, &["--snapshot", &a, "--snapshot", &t]);
    let create =
        |snapshot: &str, words: &str| refused(&place, &["snapshot", "create", snapshot], words);
    create(&format!("a={}", place.text("b")), "the name is in use");
    create(&format!("b={}", place.text("b")), "check the name");
    create(&format!("b={}", place.text("a")), "the same file or device as the COW device of a");
    create(&format!("b={}", place.text("origin")), "the same file or device as the origin");
    fs::write(place.path("junk"), vec![7; 8192]).expect("written");
    create(&format!("b={}", place.text("junk")), "magic");
    let junk = format!("b={}", place.text("junk"));
    refused(&place, &["snapshot", "create", &junk, "--make"], "there is data at byte 0");
    assert!(place.read("junk") == vec![7; 8192]);
    let short = format!("b={}", place.text("short"));
    refused(&place, &["snapshot", "create", &short, "--make", "--size", "4k"], "");
    assert!(!place.path("short").exists(), "what was made for nothing is removed");
    refused(&place, &["merge", "start", "t"], "transient");
    refused(&place, &["merge", "start", "zzz"], "no snapshot is named zzz");
    for verb in ["pause", "resume", "cancel"] {
        refused(&place, &["merge", verb], "no merge");
    }
    refused(&place, &["merge", "rate", "1M"], "no merge");
    refused(&place, &["flush", "zzz"], "no snapshot is named zzz");
    refused(&place, &["grow", "zzz", "1G"], "no snapshot is named zzz");
    let elsewhere = format!("unix:{}", place.text("nowhere"));
    let nobody = output(DMSNAP, &["ctl", "--control", &elsewhere, "status"]);
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert!(nobody.status.code() == Some(3) && said.contains("is a server running"), "{said}");
    let names: Vec<_> = ctl_json(&place, &["status"])["snapshots"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, [json!("a"), json!("t")]);
    // Somebody who was killed leaves a socket; one that lives keeps it.
    let second = output(
        DMSNAP,
        &["serve", &place.text("junk"), "--nbd", "127.0.0.1:0", "--control", &control(&place)],
    );
    assert!(String::from_utf8_lossy(&second.stderr).contains("already exists"), "{second:?}");
    serving.kill();
    assert!(place.path("control").exists());
    let _ = fs::remove_file(place.path("socket"));
    let serving = start(&place, &["--snapshot", &a]);
    ctl(&place, &["status"]);
    serving.stop();
}

/// What people see, and what programs that know `dmsetup status` see: the same text as the store's own,
/// which is compared with a kernel's elsewhere.
#[test]
fn the_status_is_shown_in_tables_and_as_dmsetup_prints_it() {
    let place = Place::new(8, &["a", "b"]);
    let spec = |name: &str| format!("{name}={}", place.text(name));
    let serving = start(&place, &["--snapshot", &spec("a"), "--snapshot", &spec("b")]);
    place.qemu_io("a", &["write -P 7 0 2M", "flush"]);
    place.qemu_io("b", &["write -P 7 0 4k", "flush"]);
    let of_info = |name: &str| {
        let info = tool(DMSNAP, &["info", "--json", &place.text(name)]);
        let info: Value = serde_json::from_str(&info).expect("JSON");
        info["status"].as_str().expect("text").to_owned()
    };
    let dmsetup = || ctl(&place, &["status", "--dmsetup"]);
    let (a, b) = (of_info("a"), of_info("b"));
    let plain = "origin: 0 16384 snapshot-origin \n";
    assert_eq!(dmsetup(), format!("{plain}a: 0 16384 snapshot {a}\nb: 0 16384 snapshot {b}\n"));
    assert_eq!(b, "24/196608 16");

    let shown = ctl(&place, &["status"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with(&format!("origin {}: 8 MiB, served for ", place.text("origin"))));
    let column = |name: &str| lines[2].find(name).expect("a head");
    let cell =
        |line: &str, name: &str| line[column(name)..].split("  ").next().expect("text").to_owned();
    for (head, a, b) in [
        ("SNAPSHOT", "a", "b"),
        ("STATE", "active", "active"),
        ("SIZE", "96 MiB", "96 MiB"),
        ("EXCEPTIONS", "512", "1"),
        ("CHUNK", "4 KiB", "4 KiB"),
        ("COW", &place.text("a"), &place.text("b")),
    ] {
        assert_eq!((cell(lines[3], head), cell(lines[4], head)), (a.into(), b.into()), "{shown}");
    }
    assert_eq!(lines[6], "EXPORT  CLIENTS  REQUESTS  ERRORS  READ  WRITTEN", "{shown}");
    assert!(lines[8].starts_with("a ") && lines[8].ends_with(" 2 MiB"), "{shown}");

    ctl(&place, &["merge", "start", "a", "--wait"]);
    ctl(&place, &["snapshot", "invalidate", "b"]);
    let merged = "a: 0 16384 snapshot-merge 16/196608 16\nb: 0 16384 snapshot Invalid\n";
    assert_eq!(dmsetup(), format!("{plain}{merged}"));
    assert!(ctl(&place, &["status"]).contains("merge of a: finished, 2 MiB of 2 MiB done"));
    serving.stop();
}

/// A server that writes nothing lets nothing be changed, but for what is served.
#[test]
fn a_read_only_server_stays_so() {
    let place = Place::new(4, &["a", "b"]);
    let (a, b) = (format!("a={}", place.text("a")), format!("b={}", place.text("b")));
    let before = (place.read("origin"), place.read("a"), place.read("b"));
    let serving = start(&place, &["--read-only", "--snapshot", &a]);
    ctl(&place, &["snapshot", "create", &b]);
    assert!(place.copy_of("b") == before.0);
    for args in
        [&["merge", "start", "a"][..], &["snapshot", "invalidate", "a"], &["grow", "a", "1G"]]
    {
        refused(&place, args, "--read-only");
    }
    let c = format!("c={}", place.text("c"));
    refused(&place, &["snapshot", "create", &c, "--make", "--size", "1M"], "--read-only");
    ctl(&place, &["flush"]);
    ctl(&place, &["snapshot", "remove", "a"]);
    serving.stop();
    assert!(!place.path("c").exists());
    assert!((place.read("origin"), place.read("a"), place.read("b")) == before);
}

/// A busy client of a merging snapshot, which writes and verifies until it is told to end.
fn fio(place: &Place, seconds: u32) -> Child {
    Command::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k-32k", "--offset=16m"])
        .args(["--size=16m", "--iodepth=16", "--fsync=32", "--verify=crc32c", "--verify_fatal=1"])
        .args(["--time_based", "--verify_backlog=64", "--output-format=terse", "--aux-path=/tmp"])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--uri={}", place.uri("s")))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio")
}

#[test]
fn a_merge_is_driven_from_outside_under_load() {
    let place = Place::new(32, &["s"]);
    let s = format!("s={}", place.text("s"));
    let serving = start(&place, &["--snapshot", &s]);
    place.qemu_io("s", &["write -P 7 0 24M", "flush"]);
    let load = fio(&place, 6);
    let merge = |args: &[&str]| ctl_json(&place, &[&["merge"], args].concat());
    let left = |merge: &Value| merge["exceptions_left"].as_u64().expect("a number");

    let started = merge(&["start", "s", "--rate", "2M", "--window", "512k"]);
    assert_eq!(started["state"], json!("running"));
    assert_eq!(started["rate_bytes_per_second"], json!(2 * MIB));
    refused(&place, &["merge", "start", "s"], "s is merging");
    refused(&place, &["snapshot", "remove", "s"], "cancel the merge first");
    refused(&place, &["snapshot", "invalidate", "s"], "cancel the merge first");
    let late = format!("late={}", place.text("late"));
    refused(&place, &["snapshot", "create", &late, "--make", "--size", "9M"], "s is merging");
    assert!(!place.path("late").exists());
    wait_until("some windows", || {
        let status = ctl_json(&place, &["status"]);
        left(&status["merge"]) < left(&started)
    });
    merge(&["pause"]);
    wait_until("a pause", || ctl_json(&place, &["status"])["merge"]["state"] == json!("paused"));
    let paused = left(&ctl_json(&place, &["status"])["merge"]);
    std::thread::sleep(SECOND / 2);
    assert_eq!(left(&ctl_json(&place, &["status"])["merge"]), paused, "nothing moves");
    let lines = ctl(&place, &["status", "--dmsetup"]);
    assert!(lines.contains("\ns: 0 65536 snapshot-merge "), "{lines}");

    // Given up, it is a plain snapshot; then it is merged again, from where it was.
    merge(&["resume"]);
    let plain = ctl_json(&place, &["merge", "cancel"]);
    assert_eq!((&plain["merging"], &plain["state"]), (&json!(false), &json!("active")));
    assert_eq!(ctl_json(&place, &["status"])["merge"], Value::Null);
    place.qemu_io("s", &["write -P 8 2M 64k", "flush"]);
    merge(&["start", "s", "--rate", "1M"]);
    let faster = merge(&["rate", "none", "--window", "4M"]);
    assert_eq!(
        (&faster["rate_bytes_per_second"], &faster["window_bytes"]),
        (&Value::Null, &json!(4 * MIB))
    );
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == json!("finished"));
    let done = load.wait_with_output().expect("fio ended");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    // One device under two names, until the snapshot is taken out.
    place.qemu_io("s", &["read -P 8 2M 64k", "read -P 7 4M 8M", "write -P 3 1M 64k", "flush"]);
    place.qemu_io("origin", &["read -P 3 1M 64k", "read -P 8 2M 64k"]);
    let shown = place.copy_of("s");
    assert!(place.copy_of("origin") == shown);
    ctl(&place, &["snapshot", "remove", "s"]);
    let said = serving.stop();
    assert_eq!(said, "dmsnap: s: merged\n");
    assert!(place.read("origin") == shown, "what was served is what is there");
}

#[test]
fn whoever_waits_for_a_merge_hears_how_it_ends() {
    let place = Place::new(16, &["s"]);
    let s = format!("s={}", place.text("s"));
    let serving = start(&place, &["--snapshot", &s]);
    place.qemu_io("s", &["write -P 7 0 8M", "flush"]);
    let waiting = Command::new(DMSNAP)
        .args(["ctl", "--control", &control(&place), "merge", "start", "s"])
        .args(["--rate", "1M", "--wait", "--progress"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    std::thread::sleep(SECOND * 3 / 2);
    ctl(&place, &["merge", "pause"]);
    let ended = waiting.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains(" of 8 MiB done") && said.contains("s: the merge was paused"), "{said}");
    ctl(&place, &["merge", "rate", "none"]);
    ctl(&place, &["merge", "resume"]);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == json!("finished"));
    ctl(&place, &["snapshot", "remove", "s"]);
    ctl(&place, &["snapshot", "create", &s]);
    place.qemu_io("s", &["write -P 6 0 4M", "flush"]);
    let told = ctl(&place, &["merge", "start", "s", "--wait"]);
    assert!(told.starts_with("merge of s: finished, 4 MiB of 4 MiB done"), "{told}");
    serving.stop();
    assert!(place.read("origin")[..4 << 20] == [6; 4 << 20]);
}

/// A full store that makes writes wait: the file is grown, or the snapshot dropped or taken out, or
/// the server ended; nothing of it takes as long as the patience of the snapshot.
#[test]
fn a_full_store_is_helped_while_writers_wait() {
    let place = Place::new(16, &[]);
    let full = |name: &str| format!("{name}={},on-full=wait:3600", place.text(name));
    let serving = start(&place, &[]);
    let write = || {
        Command::new("qemu-io")
            .args(["-f", "raw", "-c", "write -P 3 0 8M", "-c", "flush", &place.uri("origin")])
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-io")
    };
    let create = |name: &str| {
        ctl(&place, &["snapshot", "create", &full(name), "--make", "--size", "1M"]);
    };
    let stuck = |how: &dyn Fn()| {
        let mut writer = write();
        std::thread::sleep(SECOND);
        assert!(writer.try_wait().expect("asked").is_none(), "it waits");
        how();
        let begun = Instant::now();
        assert!(writer.wait().expect("ended").success());
        assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
    };
    create("g");
    stuck(&|| drop(ctl(&place, &["grow", "g", "32M"])));
    assert_eq!(ctl_json(&place, &["status"])["snapshots"][0]["total_bytes"], json!(32 * MIB));
    ctl(&place, &["snapshot", "remove", "g"]);
    create("d");
    stuck(&|| {
        let told = ctl(&place, &["snapshot", "invalidate", "d"]);
        assert!(told.starts_with("d: Invalid"), "{told}");
    });
    refused(&place, &["flush", "d"], "was dropped");
    ctl(&place, &["snapshot", "remove", "d"]);
    create("r");
    stuck(&|| drop(ctl(&place, &["snapshot", "remove", "r"])));
    create("s");
    let mut writer = write();
    std::thread::sleep(SECOND);
    let begun = Instant::now();
    ctl(&place, &["shutdown"]);
    let _ = writer.wait();
    serving.stop();
    assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
}

/// With `max-size` a store's file grows by itself, and nobody notices but its size.
#[test]
fn a_store_grows_by_itself_up_to_its_bound() {
    let place = Place::new(16, &[]);
    let before = place.read("origin");
    let serving = start(&place, &[]);
    let made = format!("s={},max-size=24M", place.text("s"));
    ctl(&place, &["snapshot", "create", &made, "--make", "--size", "1M"]);
    place.qemu_io("origin", &["write -P 3 0 10M", "flush"]);
    assert!(place.copy_of("s") == before);
    let status = ctl_json(&place, &["status"]);
    let s = &status["snapshots"][0];
    let total = s["total_bytes"].as_u64().expect("a number");
    assert!((10 * MIB..=24 * MIB).contains(&total), "{s}");
    assert_eq!((&s["state"], &s["max_size_bytes"]), (&json!("active"), &json!(24 * MIB)));
    serving.stop();
    tool(DMSNAP, &["check", &place.text("s"), &place.text("origin")]);
}

/// Watchers are told of changes: one that does not listen is when it does again, and one that has gone leaves its place to others. None of them holds up the server, nor its end.
#[test]
fn watchers_are_told_what_changes_and_hold_nobody_up() {
    let place = Place::new(4, &["a"]);
    let serving = start(&place, &["--snapshot", &format!("a={}", place.text("a"))]);
    let exceptions = |status: &Value| status["snapshots"][0]["exceptions"].as_u64();
    let mut listening = Events::of(&place);
    let mut slow = Events::of(&place);
    assert_eq!(listening.next().as_ref().and_then(exceptions), Some(0));
    let mut watching = Command::new(DMSNAP)
        .args(["ctl", "--control", &control(&place), "status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("dmsnap");
    let mut printed = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = printed.next().expect("a line").expect("read");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(exceptions(&next()), Some(0));
    // They go without having read anything; more than may watch at a time.
    (0..40).for_each(|_| drop(Events::of(&place)));
    for round in 1..=3 {
        place.qemu_io("a", &[&format!("write -P 7 {round}M 4k"), "flush"]);
        let told = |status: Option<Value>| status.as_ref().and_then(exceptions) == Some(round);
        while !told(listening.next()) {}
        while exceptions(&next()) != Some(round) {}
    }
    while slow.next().as_ref().and_then(exceptions) != Some(3) {}
    wait_until("there is room again", || Events::of(&place).next().is_some());
    let begun = Instant::now();
    assert_eq!(serving.stop(), "");
    assert!(begun.elapsed() < 8 * SECOND, "{:?}", begun.elapsed());
    while listening.next().is_some() {}
    assert!(watching.wait().expect("ended").success());
}
