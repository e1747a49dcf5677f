use crate::bad_disks::client::Ask::{Find, Flush, Read, Write};
use crate::bad_disks::client::{asked, fine, refused};
use crate::controlled::{ctl_json, start, wait_until};
use crate::loops::usable;
use crate::real_disks::disks::{KINDS, Small};
use crate::real_disks::rounds;
use crate::serving::{DMSNAP, MIB, Place, output, tool};

/// A server with a snapshot `a` on a small file system, and `b` elsewhere.
fn args(small: &Small, place: &Place, on_full: &str, io: &str) -> Vec<String> {
    let a = format!("a={},on-full={on_full}", small.text("a"));
    let b = format!("b={}", place.text("b"));
    ["--snapshot", &a, "--snapshot", &b, "--io", io].map(str::to_owned).into()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn state(place: &Place, name: &str) -> String {
    let status = ctl_json(place, &["status"]);
    let snapshots = status["snapshots"].as_array().expect("a list");
    let found = snapshots.iter().find(|it| it["name"] == name).expect("is served");
    found["state"].as_str().expect("a word").to_owned()
}

/// `fail`: the snapshot is never dropped, however full its file system is; and when there is room again,
/// everything goes on.
#[test]
fn a_snapshot_survives_a_full_file_system() {
    if !usable("a full file system") {
        return;
    }
    for (kind, io) in KINDS.iter().flat_map(|kind| rounds().into_iter().map(move |io| (kind, io))) {
        let Some(small) = Small::new(kind) else { continue };
        let place = Place::new(8, &["b"]);
        let before = place.read("origin");
        tool(DMSNAP, &["create", "--size", "32M", &small.text("a")]);
        let args = args(&small, &place, "fail", io);
        let serving = start(&place, &words(&args));
        fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
        fine(&place, "origin", &[Write(2, MIB, 64 << 10), Flush]);
        small.fill();
        // Whether a write finds room is up to the file system; what it does not find is "no space".
        for n in 0..6 {
            let at = 2 * MIB + n * (256 << 10);
            let answers = asked(&place, "origin", &[Write(3, at, 128 << 10), Flush]);
            let known = answers.iter().all(|it| ["ok", "ENOSPC"].contains(&it.as_str()));
            assert!(known, "{kind}: {answers:?}");
            asked(&place, "a", &[Write(4, 5 * MIB + n * 4096, 4096), Flush]);
        }
        assert_ne!(state(&place, "a"), "invalid", "{kind}, {io}: dropped in spite of its rule");
        fine(&place, "a", &[Find(1, 0, 64 << 10), Read(0, 8 * MIB)]);
        fine(&place, "b", &[Write(5, 0, 4096), Flush, Find(5, 0, 4096)]);
        small.drain();
        fine(&place, "origin", &[Write(6, 3 * MIB, MIB), Flush, Find(6, 3 * MIB, MIB)]);
        fine(&place, "a", &[Write(7, 6 * MIB, 4096), Flush, Find(7, 6 * MIB, 4096)]);
        assert_eq!(serving.stop(), "", "{kind}, {io}");
        let serving = start(&place, &words(&args));
        fine(&place, "a", &[Find(1, 0, 64 << 10), Find(7, 6 * MIB, 4096)]);
        let kept = place.copy_of("a");
        let range = 1 << 20..5 << 20;
        assert!(kept[range.clone()] == before[range], "{kind}, {io}: the old data");
        assert_eq!(serving.stop(), "", "{kind}, {io}");
        tool(DMSNAP, &["check", &small.text("a"), &place.text("origin")]);
    }
}

/// `invalidate`: what was dropped stays so, although its mark found no room at first.
#[test]
fn a_snapshot_that_was_dropped_for_lack_of_room_stays_dropped() {
    if !usable("a mark without room") {
        return;
    }
    for (kind, io) in KINDS.iter().flat_map(|kind| rounds().into_iter().map(move |io| (kind, io))) {
        let Some(small) = Small::new(kind) else { continue };
        let place = Place::new(8, &["b"]);
        tool(DMSNAP, &["create", "--size", "32M", &small.text("a")]);
        let args = args(&small, &place, "invalidate", io);
        let serving = start(&place, &words(&args));
        fine(&place, "a", &[Write(1, 0, 64 << 10), Flush]);
        small.fill();
        for n in 0..24 {
            asked(&place, "origin", &[Write(3, n * (256 << 10), 256 << 10), Flush]);
            if state(&place, "a") == "invalid" {
                break;
            }
        }
        let dropped = state(&place, "a") == "invalid";
        if dropped {
            refused(&place, "a", "EIO", &[Read(0, 4096)]);
        }
        small.drain();
        let checked = || output(DMSNAP, &["check", &small.text("a")]);
        if dropped {
            // As long as the server runs it tries again; and when it ends.
            wait_until("the mark", || !checked().status.success());
        }
        fine(&place, "b", &[Write(5, 0, 4096), Flush, Find(5, 0, 4096)]);
        let (_, said) = serving.end();
        let printed = String::from_utf8_lossy(&checked().stdout).into_owned();
        assert_eq!(printed.contains("dropped"), dropped, "{kind}, {io}: {printed}{said}");
    }
}
