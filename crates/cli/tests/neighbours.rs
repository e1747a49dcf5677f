//! Others that have the files: QEMU, nbdkit, loop devices, another dmsnap. And what new files leave to others.
//!
//! What needs root or loop devices says so and does nothing without.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};

use crate::controlled::{ctl, refused, start};
use crate::loops::{Loop, Mount, usable};
use crate::neighbour::Neighbour;
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[track_caller]
fn assert_refused(args: &[&str], words: &str) {
    let done = output("timeout", &[&["-s", "KILL", "20", DMSNAP][..], args].concat());
    let said = said(&done);
    assert_eq!(done.status.code(), Some(3), "{args:?}: {said}");
    assert!(said.lines().count() == 1 && said.contains(words), "{args:?}: {said}");
}

/// Everything that writes to `origin` or `a`, refused; what only looks is not.
#[track_caller]
fn assert_nothing_writes(place: &Place, words: &str) {
    let [origin, a, b] = ["origin", "a", "b"].map(|name| place.text(name));
    let [free, out] = ["free", "out"].map(|name| place.text(name));
    let nbd = format!("unix:{free}");
    let spec = format!("a={a}");
    let before = [place.read("origin"), place.read("a")];
    for args in [
        &["merge", &a, &origin][..],
        &["merge", "--dry-run", &a, &origin],
        &["serve", &origin, "--snapshot", &spec, "--nbd", &nbd],
        &["export", "--force", &b, &out, &origin],
        &["create", "--force", &origin],
    ] {
        assert_refused(args, words);
    }
    assert!(before == [place.read("origin"), place.read("a")], "something was written");
    for args in [&["info", &a][..], &["check", &a, &origin], &["dump", &a]] {
        tool(DMSNAP, args);
    }
}

fn place() -> Place {
    let place = Place::new(1, &["a", "b"]);
    fs::write(place.path("out"), vec![0; 1 << 20]).expect("written");
    place
}

#[test]
fn what_qemu_has_open_is_not_written() {
    let place = place();
    let origin = place.text("origin");
    let theirs = Neighbour::qemu_nbd(&place.path("theirs"), &place.path("origin"), &[]);
    assert_nothing_writes(&place, "in use by another process");
    // Nor read as if it stood still.
    let new = place.text("new");
    assert_refused(&["export", &place.text("a"), &origin, &new], "locked as QEMU does");
    drop(theirs);
    tool(DMSNAP, &["merge", &place.text("a"), &origin]);
}

/// It has no locks, but it can be seen that somebody has the file open for writing.
#[test]
fn what_nbdkit_writes_to_is_not_written() {
    let place = place();
    let socket = place.text("theirs");
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["--foreground", "--unix", &socket, "file", &place.text("origin")]);
    let theirs = Neighbour::listening(nbdkit, &place.path("theirs"));
    // It opens the file when a client comes.
    let uri = format!("nbd+unix:///?socket={socket}");
    let wait = "print('connected', flush=True); import time; time.sleep(60)";
    // The system's own Python has the module; another may come first on the path.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let mut client = Command::new("nbdsh")
        .env("PATH", path)
        .args(["--uri", &uri, "--command", wait])
        .stdout(Stdio::piped())
        .spawn()
        .expect("nbdsh can be run: ./check installs it");
    let mut told = String::new();
    let said = client.stdout.take().expect("piped");
    BufReader::new(said).read_line(&mut told).expect("a line");
    let client = Neighbour(client);
    assert_nothing_writes(&place, "in use by another process, which has it open for writing");
    drop((client, theirs));
    tool(DMSNAP, &["merge", &place.text("a"), &place.text("origin")]);
}

