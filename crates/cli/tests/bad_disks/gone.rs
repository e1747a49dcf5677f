use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::bad_disks::client::Ask::{Find, Flush, Read, Write};
use crate::bad_disks::client::{asked, fine, refused};
use crate::bad_disks::disk::BadDisk;
use crate::bad_disks::skipped;
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

const K64: u64 = 64 << 10;

#[test]
fn a_cow_device_that_goes_away_takes_its_snapshot_with_it() {
    if skipped("going away") {
        return;
    }
    for io in ["--io=direct", "--io=buffered"] {
        one_that_goes_away(io);
    }
}

fn one_that_goes_away(io: &str) {
    let place = Place::new(8, &["a", "b"]);
    let mut cow = BadDisk::over(&place, "a");
    let args = [format!("a={}", cow.text()), format!("b={}", place.text("b"))];
    let control = format!("unix:{}", place.text("control"));
    let args = ["--snapshot", &args[0], "--snapshot", &args[1], io, "--control", &control];
    let serving = Serving::start(&place, &args);
    fine(&place, "a", &[Write(1, 0, K64), Flush]);
    cow.goes_away();
    // What is read may still be in the page cache.
    refused(&place, "a", "EIO", &[Write(2, MIB, 4096), Flush]);
    fine(&place, "b", &[Write(3, 0, K64), Flush]);
    // What the snapshot has the old data of needs nothing of its device.
    fine(&place, "origin", &[Write(4, 0, K64), Flush, Read(MIB, K64)]);
    // It may have waited in memory.
    let answers = asked(&place, "origin", &[Write(5, MIB, K64), Flush]);
    assert!(answers.iter().any(|answer| answer == "EIO"), "{answers:?}");
    refused(&place, "origin", "EIO", &[Write(5, MIB, K64)]);
    // Whose device is gone for good is given up by hand.
    let removed = output(DMSNAP, &["ctl", "--control", &control, "snapshot", "remove", "a"]);
    let said = String::from_utf8_lossy(&removed.stderr);
    assert!(!removed.status.success() && said.contains("a: removed, but"), "{said}");
    fine(&place, "origin", &[Write(5, MIB, K64), Flush]);
    fine(&place, "b", &[Find(3, 0, K64)]);
    // It may have been taken out before anybody looked.
    let (status, said) = serving.end();
    assert!(status.success(), "{status}: {said}");
    drop(cow);

    // What was flushed is in the file, and the other snapshot is whole.
    let serving = Serving::start(&place, &args[2..4]);
    fine(&place, "b", &[Find(3, 0, K64)]);
    fine(&place, "origin", &[Find(4, 0, K64), Find(5, MIB, K64)]);
    assert_eq!(serving.stop(), "");
    let exceptions = tool(DMSNAP, &["info", "--json", &place.text("a")]);
    assert!(exceptions.contains("\"exceptions\":16"), "{exceptions}");
}

#[test]
fn a_cow_file_cut_short_underneath_fails_what_it_has_lost() {
    let place = Place::new(8, &["a", "b"]);
    let args = [format!("a={}", place.text("a")), format!("b={}", place.text("b"))];
    let serving = Serving::start(&place, &["--snapshot", &args[0], "--snapshot", &args[1]]);
    fine(&place, "a", &[Write(1, 0, MIB), Flush]);
    let file = fs::OpenOptions::new().write(true).open(place.path("a")).expect("there");
    file.set_len(512 << 10).expect("cut");
    fine(&place, "a", &[Find(1, 0, K64)]);
    refused(&place, "a", "EIO", &[Read(MIB - K64, K64)]);
    // Nobody takes what is left for a sound store.
    let checked = output(DMSNAP, &["check", &place.text("a"), &place.text("origin")]);
    assert_eq!(checked.status.code(), Some(1));
    fine(&place, "b", &[Write(3, 0, K64), Flush]);
    fine(&place, "origin", &[Write(4, 2 * MIB, K64), Flush, Find(4, 2 * MIB, K64)]);
    fine(&place, "b", &[Find(3, 0, K64)]);
    let (_, said) = serving.end();
    assert!(said.lines().count() <= 2, "{said}");
}

/// A loop device whose file is cut short, and that is detached while it is in use.
#[test]
fn a_disk_that_shrinks_is_an_error_and_no_end() {
    if skipped("loop devices") || !PathBuf::from("/dev/loop-control").exists() {
        return;
    }
    let place = Place::new(8, &["s"]);
    let device = attached(&place.text("origin"));
    let serving =
        Serving::exactly(&place, &[&device, "--snapshot", &format!("s={}", place.text("s"))]);
    fine(&place, "s", &[Write(1, 0, K64), Flush]);
    let file = fs::OpenOptions::new().write(true).open(place.path("origin")).expect("there");
    file.set_len(4 << 20).expect("cut");
    refused(&place, "origin", "EIO", &[Read(6 * MIB, K64)]);
    refused(&place, "s", "EIO", &[Read(6 * MIB, K64)]);
    fine(&place, "s", &[Find(1, 0, K64), Write(2, MIB, K64), Flush, Find(2, MIB, K64)]);
    // As long as somebody has it open, it stays.
    tool("losetup", &["--detach", &device]);
    fine(&place, "origin", &[Write(3, 2 * MIB, K64), Flush, Find(3, 2 * MIB, K64)]);
    assert_eq!(serving.stop(), "");
}

fn attached(file: &str) -> String {
    // Others look for a free device at the same time: a loser asks again.
    for _ in 0..50 {
        let done = output("losetup", &["--find", "--show", file]);
        if done.status.success() {
            return String::from_utf8_lossy(&done.stdout).trim().into();
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no loop device for {file}");
}

#[test]
fn a_slow_disk_slows_nobody_else() {
    if skipped("slow disks") {
        return;
    }
    let place = Place::new(8, &["a", "b"]);
    let cow = BadDisk::slow(&place, "a", 3);
    let args = [format!("a={}", cow.text()), format!("b={}", place.text("b"))];
    let serving = Serving::start(&place, &["--snapshot", &args[0], "--snapshot", &args[1]]);
    let began = Instant::now();
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let answers = asked(&place, "a", &[Write(1, 0, 4096), Flush, Find(1, 0, 4096)]);
            (answers, began.elapsed())
        });
        fine(&place, "b", &[Write(2, 0, K64), Flush, Find(2, 0, K64)]);
        fine(&place, "origin", &[Read(0, K64)]);
        let quick = began.elapsed();
        let (answers, took) = slow.join().expect("the slow client");
        assert_eq!(answers, ["ok"; 3]);
        assert!(took > Duration::from_secs(3), "it is not slow: {took:?}");
        assert!(quick < took, "{quick:?}, compared with {took:?}");
    });
    assert_eq!(serving.stop(), "");
}
