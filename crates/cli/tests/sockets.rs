//! The sockets of `dmsnap serve`: whose they are, who may connect, and that signals do not end it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::serving::{DMSNAP, MIB, Place, Serving, tool};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn sockets_are_open_to_their_owner_alone() {
    let place = Place::new(1, &[]);
    let control = format!("unix:{}", place.text("control"));
    let serving = Serving::start(&place, &["--control", &control]);
    for socket in ["socket", "control"] {
        let mode = fs::metadata(place.path(socket)).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
    serving.stop();
    assert!(!place.path("socket").exists() && !place.path("control").exists(), "not removed");
}

/// As in a rolling upgrade: the new server takes the names before the old one ends.
#[test]
fn a_server_that_ends_removes_no_socket_of_another() {
    let place = Place::new(1, &[]);
    let control = format!("unix:{}", place.text("control"));
    let old = Serving::start(&place, &["--control", &control]);
    fs::copy(place.path("origin"), place.path("other")).expect("copied");
    for socket in ["socket", "control"] {
        fs::rename(place.path(socket), place.path(&format!("old-{socket}"))).expect("renamed");
    }
    let new = Serving::exactly(&place, &[&place.text("other"), "--control", &control]);
    let made = fs::metadata(place.path("socket")).expect("a socket").ino();
    old.stop();
    assert_eq!(fs::metadata(place.path("socket")).expect("still there").ino(), made);
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("")]), format!("{MIB}\n"));
    tool(DMSNAP, &["ctl", "--control", &control, "status"]);
    new.stop();
    assert!(!place.path("socket").exists(), "its own");
}

#[test]
fn sockets_that_nobody_listens_on_are_taken_over() {
    let place = Place::new(1, &[]);
    for socket in ["socket", "control"] {
        drop(UnixListener::bind(place.path(socket)).expect("bound"));
    }
    let control = format!("unix:{}", place.text("control"));
    let serving = Serving::start(&place, &["--control", &control]);
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("")]), format!("{MIB}\n"));
    serving.stop();
}

#[test]
fn names_of_sockets_are_escaped_where_they_are_told() {
    let place = Place::new(1, &[]);
    fs::create_dir(place.path("a b&c#d%20")).expect("a folder");
    let socket = place.text("a b&c#d%20/s?k+t=1");
    let mut child = Command::new(DMSNAP)
        .args(["serve", &place.text("origin"), "--nbd", &format!("unix:{socket}")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut told = String::new();
    let out = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut told).expect("a line");
    let uri = told.trim().strip_prefix("listening on ").expect("where it listens");
    assert_eq!(tool("nbdinfo", &["--size", uri]), format!("{MIB}\n"), "{uri}");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("ended").success());
}

#[test]
fn signals_that_ask_do_not_end_a_server() {
    let place = Place::new(1, &[]);
    let serving = Serving::start(&place, &[]);
    for signal in [Signal::HUP, Signal::USR2, Signal::USR1, Signal::HUP] {
        kill_process(serving.pid(), signal).expect("it runs");
        assert_eq!(tool("nbdinfo", &["--size", &place.uri("")]), format!("{MIB}\n"), "{signal:?}");
    }
    serving.stop();
}

/// Sent as soon as the process is there, and again and again until it is served.
#[test]
fn signals_that_come_before_it_is_ready_do_not_end_a_server() {
    let place = Place::new(1, &[]);
    let nbd = format!("unix:{}", place.text("socket"));
    let mut child = Command::new(DMSNAP)
        .args(["serve", &place.text("origin"), "--nbd", &nbd])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let (pid, begun) = (Pid::from_child(&child), Instant::now());
    // Before the program's own first instruction nobody can be asked anything.
    for signal in [Signal::USR1, Signal::USR2] {
        until_it_catches(child.id(), signal);
    }
    while !place.path("socket").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not listen");
        assert!(child.try_wait().expect("asked").is_none(), "it has ended");
        let _ = kill_process(pid, Signal::USR1);
        let _ = kill_process(pid, Signal::USR2);
    }
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("")]), format!("{MIB}\n"));
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(child.wait().expect("ended").success());
}

fn until_it_catches(pid: u32, signal: Signal) {
    let bit = 1_u64 << (signal.as_raw() - 1);
    let begun = Instant::now();
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("mask");
        if u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") & bit != 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not catch {signal:?}");
    }
}