#[test]
fn what_is_served_qemu_does_not_open_for_writing() {
    let place = place();
    let a = format!("a={}", place.text("a"));
    let serving = Serving::start(&place, &["--snapshot", &a]);
    for name in ["origin", "a"] {
        let image = place.text(name);
        let write = output("qemu-io", &["-f", "raw", "-c", "write 0 512", &image]);
        assert!(!write.status.success() && said(&write).contains("lock"), "{}", said(&write));
        tool("qemu-img", &["info", "-U", "-f", "raw", &image]);
    }
    assert_nothing_writes(&place, "in use by another process");
    serving.stop();
    let serving = Serving::start(&place, &["--read-only", "--snapshot", &a]);
    let write = output("qemu-io", &["-f", "raw", "-c", "write 0 512", &place.text("origin")]);
    assert!(!write.status.success(), "what we read must not change");
    tool("qemu-img", &["info", "-f", "raw", &place.text("origin")]);
    serving.stop();
}

#[test]
fn what_a_loop_device_is_attached_to_is_not_written() {
    if !usable("files that are attached to loop devices") {
        return;
    }
    let place = place();
    for kind in [Loop::over, Loop::read_only] {
        let disk = kind(&place.path("origin"));
        let words = format!("in use: {} is attached to it; deactivate", disk.path().display());
        assert_nothing_writes(&place, &words);
        // Without what tells of loop devices, in another root as well.
        let (a, origin) = (place.text("a"), place.text("origin"));
        let script = format!("mount -t tmpfs none /sys && exec '{DMSNAP}' merge '{a}' '{origin}'");
        let hidden = output("unshare", &["-m", "sh", "-c", &script]);
        assert_eq!(hidden.status.code(), Some(3), "{}", said(&hidden));
    }
    tool(DMSNAP, &["merge", &place.text("a"), &place.text("origin")]);
}

#[test]
fn two_parts_of_one_file_are_served_together() {
    if !usable("loop devices on parts of a file") {
        return;
    }
    let place = Place::empty();
    let image = place.path("image");
    fs::File::create(&image).and_then(|file| file.set_len(8 * MIB)).expect("made");
    let part = |options: &[&str]| Loop::with(&image, options);
    let first = part(&["--sizelimit", "4194304"]);
    let second = part(&["--offset", "4194304"]);
    let [first, second] = [&first, &second].map(|it| it.path().to_str().expect("plain"));
    tool(DMSNAP, &["create", second]);
    let spec = format!("s={second}");
    let serving = Serving::exactly(&place, &[first, "--snapshot", &spec]);
    place.qemu_io("s", &["write -P 7 64k 64k"]);
    serving.stop();
    tool(DMSNAP, &["check", second, first]);
    tool(DMSNAP, &["merge", second, first]);
    let whole = image.to_str().expect("plain");
    assert_refused(&["check", second, whole], "the same file or device as");
}

#[test]
fn a_server_has_every_device_once() {
    let place = Place::new(4, &["a", "b"]);
    let a = format!("a={}", place.text("a"));
    let serving = start(&place, &["--snapshot", &a]);
    let create = |cow: &str, words: &str| refused(&place, &["snapshot", "create", cow], words);
    create(&format!("c={}", place.text("a")), "the same file or device as the COW device of a");
    fs::hard_link(place.path("b"), place.path("b too")).expect("linked");
    ctl(&place, &["snapshot", "create", &format!("b={}", place.text("b"))]);
    create(&format!("c={}", place.text("b too")), "the same file or device as the COW device of b");
    create(&format!("c={}", place.text("origin")), "the same file or device as the origin");
    if usable("a COW device through a loop device") {
        let disk = Loop::over(&place.path("a"));
        create(&format!("c={}", disk.path().display()), "as the COW device of a");
        let disk = Loop::over(&place.path("origin"));
        let disk = disk.path().to_str().expect("plain");
        assert_refused(&["create", "--force", disk], "in use by another process");
    }
    ctl(&place, &["snapshot", "remove", "b"]);
    ctl(&place, &["snapshot", "create", &format!("c={}", place.text("b too"))]);
    serving.stop();
}

