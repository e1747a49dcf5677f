//! `dmsnap serve --state`: what clients have changed is there again when the server was killed.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::controlled::{control, ctl, ctl_json, http, start, wait_until};
use crate::kernel::random::Random;
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

const KILLS: u64 = 12;

fn kept(place: &Place, args: &[&str]) -> Serving {
    start(place, &[&["--state", &place.text("state")][..], args].concat())
}

fn names(place: &Place) -> Vec<String> {
    let status = ctl_json(place, &["status"]);
    let snapshots = status["snapshots"].as_array().expect("a list");
    let mut names: Vec<_> =
        snapshots.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

fn shown(place: &Place, name: &str) -> Value {
    let status = ctl_json(place, &["status"]);
    let snapshots = status["snapshots"].as_array().expect("a list").clone();
    snapshots
        .into_iter()
        .find(|it| it["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {status}"))
}

fn create(place: &Place, name: &str, more: &[&str]) -> String {
    let snapshot = format!("{name}={}", place.text(name));
    let args = ["snapshot", "create", &snapshot, "--make", "--size", "4M"];
    ctl(place, &[&args[..], more].concat())
}

#[test]
fn what_clients_add_and_remove_is_there_again_after_a_kill() {
    let place = Place::new(1, &["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| format!("{name}={}", place.text(name)));
    let args = ["--snapshot", &*a, "--snapshot", &b];
    let serving = kept(&place, &args);
    let before = place.copy_of("origin");
    create(&place, "monday", &["--chunk-size", "8k"]);
    let wish = format!("full={},on-full=wait:7,max-size=8M,discard-zeroes", place.text("full"));
    ctl(&place, &["snapshot", "create", &wish, "--make", "--size", "2M"]);
    ctl(&place, &["grow", "full", "9M"]);
    let gone = format!("gone={},transient=64k", place.text("gone"));
    fs::write(place.path("gone"), vec![0; 1 << 20]).expect("written");
    ctl(&place, &["snapshot", "create", &gone]);
    ctl(&place, &["snapshot", "remove", "a"]);
    let full = shown(&place, "full");
    place.qemu_io("origin", &["write -P 7 64k 64k", "flush"]);
    serving.kill();

    let mut serving = kept(&place, &args);
    assert!(serving.next_line().contains("a: was removed"));
    assert_eq!(names(&place), ["b", "full", "monday"]);
    let again = shown(&place, "full");
    for field in ["cow", "on_full", "discard_zeroes", "total_bytes"] {
        assert_eq!(again[field], full[field], "{field}");
    }
    assert!(place.copy_of("monday") == before && place.copy_of("origin") != before);
    // Named again, it is served again; the file is what counts.
    ctl(&place, &["snapshot", "create", &a]);
    ctl(&place, &["snapshot", "remove", "monday"]);
    serving.kill();
    let serving = kept(&place, &args);
    assert_eq!(names(&place), ["a", "b", "full"]);
    ctl(&place, &["snapshot", "remove", "a"]);
    serving.stop();
    // A command line that does not name it has forgotten it.
    kept(&place, &["--snapshot", &b]).stop();
    let serving = kept(&place, &args);
    assert_eq!(names(&place), ["a", "b", "full"]);
    serving.stop();
}

#[test]
fn a_merge_goes_on_as_clients_have_left_it() {
    let place = Place::new(8, &["s"]);
    let s = format!("s={}", place.text("s"));
    let args = ["--snapshot", &*s];
    let serving = kept(&place, &args);
    place.qemu_io("s", &["write -P 7 0 4M", "flush"]);
    let new = place.copy_of("s");
    ctl(&place, &["merge", "start", "s", "--rate", "64k", "--window", "64k"]);
    serving.kill();
    let serving = kept(&place, &args);
    let merge = ctl_json(&place, &["status"])["merge"].clone();
    assert_eq!((&merge["snapshot"], &merge["state"]), (&json!("s"), &json!("running")));
    assert_eq!(merge["rate_bytes_per_second"], 64 << 10);
    assert_eq!(merge["window_bytes"], 64 << 10);
    assert!(place.copy_of("origin") == new);
    ctl(&place, &["merge", "rate", "96k"]);
    ctl(&place, &["merge", "pause"]);
    serving.kill();
    let serving = kept(&place, &args);
    let merge = ctl_json(&place, &["status"])["merge"].clone();
    assert_eq!((&merge["snapshot"], &merge["state"]), (&json!("s"), &json!("paused")));
    assert_eq!(merge["rate_bytes_per_second"], 96 << 10);
    ctl(&place, &["merge", "cancel"]);
    serving.kill();
    // It is over, even if the command line asks for it.
    let serving = kept(&place, &[&args[..], &["--merge", "s"]].concat());
    assert_eq!(ctl_json(&place, &["status"])["merge"], Value::Null);
    assert!(place.copy_of("s") == new);
    ctl(&place, &["merge", "start", "s", "--wait"]);
    serving.kill();
    let serving = kept(&place, &args);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == "finished");
    assert!(place.copy_of("origin") == new);
    ctl(&place, &["snapshot", "remove", "s"]);
    serving.kill();
    let serving = kept(&place, &args);
    assert!(names(&place).is_empty());
    serving.stop();
    assert!(place.read("origin") == new);
}

#[test]
fn a_way_back_is_there_again_and_so_is_the_merge_that_was_taken_back() {
    let place = Place::new(8, &["s"]);
    let (s, undo) = (format!("s={}", place.text("s")), place.text("undo"));
    let args = ["--snapshot", &*s];
    let serving = kept(&place, &args);
    place.qemu_io("s", &["write -P 7 0 4M", "flush"]);
    let (old, new) = (place.copy_of("origin"), place.copy_of("s"));
    ctl(&place, &["merge", "start", "s", "--rate", "256k", "--window", "64k", "--undo", &undo]);
    serving.kill();
    let serving = kept(&place, &args);
    assert!(place.copy_of("origin") == new && place.copy_of("s-undo") == old);
    assert_eq!(ctl_json(&place, &["status"])["merge"]["way_back"], "s-undo");
    ctl(&place, &["merge", "undo", "s"]);
    serving.kill();
    let serving = kept(&place, &args);
    assert_eq!(ctl_json(&place, &["status"])["merge"]["snapshot"], "s-undo");
    assert!(place.copy_of("origin") == old && place.copy_of("s") == new);
    ctl(&place, &["merge", "rate", "none"]);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == "finished");
    serving.kill();
    let serving = kept(&place, &args);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == "finished");
    assert!(place.copy_of("origin") == old && place.copy_of("s") == new);
    // Nothing is recorded of what was refused.
    let (status, _) = http(&place, "POST", "/v1/merge/undo", r#"{"snapshot": "nobody"}"#);
    assert_eq!(status, 404);
    ctl(&place, &["snapshot", "remove", "s-undo"]);
    let (status, _) = http(&place, "POST", "/v1/merge/undo", r#"{"snapshot": "s"}"#);
    assert_ne!(status, 200);
    serving.kill();
    let serving = kept(&place, &args);
    assert_eq!(names(&place), ["s"]);
    assert_eq!(ctl_json(&place, &["status"])["merge"], Value::Null);
    assert!(place.copy_of("origin") == old && place.copy_of("s") == new);
    serving.stop();
}

/// A server that must not start: in one line, with status 3, and the file stays as it is.
#[track_caller]
fn refused(place: &Place, content: &str, words: &str) {
    fs::write(place.path("state"), content).expect("written");
    let nbd = format!("unix:{}", place.text("socket"));
    let args = ["serve", &place.text("origin"), "--nbd", &nbd, "--state", &place.text("state")];
    let done = output(DMSNAP, &args);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(3), "{content}: {said}");
    assert!(said.lines().count() == 1 && said.contains(words), "{content}: {said}");
    assert_eq!(fs::read_to_string(place.path("state")).expect("there"), content);
    assert!(!place.path("socket").exists());
}

#[test]
fn a_state_file_that_is_damaged_or_of_another_version_is_refused_and_kept() {
    let place = Place::new(1, &["a"]);
    let serving = kept(&place, &[]);
    create(&place, "monday", &[]);
    serving.stop();
    let good = fs::read_to_string(place.path("state")).expect("text");
    for len in [0, 1, good.len() / 2, good.len() - 3] {
        refused(&place, &good[..len], "the state file is damaged");
    }
    refused(&place, "null", "the state file is damaged");
    refused(&place, &good.replace("\"version\": 1", "\"version\": 2"), "of version 2, expected 1");
    refused(&place, &good.replace("\"removed\"", "\"future\""), "the state file is damaged");
    refused(&place, &good.replace("\"monday\"", "\"origin\""), "the state file is damaged");
    refused(&place, &good.replace("\"cow\": \"/", "\"cow\": \""), "the state file is damaged");
    // A part of one that was to be written is nobody's.
    fs::write(place.path("state"), &good).expect("written");
    fs::write(place.path("state.new"), &good[..20]).expect("written");
    let serving = kept(&place, &[]);
    assert_eq!(names(&place), ["monday"]);
    serving.stop();
    fs::rename(place.path("monday"), place.path("elsewhere")).expect("renamed");
    let state = fs::read_to_string(place.path("state")).expect("text");
    refused(&place, &state, "take monday out of");
    fs::rename(place.path("elsewhere"), place.path("monday")).expect("renamed");
    kept(&place, &[]).stop();
}

#[test]
fn a_snapshot_that_was_dropped_is_not_served_again() {
    let place = Place::new(1, &[]);
    let serving = kept(&place, &[]);
    create(&place, "monday", &[]);
    ctl(&place, &["snapshot", "invalidate", "monday"]);
    serving.kill();
    let mut serving = kept(&place, &[]);
    assert!(serving.next_line().contains("monday: was dropped before"));
    assert!(names(&place).is_empty());
    serving.stop();
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let place = Place::new(1, &["a"]);
    let serving = kept(&place, &["--snapshot", &format!("a={}", place.text("a"))]);
    // Where a file is to be written there is a folder with something in it.
    fs::create_dir_all(place.path("state.new/x")).expect("made");
    let monday = format!("monday={}", place.text("monday"));
    for args in [
        &["snapshot", "create", &monday, "--make", "--size", "4M"][..],
        &["snapshot", "remove", "a"],
        &["merge", "start", "a"],
    ] {
        let done = output(DMSNAP, &[&["ctl", "--control", &control(&place)][..], args].concat());
        assert_eq!(done.status.code(), Some(3), "{args:?}: {done:?}");
    }
    assert_eq!(names(&place), ["a"]);
    assert_eq!(ctl_json(&place, &["status"])["merge"], Value::Null);
    fs::remove_dir_all(place.path("state.new")).expect("removed");
    ctl(&place, &["snapshot", "remove", "a"]);
    serving.stop();
}

/// What clients were told, and what one of them is still waiting for.
#[derive(Default)]
struct Told {
    /// The content of each snapshot.
    snapshots: BTreeMap<String, Vec<u8>>,
    asked: Option<(String, bool)>,
    made: u64,
}

impl Told {
    /// Adds and removes snapshots, and writes to the origin, until the server is killed.
    fn live(&mut self, place: &Place, random: &mut Random, killed: &AtomicBool) {
        while !killed.load(Ordering::SeqCst) {
            let origin = place.read("origin");
            let some = self.snapshots.keys().next().cloned().filter(|_| random.below(2) == 0);
            let (name, args, adds) = match some {
                Some(name) => (name.clone(), vec!["snapshot".into(), "remove".into(), name], false),
                None => {
                    self.made += 1;
                    let name = format!("s{}", self.made);
                    let snapshot = format!("{name}={}", place.text(&name));
                    let words = ["snapshot", "create", &snapshot, "--make", "--size", "4M"];
                    (name, words.map(str::to_owned).to_vec(), true)
                }
            };
            self.asked = Some((name.clone(), adds));
            let control = control(place);
            let args = args.iter().map(String::as_str);
            let words: Vec<_> = ["ctl", "--control", &control].into_iter().chain(args).collect();
            let done = output(DMSNAP, &words);
            match (done.status.success(), adds) {
                (false, _) => break,
                (true, true) => drop(self.snapshots.insert(name, origin)),
                (true, false) => drop(self.snapshots.remove(&name)),
            }
            self.asked = None;
            let write = format!("write -P {} {}k 4k", random.below(256), 4 * random.below(256));
            let uri = place.uri("origin");
            let args = ["-f", "raw", "-c", &write, "-c", "flush", &uri];
            if !output("qemu-io", &args).status.success() {
                break;
            }
        }
    }

    /// Everything that was told is there; what was asked for may be or not.
    fn compare(&mut self, place: &Place) {
        let found = names(place);
        if let Some((name, adds)) = self.asked.take() {
            match (found.contains(&name), adds) {
                (true, true) => drop(self.snapshots.insert(name.clone(), place.copy_of(&name))),
                (false, false) => drop(self.snapshots.remove(&name)),
                _ => {}
            }
        }
        assert!(found.iter().eq(self.snapshots.keys()), "{found:?}");
        for (name, content) in &self.snapshots {
            assert!(place.copy_of(name) == *content, "{name} shows something else");
        }
    }
}

#[test]
fn nothing_a_client_was_told_is_missing_after_a_kill_at_any_moment() {
    let kills = std::env::var("DMSNAP_KILLS").map_or(KILLS, |it| it.parse().expect("a number"));
    let place = Place::new(1, &[]);
    assert_eq!(place.read("origin").len() as u64, MIB);
    let (mut random, mut told) = (Random::new(), Told::default());
    for _ in 0..kills {
        let serving = kept(&place, &[]);
        told.compare(&place);
        let (killed, milliseconds) = (AtomicBool::new(false), random.below(200));
        thread::scope(|scope| {
            scope.spawn(|| told.live(&place, &mut random, &killed));
            thread::sleep(Duration::from_millis(milliseconds));
            serving.kill();
            killed.store(true, Ordering::SeqCst);
        });
    }
    let serving = kept(&place, &[]);
    told.compare(&place);
    serving.stop();
    for name in told.snapshots.keys() {
        tool(DMSNAP, &["check", &place.text(name), &place.text("origin")]);
    }
    assert!(told.made > kills / 2, "{} snapshots", told.made);
}

/// The server kills itself at the n-th of the system calls by which a thread writes the state file, for every n. strace does that.
#[test]
fn a_kill_at_each_step_of_writing_the_file_loses_nothing() {
    for (call, times) in [("unlink", 3), ("fsync", 6), ("rename", 3)] {
        let mut steps = 0;
        for n in 1.. {
            let place = Place::new(1, &["a", "s"]);
            let [a, s] = ["a", "s"].map(|name| format!("{name}={}", place.text(name)));
            let args = ["--snapshot", &*a, "--snapshot", &s];
            if !die_at(&place, &args, call, n) {
                break;
            }
            steps += 1;
        }
        assert!(steps >= times, "{call}: {steps} steps");
    }
}

/// Asks a server for one thing after the other that is killed at that call, and its successor how it is. False if it has done
/// everything before.
fn die_at(place: &Place, args: &[&str], call: &str, n: u32) -> bool {
    let nbd = format!("unix:{}", place.text("socket"));
    let (control, state, log) = (control(place), place.text("state"), place.text("strace"));
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
    let own = [DMSNAP, "serve", &place.text("origin"), "--nbd", &nbd, "--control", &control];
    let words = [&["-f", "-o", &log, "-e", &trace, "-e", &inject][..], &own, &["--state", &state]];
    let mut traced = Command::new("strace");
    traced.args(words.concat()).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut traced = traced.spawn().expect("strace");
    wait_until("it listens", || place.path("control").exists());
    let monday = format!("monday={}", place.text("monday"));
    output("qemu-io", &["-f", "raw", "-c", "write -P 7 0 512k", "-c", "flush", &place.uri("s")]);
    let undo = place.text("undo");
    let asked: [&[&str]; 4] = [
        &["snapshot", "create", &monday, "--make", "--size", "4M"],
        &["snapshot", "remove", "a"],
        &["merge", "start", "s", "--rate", "64k", "--window", "64k", "--undo", &undo],
        &["merge", "undo", "s"],
    ];
    let done: Vec<bool> = asked
        .iter()
        .map(|words| output(DMSNAP, &[&["ctl", "--control", &control], *words].concat()))
        .map(|done| done.status.success())
        .collect();
    // If it is still there.
    output(DMSNAP, &["ctl", "--control", &control, "shutdown"]);
    traced.wait().expect("ended");
    let serving = kept(place, args);
    let (names, merge) = (names(place), ctl_json(place, &["status"])["merge"].clone());
    let holds = [
        names.contains(&"monday".into()),
        !names.contains(&"a".into()),
        merge["snapshot"] == "s" || merge["snapshot"] == "s-undo",
        merge["snapshot"] == "s-undo",
    ];
    let told = format!("{call} {n}: {done:?} was told, {holds:?} is so");
    assert!(done.iter().zip(holds).all(|(done, holds)| holds || !done), "{told}");
    serving.stop();
    done.contains(&false)
}

#[test]
fn the_table_of_a_status_serves_the_same() {
    let place = Place::new(1, &["a b", "c"]);
    let ab = format!("ab={},discard-zeroes", place.text("a b"));
    let c = format!("c={},virtual-size=2M", place.text("c"));
    let serving = start(&place, &["--snapshot", &ab, "--snapshot", &c]);
    place.qemu_io("ab", &["write -P 7 64k 64k", "flush"]);
    let (shown, table) = (place.copy_of("ab"), ctl(&place, &["status", "--table"]));
    let longer = place.copy_of("c");
    serving.stop();
    assert_eq!(longer.len() as u64, 2 * MIB);
    fs::write(place.path("table"), &table).expect("written");
    let control = control(&place);
    let args = ["--table", &place.text("table"), "--control", &control];
    let serving = Serving::exactly(&place, &args);
    assert!(place.copy_of("ab") == shown && place.copy_of("c") == longer);
    assert_eq!(ctl(&place, &["status", "--table"]), table);
    serving.stop();
}
