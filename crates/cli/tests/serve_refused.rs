//! What `dmsnap serve` says to what cannot be served: one line, the right exit status, and nothing that
//! listens for a moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

/// Asserts that it ends like this, with these words.
#[track_caller]
fn assert_refused(done: &Output, status: i32, words: &str) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(status), "{said}");
    assert!(said.contains(words), "expected `{words}`: {said}");
    assert!(done.stdout.is_empty(), "it listened: {}", String::from_utf8_lossy(&done.stdout));
    if status == 3 {
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("dmsnap: "), "{said}");
    }
}

/// Serves the place's origin, at a free socket unless the arguments say where.
fn serve(place: &Place, args: &[&str]) -> Output {
    let (origin, free) = (place.text("origin"), format!("unix:{}", place.text("free")));
    let listens = args.contains(&"--nbd");
    let nbd: &[&str] = if listens { &[] } else { &["--nbd", &free] };
    output("timeout", &[&["-s", "KILL", "20", DMSNAP, "serve", &origin][..], nbd, args].concat())
}

#[test]
fn snapshots_that_cannot_be_are_refused() {
    let place = Place::new(1, &["a", "b"]);
    for (name, len) in [("blank", 4096), ("short", 100), ("nothing", 0)] {
        fs::write(place.path(name), vec![0; len]).expect("written");
    }
    let spec = |name: &str, rest: &str| format!("{name}={}{rest}", place.text(name));
    let refuse = |specs: &[String], status: i32, words: &str| {
        let args: Vec<_> = specs.iter().flat_map(|it| ["--snapshot", it]).collect();
        assert_refused(&serve(&place, &args), status, words);
    };
    refuse(&["a".into()], 2, "a snapshot is NAME=COW");
    refuse(&["a=".into()], 2, "found no COW device in `a=`");
    refuse(&["a=,transient=4k".into()], 2, "found no COW device");
    refuse(&[format!("={}", place.text("a"))], 2, "must not be empty");
    refuse(&[format!("origin={}", place.text("a"))], 2, "nor `origin`");
    refuse(&[format!("a\nb={}", place.text("a"))], 2, "found the name `a\\nb`");
    refuse(&[spec("missing", "")], 3, "missing: No such file or directory; check the name");
    refuse(&[spec("a", ""), format!("a={}", place.text("b"))], 3, "found the name `a` twice");
    refuse(&[spec("a", ""), format!("b={}", place.text("a"))], 3, "the same file or device as");
    refuse(&[format!("a={}", place.text("origin"))], 3, "the same file or device as");
    refuse(&[spec("blank", "")], 3, "the magic is zero; is it the COW device? `dmsnap create`");
    refuse(&[spec("short", "")], 3, "the device has 100 bytes");
    refuse(&[spec("nothing", "")], 3, "the device has 0 bytes");
    refuse(&[spec("a", ",transient=5k")], 2, "a chunk size is a power of two");
    refuse(&[spec("a", ",transient")], 2, "found ``");
    refuse(&[spec("a", ",on-full=explode")], 2, "it is invalidate, fail or wait:SECONDS");
    refuse(&[spec("a", ",max-size=lots")], 2, "a size is a number of bytes");
    refuse(&[spec("a", ",bogus")], 2, "found the option `bogus`; there is on-full,");

    let swapped = format!("a={}", place.text("origin"));
    let nbd = format!("unix:{}", place.text("free"));
    let done = output(DMSNAP, &["serve", &place.text("a"), "--nbd", &nbd, "--snapshot", &swapped]);
    assert_refused(&done, 3, "they look swapped; it is ORIGIN --snapshot NAME=COW");
}

#[test]
fn merges_and_limits_that_cannot_be_are_refused() {
    let place = Place::new(1, &["a"]);
    let a = format!("--snapshot=a={}", place.text("a"));
    assert_refused(&serve(&place, &["--merge", "nobody"]), 3, "no snapshot is named nobody");
    assert_refused(&serve(&place, &[&a, "--merge", "b"]), 3, "no snapshot is named b");
    assert_refused(&serve(&place, &[&a, "--merge", "a", "--read-only"]), 2, "--read-only");
    assert_refused(&serve(&place, &["--connections", "0"]), 2, "0 is not in 1..");
    assert_refused(&serve(&place, &["--window", "0"]), 2, "found zero");
    assert_refused(&serve(&place, &["--io", "mmap"]), 2, "direct, buffered");
    assert_refused(&serve(&place, &["--table", &place.text("missing")]), 3, "missing: No such");
    // None waits.
    let serving = Serving::start(&place, &[&a, "--write-back", "0"]);
    place.qemu_io("origin", &["write 0 64k"]);
    assert_eq!(serving.stop(), "");
}

