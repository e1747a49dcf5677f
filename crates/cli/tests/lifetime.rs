//! How a server begins and ends for those who start it: process numbers, commands, the background, the last client.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};
use rustix::process::{Pid, Signal, getgid, getsid, kill_process, test_kill_process};

fn serve(place: &Place, args: &[&str]) -> Output {
    output(DMSNAP, &[&["serve", &place.text("origin")][..], args].concat())
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn printed(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn pid_in(place: &Place, name: &str) -> Pid {
    let text = fs::read_to_string(place.path(name)).expect("a pid file");
    let number = text.strip_suffix('\n').and_then(|it| it.parse().ok()).expect("a number");
    Pid::from_raw(number).expect("a process")
}

fn wait_for_end(pid: Pid) {
    let begun = Instant::now();
    while test_kill_process(pid).is_ok() {
        // In a container nobody may collect what is left of it.
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()));
        if status.is_ok_and(|it| it.contains("State:\tZ")) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_pid_file_is_there_once_it_listens_and_gone_when_it_has_ended() {
    let place = Place::new(1, &[]);
    let file = place.text("pid");
    fs::write(&file, "1").expect("written");
    let before = fs::metadata(&file).expect("there").ino();
    let serving = Serving::start(&place, &["--pid-file", &file]);
    assert_eq!(pid_in(&place, "pid"), serving.pid());
    assert_ne!(fs::metadata(&file).expect("there").ino(), before, "written in place");
    serving.stop();
    assert!(!place.path("pid").exists() && !place.path("pid.new").exists());
    // Killed, it leaves it; and what is another server's stays.
    Serving::start(&place, &["--pid-file", &file]).kill();
    let serving = Serving::start(&place, &["--pid-file", &file]);
    fs::rename(&file, place.path("old")).expect("renamed");
    fs::write(&file, "1").expect("written");
    serving.stop();
    assert_eq!(fs::read_to_string(&file).expect("there"), "1");
    let nbd = format!("unix:{}", place.text("socket"));
    let refused = serve(&place, &["--nbd", &nbd, "--pid-file", &place.text("no/pid")]);
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("cannot write") && !place.path("socket").exists());
}

#[test]
fn sockets_are_open_for_those_they_are_meant_for() {
    let place = Place::new(1, &[]);
    let (control, group) =
        (format!("unix:{}", place.text("control")), getgid().as_raw().to_string());
    let mode = |name: &str| fs::metadata(place.path(name)).expect("a socket").permissions().mode();
    let args = ["--control", &control, "--socket-mode", "0666", "--socket-group", &group];
    let serving = Serving::start(&place, &args);
    assert_eq!((mode("socket") & 0o777, mode("control") & 0o777), (0o666, 0o600));
    serving.stop();
    let serving = Serving::start(&place, &["--socket-group", &group]);
    assert_eq!(mode("socket") & 0o777, 0o660);
    serving.stop();
    let nbd = format!("unix:{}", place.text("socket"));
    for (nbd, args, status, words) in [
        (&*nbd, ["--socket-mode", "888"], 2, "a mode in octal"),
        (&nbd, ["--socket-group", "no-such-group"], 3, "no group is named no-such-group"),
        ("127.0.0.1:0", ["--socket-mode", "660"], 3, "is about Unix sockets"),
    ] {
        let refused = serve(&place, &[&["--nbd", nbd][..], &args].concat());
        assert_eq!(refused.status.code(), Some(status), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}

#[test]
fn the_last_client_is_the_end_if_that_is_wanted() {
    let place = Place::new(1, &["a"]);
    let a = format!("a={}", place.text("a"));
    let serving = Serving::start(&place, &["--snapshot", &a, "--exit-with-last-client"]);
    // Nobody has been served yet.
    drop(UnixStream::connect(place.path("socket")).expect("connected"));
    assert!(!output("nbdinfo", &[&place.uri("no-such-export")]).status.success());
    place.qemu_io("a", &["write -P 7 64k 64k"]);
    serving.stop_by_itself();
    assert!(!place.path("socket").exists());
    let serving = Serving::start(&place, &["--snapshot", &a]);
    place.qemu_io("a", &["read -P 7 64k 64k"]);
    place.qemu_io("a", &["read -P 7 64k 64k"]);
    serving.stop();
}

#[test]
fn a_command_is_served_as_long_as_it_runs() {
    let place = Place::new(1, &[]);
    let copy = place.text("copy");
    let done = serve(&place, &["--run", &format!("nbdcopy \"$uri\" {copy}")]);
    assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
    assert!(place.read("copy") == place.read("origin"));

    let tell = "echo \"$uri|$unixsocket|$port|$nbd|$tls|$exportname\"; test -S \"$unixsocket\"";
    let done = serve(&place, &["--run", tell]);
    let told = printed(&done);
    let parts: Vec<_> = told.trim_end().split('|').collect();
    let [uri, socket, port, nbd, tls, export] = parts[..] else { panic!("{told}") };
    assert!(done.status.success(), "{done:?}");
    assert_eq!(uri, format!("nbd+unix:///?socket={socket}"));
    assert_eq!((port, nbd, tls, export), ("", &*format!("nbd:unix:{socket}"), "", ""));
    assert!(!fs::exists(socket).expect("asked"), "the private socket is left");

    let tell = "echo \"$uri|$unixsocket|$port|$nbd\"; nbdinfo --size \"$uri\"";
    let done = serve(&place, &["--nbd", "127.0.0.1:0", "--run", tell]);
    let told = printed(&done);
    let (told, size) = told.split_once('\n').expect("two lines");
    let parts: Vec<_> = told.split('|').collect();
    let [uri, "", port, nbd] = parts[..] else { panic!("{told}") };
    assert_eq!(size, format!("{MIB}\n"));
    assert_eq!(uri, format!("nbd://127.0.0.1:{port}"));
    assert_eq!(nbd, format!("nbd:localhost:{port}"));
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let place = Place::new(1, &[]);
    for (command, status) in [("true", 0), ("exit 1", 1), ("exit 42", 42), ("kill -9 $$", 137)] {
        let done = serve(&place, &["--run", command]);
        assert_eq!(done.status.code(), Some(status), "{command}: {}", said(&done));
    }
    // It has not run.
    let (missing, marker) = (place.text("missing"), place.text("marker"));
    let done = output(DMSNAP, &["serve", &missing, "--run", &format!("touch {marker}")]);
    assert_eq!(done.status.code(), Some(3), "{}", said(&done));
    assert!(!place.path("marker").exists());
    let both = serve(&place, &["--run", "true", "--fork"]);
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));
}

#[test]
fn a_server_that_is_ended_does_not_end_its_command() {
    let place = Place::new(1, &[]);
    let file = place.text("pid");
    let end = format!("kill $(cat {file}); sleep 1; echo still there > {}", place.text("after"));
    let done = serve(&place, &["--pid-file", &file, "--run", &end]);
    assert!(done.status.success(), "{done:?}");
    crate::controlled::wait_until("the command", || place.path("after").exists());
}

#[test]
fn a_server_in_the_background_listens_when_the_command_returns() {
    let place = Place::new(1, &["a"]);
    let (nbd, a) = (format!("unix:{}", place.text("socket")), format!("a={}", place.text("a")));
    let pid_file = place.text("pid");
    // That its output ends at all says that the server has let it go.
    let args = ["--fork", "--nbd", &nbd, "--snapshot", &a, "--pid-file", &pid_file];
    let done = serve(&place, &args);
    assert!(done.status.success(), "{done:?}");
    let told = printed(&done);
    assert!(
        told.starts_with("listening on nbd+unix:///?socket=") && told.ends_with('\n'),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told:?}");
    place.qemu_io("a", &["write -P 7 0 64k", "flush"]);
    let pid = pid_in(&place, "pid");
    assert_eq!(getsid(Some(pid)).expect("it runs"), pid, "a session of its own");
    kill_process(pid, Signal::HUP).expect("it runs");
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("a")]), format!("{MIB}\n"));
    kill_process(pid, Signal::TERM).expect("it runs");
    wait_for_end(pid);
    assert!(!place.path("socket").exists() && !place.path("pid").exists());
}