/// A rescue system may have none.
#[test]
fn without_proc_everything_can_be_opened() {
    if !usable("a system without /proc") {
        return;
    }
    let place = place();
    for io in ["direct", "buffered"] {
        let (a, origin) = (place.text("a"), place.text("origin"));
        let commands = [
            format!("info '{a}'"),
            format!("merge --io {io} '{a}' '{origin}'"),
            format!("export --io {io} '{a}' '{origin}' '{a}.{io}'"),
            format!("create --size 1M '{a}.{io}.cow'"),
        ];
        for command in commands {
            let script = format!("mount -t tmpfs none /proc && exec '{DMSNAP}' {command}");
            tool("unshare", &["-m", "sh", "-c", &script]);
        }
    }
    assert!(place.read("a.direct") == place.read("origin"));
}

#[test]
fn new_files_are_for_those_who_may_read_the_origin() {
    let place = Place::new(1, &["a"]);
    let mode = |name: &str| place.path(name).metadata().expect("made").mode() & 0o7777;
    assert_eq!(mode("a"), 0o600, "nothing is known of what it will hold");
    let set = |name: &str, mode: u32| {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).expect("set");
    };
    for (n, of_origin) in [0o600, 0o640, 0o444].into_iter().enumerate() {
        set("origin", of_origin);
        let out = format!("out{n}");
        tool(DMSNAP, &["export", &place.text("a"), &place.text("origin"), &place.text(&out)]);
        let found = mode(&out);
        assert_eq!(found & !(of_origin | 0o600), 0, "{found:o} of {of_origin:o}");
    }
    set("origin", 0o600);
    let serving = start(&place, &[]);
    let make = |name: &str| vec!["snapshot".into(), "create".into(), name.to_owned()];
    let made = format!("m={}", place.text("m"));
    ctl(&place, &["snapshot", "create", &made, "--make", "--size", "1M"]);
    assert_eq!(mode("m"), 0o600);
    // What is there already is not taken if others may read it, or have it open.
    fs::write(place.path("open"), vec![0; 1 << 20]).expect("written");
    set("open", 0o644);
    let open = make(&format!("o={}", place.text("open")));
    let mut args: Vec<&str> = open.iter().map(String::as_str).collect();
    args.push("--make");
    refused(&place, &args, "others than the origin's may read it (mode 0644)");
    set("open", 0o600);
    let reader = fs::File::open(place.path("open")).expect("readable");
    refused(&place, &args, "in use by another process, which has it open");
    drop(reader);
    ctl(&place, &args);
    serving.stop();
}

/// Some network file systems have none.
#[test]
fn a_file_system_without_locks_is_warned_of_and_used() {
    let place = Place::new(1, &["a"]);
    let (a, origin) = (place.text("a"), place.text("origin"));
    let trace = ["-f", "-o", "/dev/null", "-e", "inject=flock:error=EOPNOTSUPP", DMSNAP];
    let done = output("strace", &[&trace[..], &["merge", &a, &origin]].concat());
    if said(&done).contains("ptrace") {
        eprintln!("SKIPPED locks that are missing: {}", said(&done));
        return;
    }
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    assert_eq!(said.matches("warning: the file system has no locks").count(), 2, "{said}");
}

/// What a power cut would leave: the medium below a file system that flushes nothing by itself.
#[test]
fn a_new_file_has_its_name_after_a_power_cut() {
    if !usable("a power cut") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mkfs = ["mkfs.ext2", "-q", "-F"];
    let Some(mount) = Mount::new(dir.path(), "ext2", &mkfs, 64 * MIB) else { return };
    let cow = mount.path("a.cow");
    tool(DMSNAP, &["create", "--size", "4M", cow.to_str().expect("plain")]);
    let cut = dir.path().join("cut");
    fs::copy(dir.path().join("ext2.image"), &cut).expect("copied");
    let listed = tool("debugfs", &["-R", "ls -p /", cut.to_str().expect("plain")]);
    assert!(listed.contains("/a.cow/"), "{listed}");
}