#[test]
fn origins_that_cannot_be_are_refused() {
    let place = Place::new(1, &["a"]);
    let nbd = format!("unix:{}", place.text("free"));
    let serve = |origin: &str| output(DMSNAP, &["serve", origin, "--nbd", &nbd]);
    assert_refused(&output(DMSNAP, &["serve"]), 2, "<ORIGIN>");
    let nowhere = output(DMSNAP, &["serve", &place.text("origin")]);
    assert_refused(&nowhere, 3, "--nbd: is not given, and there is no socket of a service manager");
    assert_refused(&nowhere, 3, "--nbd unix:PATH, for you alone, or --nbd 127.0.0.1:10809");
    assert_refused(&serve(&place.text("missing")), 3, "missing: No such file or directory; check");
    assert_refused(&serve(&place.text("")), 3, "neither a regular file nor a block device");
    fs::write(place.path("nothing"), []).expect("written");
    assert_refused(&serve(&place.text("nothing")), 3, "nothing: is empty");
    let lvm = format!("lvm:{}:vg0/root", place.text("origin"));
    assert_refused(&serve(&lvm), 3, "no LVM physical volume");
    fs::set_permissions(place.path("origin"), fs::Permissions::from_mode(0o444)).expect("chmod");
    let (origin, a) = (place.text("origin"), format!("a={}", place.text("a")));
    let merge = ["serve", &origin, "--nbd", &nbd, "--snapshot", &a, "--merge", "a"];
    assert_refused(&output(DMSNAP, &merge), 3, "read-only: its mode is 0444");
    let locked = Place::new(1, &[]);
    let serving = Serving::start(&locked, &[]);
    locked.qemu_io("origin", &["write 0 64k"]);
    assert_refused(&serve(&locked.text("origin")), 3, "in use by another process");
    serving.stop();
}

#[test]
fn addresses_that_cannot_be_listened_on_are_refused() {
    let place = Place::new(1, &[]);
    let at = |address: &str| serve(&place, &["--nbd", address]);
    let form = "it is unix:PATH or HOST:PORT";
    for wrong in ["unix:", "localhost", "127.0.0.1:99999", "/run/x.sock", "tcp:127.0.0.1:1", ":1"] {
        assert_refused(&at(wrong), 2, form);
    }
    let unix = |name: &str| format!("unix:{}", place.text(name));
    assert_refused(&at(&unix("no/where")), 3, "its directory does not exist; make it first");
    fs::write(place.path("file"), "precious").expect("written");
    assert_refused(&at(&unix("file")), 3, "is there already, and no socket; choose another path");
    assert_eq!(place.read("file"), b"precious");
    assert_refused(&at(&unix("")), 3, "is there already, and no socket");
    assert_refused(&at(&unix(&"x".repeat(200))), 3, "too long for a socket");
    assert_refused(&at("192.0.2.1:10809"), 3, "192.0.2.1:10809: cannot listen: ");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").to_string();
    assert_refused(&at(&taken), 3, "somebody listens there already; choose another address");
    let other = Place::new(1, &[]);
    let serving = Serving::start(&other, &[]);
    let taken = format!("unix:{}", other.text("socket"));
    assert_refused(&at(&taken), 3, "somebody listens there already; choose another address");
    assert_eq!(tool("nbdinfo", &["--size", &other.uri("")]), format!("{MIB}\n"));
    serving.stop();

    let control = |address: &str| serve(&place, &["--control", address]);
    assert_refused(&control(&place.text("x")), 2, "a control socket is unix:PATH");
    assert_refused(&control(&unix("file")), 3, "already exists and is not a stale socket");
    assert_refused(&control(&unix("no/where")), 3, "no control socket: No such file or directory");
}