#[test]
fn what_goes_wrong_before_it_is_in_the_background_is_told_by_the_command() {
    let place = Place::new(1, &[]);
    let nbd = format!("unix:{}", place.text("socket"));
    let missing = output(DMSNAP, &["serve", "--fork", "--nbd", &nbd, &place.text("missing")]);
    assert_eq!(missing.status.code(), Some(3), "{}", said(&missing));
    assert_eq!(said(&missing).lines().count(), 1, "{}", said(&missing));
    assert!(said(&missing).contains("missing: No such file"), "{}", said(&missing));
    let nowhere = serve(&place, &["--fork"]);
    assert_eq!(nowhere.status.code(), Some(3), "{}", said(&nowhere));
    assert!(said(&nowhere).contains("say where clients come from"), "{}", said(&nowhere));
    assert!(!place.path("socket").exists());
}

#[test]
fn a_server_in_the_background_goes_on_telling_a_log_file() {
    let place = Place::new(1, &[]);
    let (socket, log, pid_file) = (place.text("socket"), place.text("log"), place.text("pid"));
    let start = format!(
        "{DMSNAP} serve --fork --nbd unix:{socket} --pid-file {pid_file} {} 2>{log}",
        place.text("origin")
    );
    tool("sh", &["-c", &start]);
    let pid = pid_in(&place, "pid");
    kill_process(pid, Signal::USR1).expect("it runs");
    let logged = || fs::read_to_string(&log).is_ok_and(|it| it.contains("origin"));
    crate::controlled::wait_until("a line in the log", logged);
    kill_process(pid, Signal::TERM).expect("it runs");
    wait_for_end(pid);
}
