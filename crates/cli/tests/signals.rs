//! A long merge: stopped, killed, asked how far it is, watched on a terminal.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Pair, Ran, command, data, pair, parsed, read, snapshot};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::Winsize;
use serde_json::json;

/// 400 exceptions that take 20 seconds at the rate given.
fn slow_merge() -> (Pair, Child) {
    let all: Vec<u64> = (0..400).collect();
    let pair = pair(&all, 400);
    let (cow, disk) = (pair.cow.to_string_lossy(), pair.disk.to_string_lossy());
    let args = ["merge", &*cow, &*disk, "--no-share", "--rate", "40k", "--progress", "--json"];
    let child = command(&args).spawn().expect("the command starts");
    until_it_catches(&child, Signal::USR1);
    until_some_is_merged(&pair.disk);
    (pair, child)
}

fn until_it_catches(child: &Child, signal: Signal) {
    let bit = 1_u64 << (signal.as_raw() - 1);
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("mask");
        u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") & bit != 0
    };
    wait_for("the signal to be caught", caught);
}

fn until_it_is_held(child: &Child) {
    let held = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    wait_for("the command to be held", held);
}

fn until_some_is_merged(disk: &Path) {
    let last = |content: &[u8]| content.last() == Some(&data(399));
    wait_for("the first window", || last(&read(disk)));
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited 10 s for {what}");
        sleep(Duration::from_millis(2));
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("the command still runs");
}

#[test]
fn a_merge_stops_on_a_signal_and_the_same_command_goes_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let (Pair { cow, disk, dir }, child) = slow_merge();
        send(&child, signal);
        let asked = Instant::now();
        let ran = Ran::from(child.wait_with_output().expect("ends"));
        assert!(asked.elapsed() < Duration::from_secs(3), "it took {:?}", asked.elapsed());
        let merged = parsed(&ran.stdout);
        let (done, left) = (merged["exceptions"].as_u64(), merged["left"].as_u64());
        let (done, left) = (done.expect("a number"), left.expect("a number"));
        assert!(done > 0 && left > 0 && done + left == 400, "{merged}");
        assert_eq!((ran.status, &merged["finished"]), (3, &json!(false)));
        let last = ran.stderr.lines().last().expect("a line");
        assert_eq!(
            last,
            format!(
                "dmsnap: {}: stopped: {done} exceptions merged, {left} left; origin and store are \
                 consistent together; the same command goes on",
                cow.display()
            )
        );

        let all: Vec<u64> = (0..400).collect();
        assert_eq!(dmsnap!("check", cow, disk).ok(), "sound\n");
        dmsnap!("export", cow, disk, dir.path("out")).ok();
        assert!(read(&dir.path("out")) == snapshot(&all, 400), "the snapshot changed");
        dmsnap!("merge", cow, disk).ok();
        assert!(read(&disk) == snapshot(&all, 400), "another content");
    }
}

#[test]
fn a_second_signal_kills_and_the_merge_still_goes_on_later() {
    let (Pair { cow, disk, dir: _dir }, child) = slow_merge();
    // Held until both are there: after the first one alone it ends within milliseconds.
    send(&child, Signal::STOP);
    until_it_is_held(&child);
    send(&child, Signal::INT);
    send(&child, Signal::TERM);
    send(&child, Signal::CONT);
    let output = child.wait_with_output().expect("ends");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    // Both are delivered at once: either may be handled first.
    assert!(signal == Some(Signal::TERM.as_raw()) || signal == Some(Signal::INT.as_raw()));
    dmsnap!("merge", cow, disk).ok();
    let all: Vec<u64> = (0..400).collect();
    assert!(read(&disk) == snapshot(&all, 400), "another content");
}

#[test]
fn progress_comes_every_second_where_asked_for_and_once_for_each_usr1() {
    let (_pair, child) = slow_merge();
    sleep(Duration::from_millis(1500));
    send(&child, Signal::USR1);
    sleep(Duration::from_millis(300));
    send(&child, Signal::INT);
    let ran = Ran::from(child.wait_with_output().expect("ends"));
    let lines: Vec<_> =
        ran.stderr.lines().filter(|line| line.contains(" of 800 KiB done")).collect();
    assert!((2..=5).contains(&lines.len()), "{}", ran.stderr);
    for line in &lines {
        assert!(line.starts_with("dmsnap: ") && line.ends_with(" left"), "{line}");
    }
    assert_eq!(lines.len() + 1, ran.stderr.lines().count(), "{}", ran.stderr);
}

#[test]
fn on_a_terminal_a_bar_shows_progress_and_is_gone_before_the_last_line() {
    let all: Vec<u64> = (0..400).collect();
    let Pair { cow, disk, dir: _dir } = pair(&all, 400);
    let (cow, disk) = (cow.to_string_lossy(), disk.to_string_lossy());
    let (ours, theirs) = terminal();
    let mut command = command(&["merge", &*cow, &*disk, "--rate", "400k"]);
    let child = command.stderr(theirs).spawn().expect("the command starts");
    drop(command); // its copy of the other end: ours ends with the last one
    let shown = until_closed(ours);
    let ran = child.wait_with_output().expect("ends");
    assert!(ran.status.success());
    assert!(shown.contains(" of 800.00 KiB, "), "{shown:?}");
    let (_, after) = shown.rsplit_once(" left").expect("a bar");
    assert!(after.ends_with("\u{1b}[2K"), "the bar is still there: {after:?}");
}

/// A new terminal 100 characters wide: our end and the one to run something on.
fn terminal() -> (File, File) {
    let ours = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
    pty::grantpt(&ours).expect("terminal");
    pty::unlockpt(&ours).expect("terminal");
    let name = pty::ptsname(&ours, Vec::new()).expect("terminal").into_string().expect("text");
    let theirs = File::options().read(true).write(true).open(name).expect("terminal");
    let size = Winsize { ws_row: 25, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).expect("terminal");
    (ours.into(), theirs)
}

fn until_closed(mut terminal: File) -> String {
    let mut shown = Vec::new();
    // A terminal whose other end is closed says EIO instead of nothing.
    let _closed = terminal.read_to_end(&mut shown).expect_err("EIO");
    String::from_utf8_lossy(&shown).into_owned()
}

/// An export cannot be slowed down; one that was over before the signal came is tried again, larger.
#[test]
fn an_export_that_is_stopped_leaves_no_image() {
    let stopped = (14..=18).any(|power| {
        let Pair { cow, disk, dir } = pair(&[3, 4], 1 << power);
        let out = dir.path("out");
        let names = [&cow, &disk, &out].map(|path| path.to_string_lossy());
        let child = command(&["export", &*names[0], &*names[1], &*names[2]]).spawn();
        let child = child.expect("the command starts");
        until_it_catches(&child, Signal::INT);
        // Gone already: it was too fast.
        let _ = kill_process(Pid::from_child(&child), Signal::INT);
        let ran = Ran::from(child.wait_with_output().expect("ends"));
        if ran.status == 0 {
            return false;
        }
        let said = "stopped before it was whole; the same command begins again";
        assert_eq!(ran.failed(), format!("dmsnap: {}: {said}", out.display()));
        assert_eq!(dir.names(), ["cow", "disk"]);
        true
    });
    assert!(stopped, "no export was large enough to be stopped");
}
