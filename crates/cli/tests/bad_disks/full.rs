use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, prlimit};

use crate::bad_disks::client::Ask::{Find, Flush, Read, Write};
use crate::bad_disks::client::{asked, fine, refused};
use crate::bad_disks::{ended_without, skipped};
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

/// A file system of a few MiB. Its files may claim more.
struct Small(PathBuf);

impl Small {
    fn new(place: &Place, size: &str) -> Self {
        let dir = place.path("small");
        fs::create_dir(&dir).expect("a directory");
        let dir_text = dir.display().to_string();
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &dir_text]);
        Self(dir)
    }

    /// A COW device with a store, sparse.
    fn cow(&self, name: &str) -> String {
        let path = self.0.join(name).display().to_string();
        tool(DMSNAP, &["create", "--size", "64M", &path]);
        path
    }

    fn grow(&self, size: &str) {
        let dir = self.0.display().to_string();
        tool("mount", &["-o", &format!("remount,size={size}"), &dir]);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// Fills a snapshot whose file system is full until its writes fail.
fn fill(place: &Place) {
    let writes: Vec<_> = (0..64).map(|n| Write(1, (n * 64) << 10, 64 << 10)).collect();
    let answers = asked(place, "a", &writes);
    let full = answers.iter().position(|answer| answer != "ok").expect("it fills up");
    assert!(full > 8, "{answers:?}");
    assert!(answers[full..].iter().all(|answer| answer == "ENOSPC"), "{answers:?}");
}

fn serve(place: &Place, a: &str, on_full: &str) -> Serving {
    let a = format!("a={a},on-full={on_full}");
    let b = format!("b={}", place.text("b"));
    Serving::start(place, &["--snapshot", &a, "--snapshot", &b])
}

#[test]
fn a_full_file_system_drops_the_snapshot_where_that_is_the_rule() {
    if skipped("a full file system") {
        return;
    }
    let place = Place::new(8, &["b"]);
    let small = Small::new(&place, "2M");
    let a = small.cow("a");
    let serving = serve(&place, &a, "invalidate");
    fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
    fill(&place);
    fine(&place, "a", &[Find(1, 0, 64 << 10), Read(7 * MIB, MIB)]);
    fine(&place, "b", &[Write(2, 0, 4096), Flush]);
    fine(&place, "origin", &[Write(3, 6 * MIB, MIB), Flush, Find(3, 6 * MIB, MIB)]);
    refused(&place, "a", "EIO", &[Read(0, 4096)]);
    fine(&place, "b", &[Find(2, 0, 4096)]);
    ended_without(serving, "a");
    // For good.
    let checked = tool_fails(&["check", &a]);
    assert!(checked.contains("dropped"), "{checked}");
}

fn tool_fails(args: &[&str]) -> String {
    let done = output(DMSNAP, args);
    assert!(!done.status.success(), "{args:?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn a_full_file_system_fails_origin_writes_where_that_is_the_rule() {
    if skipped("a full file system") {
        return;
    }
    let place = Place::new(8, &["b"]);
    let before = place.read("origin");
    let small = Small::new(&place, "2M");
    let a = small.cow("a");
    let serving = serve(&place, &a, "fail");
    fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
    fill(&place);
    refused(&place, "origin", "ENOSPC", &[Write(3, 6 * MIB, MIB), Write(3, 7 * MIB, 512)]);
    fine(&place, "a", &[Find(1, 0, 64 << 10), Read(0, 8 * MIB)]);
    // There is room for it again.
    small.grow("32M");
    fine(&place, "origin", &[Write(3, 6 * MIB, MIB), Flush, Find(3, 6 * MIB, MIB)]);
    assert_eq!(serving.stop(), "");
    let serving = serve(&place, &a, "fail");
    fine(&place, "a", &[Find(1, 0, 64 << 10)]);
    assert!(place.copy_of("a")[6 << 20..] == before[6 << 20..], "the old data");
    assert_eq!(serving.stop(), "");
}

#[test]
fn a_full_file_system_is_waited_for_where_that_is_the_rule() {
    if skipped("a full file system") {
        return;
    }
    let place = Place::new(8, &["b"]);
    let small = Small::new(&place, "2M");
    let a = small.cow("a");
    let serving = serve(&place, &a, "wait:20");
    fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
    fill(&place);
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| fine(&place, "origin", &[Write(3, 6 * MIB, MIB), Flush]));
        thread::sleep(Duration::from_millis(700));
        // Meanwhile the others go on.
        fine(&place, "b", &[Write(2, 0, 4096), Flush, Find(2, 0, 4096)]);
        small.grow("32M");
    });
    assert!(began.elapsed() > Duration::from_millis(700));
    fine(&place, "origin", &[Find(3, 6 * MIB, MIB)]);
    fine(&place, "a", &[Find(1, 0, 64 << 10)]);
    assert_eq!(serving.stop(), "");
}

/// The limit that a shell sets with `ulimit -f`: no signal kills anybody.
#[test]
fn a_limit_of_file_sizes_is_no_room() {
    let place = Place::new(8, &["a", "b"]);
    let a = format!("a={}", place.text("a"));
    for io in ["direct", "buffered"] {
        let serving = Serving::start(&place, &["--snapshot", &a, "--io", io]);
        let limit = Rlimit { current: Some(2 << 20), maximum: Some(2 << 20) };
        prlimit(Some(serving.pid()), Resource::Fsize, limit).expect("limited");
        fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
        fill(&place);
        fine(&place, "a", &[Find(1, 0, 64 << 10), Flush]);
        let (_, said) = serving.end();
        assert!(said.lines().count() <= 1, "{said}");
    }
    let (new, image) = (place.text("new"), place.text("image"));
    let (b, origin) = (place.text("b"), place.text("origin"));
    for args in [&["create", "--size", "64M", &new][..], &["export", &b, &origin, &image]] {
        let done = output("prlimit", &[&["--fsize=1048576", DMSNAP], args].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("File too large") && said.lines().count() == 1, "{args:?}: {said}");
    }
}
