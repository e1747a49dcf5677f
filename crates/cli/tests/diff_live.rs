//! Differences of what a server serves: `dmsnap ctl diff`, `GET /v1/diff`, and bitmaps over NBD.

use serde_json::{Value, json};

use crate::controlled::{SECOND, control, ctl, ctl_json, http, refused, start, wait_until};
use crate::serving::{DMSNAP, MIB, Place, Serving, output};

/// A server with an origin of 8 MiB and two snapshots, in which something was written.
fn serving() -> (Place, Serving) {
    let place = Place::new(8, &["a", "b"]);
    let snapshots = ["a", "b"].map(|name| format!("{name}={}", place.text(name)));
    let serving = start(&place, &["--snapshot", &snapshots[0], "--snapshot", &snapshots[1]]);
    place.qemu_io("a", &["write -P 7 1M 64k", "write -P 7 4M 4k"]);
    place.qemu_io("b", &["write -P 8 2M 8k", "write -P 8 4M 4k"]);
    (place, serving)
}

/// What is called different, over NBD.
fn bitmap(place: &Place, export: &str, name: &str) -> Vec<(u64, u64)> {
    let map = place.map(export, &format!("qemu:dirty-bitmap:{name}"));
    let dirty = map.iter().filter(|(.., kind)| *kind == 1);
    dirty.map(|(at, len, _)| (*at, *len)).collect()
}

fn diff(place: &Place, from: &str, to: &str) -> Value {
    let done = output(DMSNAP, &["ctl", "--control", &control(place), "diff", from, to, "--json"]);
    let said = String::from_utf8_lossy(&done.stdout);
    let diff: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    let differs = diff["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty());
    assert_eq!(done.status.code(), Some(i32::from(differs)), "{said}");
    diff
}

fn ranges(diff: &Value) -> Vec<(u64, u64)> {
    let number = |it: &Value, name| it[name].as_u64().expect("a number");
    let ranges = diff["ranges"].as_array().expect("a list");
    ranges.iter().map(|it| (number(it, "start"), number(it, "length"))).collect()
}

const K: u64 = 1 << 10;

#[test]
fn the_server_tells_what_its_bitmaps_tell() {
    let (place, serving) = serving();
    let a = [(MIB, 64 * K), (4 * MIB, 4 * K)];
    let b = [(2 * MIB, 8 * K), (4 * MIB, 4 * K)];
    let both = [(MIB, 64 * K), (2 * MIB, 8 * K), (4 * MIB, 4 * K)];
    let all = [("a", "origin", &a[..]), ("b", "origin", &b[..]), ("a", "b", &both[..])];
    for (one, other, expected) in all {
        for (from, to) in [(one, other), (other, one)] {
            let found = diff(&place, from, to);
            assert_eq!(ranges(&found), expected, "{from} {to}");
            assert_eq!(found["size"], 8 * MIB);
            assert_eq!((&found["granularity"], &found["next"]), (&json!(4096), &Value::Null));
            assert_eq!(bitmap(&place, from, to), expected, "{from}: {to}");
        }
    }
    // As before this was there.
    assert_eq!(bitmap(&place, "a", "a"), a);
    for same in ["origin", "a"] {
        assert_eq!(ranges(&diff(&place, same, same)), [], "{same}");
    }
    // A write to the origin differs from both snapshots, and between them it makes no difference.
    place.qemu_io("origin", &["write -P 9 6M 4k"]);
    let with = |ranges: &[(u64, u64)]| [ranges, &[(6 * MIB, 4 * K)]].concat();
    assert_eq!(ranges(&diff(&place, "a", "origin")), with(&a));
    assert_eq!(bitmap(&place, "origin", "b"), with(&b));
    // Both have kept the same old data: that is what the stores know.
    assert_eq!(ranges(&diff(&place, "a", "b")), with(&both));
    assert_eq!(bitmap(&place, "b", "a"), with(&both));

    // People get lines, and all pages of them.
    let control = control(&place);
    let ctl = |args: &[&str]| {
        let done = output(DMSNAP, &[&["ctl", "--control", &control, "diff"][..], args].concat());
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let lines = "1048576 65536  64 KiB\n4194304 4096  4 KiB\n6291456 4096  4 KiB\n";
    assert_eq!(ctl(&["a", "origin"]), (Some(1), lines.into()));
    let line = "1048676 65436  63.9 KiB\n";
    assert_eq!(ctl(&["a", "origin", "--start", "1048676", "--max", "1"]), (Some(1), line.into()));
    assert_eq!(ctl(&["a", "origin", "--start", "7M"]), (Some(0), String::new()));
    assert_eq!(serving.stop(), "");

    // The stores alone say the same.
    let lines = output(DMSNAP, &["diff", &place.text("a"), &place.text("b")]);
    let found = String::from_utf8_lossy(&lines.stdout);
    let starts: Vec<_> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(starts, ["1048576", "2097152", "4194304", "6291456"]);
}

#[test]
fn pages_over_http_are_the_whole_and_what_is_wrong_is_told() {
    let place = Place::new(8, &["a"]);
    let odd = "o d+/%&\u{f6}";
    let options = format!("{odd}={}", place.text("a"));
    let serving = start(&place, &["--snapshot", &options]);
    let commands: Vec<_> = (0..10).map(|n| format!("write -P 7 {} 4k", n * 64 * K)).collect();
    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
    place.qemu_io("o%20d+%2F%25%26%C3%B6", &commands);
    let ask = |query: &str| http(&place, "GET", &format!("/v1/diff{query}"), "");
    let named = "?from=origin&to=o+d%2B%2f%25%26%c3%b6";
    let (mut found, mut start) = (Vec::new(), 0);
    loop {
        let (status, answer) = ask(&format!("{named}&start={start}&max=3"));
        assert_eq!(status, 200, "{answer}");
        let page: Value = serde_json::from_str(&answer).expect("JSON");
        found.extend(ranges(&page));
        match page["next"].as_u64() {
            Some(next) => start = next,
            None => break,
        }
    }
    assert_eq!(found, (0..10).map(|n| (n * 64 * K, 4 * K)).collect::<Vec<_>>());
    for (query, status, words) in [
        ("", 400, "the parameter from is missing"),
        ("?from=origin", 400, "the parameter to is missing"),
        ("?from=origin&to=zzz", 404, "no snapshot is named zzz"),
        ("?from=%ff&to=origin", 400, "not UTF-8"),
        ("?from=origin&to=origin&what=1", 400, "is not one of"),
        (&format!("{named}&max=0"), 400, "max is 0"),
        (&format!("{named}&max=many"), 400, "not a number"),
        (&format!("{named}&start=-1"), 400, "not a number"),
        (&format!("{named}&start=8388609"), 400, "past the end"),
    ] {
        let (found, answer) = ask(query);
        assert_eq!(found, status, "{query}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let said = answer["error"]["message"].as_str().expect("words");
        assert!(said.contains(words) && !said.contains('\n'), "{query}: {said}");
    }
    assert_eq!(ask(&format!("{named}&start=8388608")).0, 200);
    assert_eq!(http(&place, "POST", "/v1/diff", "").0, 405);
    refused(&place, &["diff", "origin", "zzz"], "no snapshot is named zzz");
    assert_eq!(serving.stop(), "");
}

#[test]
fn a_snapshot_that_cannot_tell_is_refused_everywhere() {
    let (place, serving) = serving();
    let offered = |export: &str| {
        let told = output("nbdinfo", &["--json", &place.uri(export)]);
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let contexts = told["exports"][0]["contexts"].as_array().expect("a list").clone();
        let name = |it: &Value| {
            it.as_str().expect("text").strip_prefix("qemu:dirty-bitmap:").map(str::to_owned)
        };
        let mut names: Vec<_> = contexts.iter().filter_map(name).collect();
        names.sort();
        names
    };
    assert_eq!(offered("origin"), ["a", "b"]);
    assert_eq!(offered("a"), ["a", "b", "origin"]);
    assert_eq!(offered("b"), ["a", "b", "origin"]);
    ctl(&place, &["merge", "start", "a", "--rate", "1", "--window", "4k"]);
    // What merges and the origin are one device, and the other one knows how that differs.
    refused(&place, &["diff", "a", "origin"], "no longer tells what has changed");
    refused(&place, &["diff", "b", "a"], "no longer tells what has changed");
    let shown = ranges(&diff(&place, "b", "origin"));
    assert_eq!(shown, [(MIB, 64 * K), (2 * MIB, 8 * K), (4 * MIB, 4 * K)]);
    assert_eq!(bitmap(&place, "b", "origin"), shown);
    assert_eq!(offered("origin"), ["b"]);
    assert_eq!(offered("a"), [""; 0]);
    assert_eq!(offered("b"), ["b", "origin"]);
    let (status, answer) = http(&place, "GET", "/v1/diff?from=a&to=b", "");
    assert_eq!(status, 409, "{answer}");
    assert!(answer.contains("\"changes-unknown\""), "{answer}");
    ctl(&place, &["merge", "rate", "none"]);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == "finished");
    refused(&place, &["diff", "b", "a"], "no longer tells what has changed");
    ctl(&place, &["snapshot", "remove", "a"]);
    refused(&place, &["diff", "b", "a"], "no snapshot is named a");
    // Another one of that name is another one.
    let again = format!("a={}", place.text("a"));
    ctl(&place, &["snapshot", "create", &again]);
    assert_eq!(offered("b"), ["a", "b", "origin"]);
    assert_eq!(ranges(&diff(&place, "a", "origin")), []);
    assert_eq!(ranges(&diff(&place, "a", "b")), ranges(&diff(&place, "b", "origin")));
    ctl(&place, &["snapshot", "invalidate", "b"]);
    refused(&place, &["diff", "a", "b"], "b: the snapshot was dropped");
    refused(&place, &["diff", "origin", "b"], "b: the snapshot was dropped");
    assert_eq!(offered("a"), ["a", "origin"]);
    assert_eq!(offered("origin"), ["a"]);
    serving.stop();
}

/// What is called the same is the same, while clients write and another snapshot merges.
#[test]
fn differences_are_right_while_clients_write() {
    let place = Place::new(8, &["a", "b", "m"]);
    let snapshots = ["a", "b", "m"].map(|name| format!("{name}={}", place.text(name)));
    let mut args = Vec::new();
    snapshots.iter().for_each(|it| args.extend(["--snapshot", it]));
    let serving = start(&place, &args);
    place.qemu_io("m", &["write -P 5 3M 1M"]);
    ctl(&place, &["merge", "start", "m", "--rate", "32k", "--window", "32k"]);
    for round in 0..6_u64 {
        let at = format!("{}k", 512 * round + 100);
        std::thread::scope(|scope| {
            for (export, byte) in [("origin", "1"), ("a", "2"), ("b", "3")] {
                let write = format!("write -P {byte} {at} 20k");
                let place = &place;
                scope.spawn(move || place.qemu_io(export, &[&write]));
            }
            // Whatever it says meanwhile, it answers.
            let begun = std::time::Instant::now();
            diff(&place, "a", "b");
            diff(&place, "a", "origin");
            assert!(begun.elapsed() < 20 * SECOND);
        });
        // Between two questions nothing shall move.
        ctl(&place, &["merge", "pause"]);
        wait_until("a pause", || ctl_json(&place, &["status"])["merge"]["state"] == "paused");
        for (one, other) in [("a", "b"), ("b", "origin"), ("a", "origin")] {
            let (mut left, right) = (place.copy_of(one), place.copy_of(other));
            let found = ranges(&diff(&place, one, other));
            assert_eq!(bitmap_within(&place, one, other), found, "{one} {other}");
            for (at, len) in found {
                let range =
                    usize::try_from(at).expect("small")..usize::try_from(at + len).expect("small");
                left[range.clone()].copy_from_slice(&right[range]);
            }
            assert!(left == right, "{one} and {other} differ elsewhere");
        }
        ctl(&place, &["merge", "resume"]);
    }
    ctl(&place, &["merge", "cancel"]);
    assert_eq!(serving.stop(), "");
}

/// Of a snapshot's export, or that of the origin: both tell the same of the other.
fn bitmap_within(place: &Place, one: &str, other: &str) -> Vec<(u64, u64)> {
    let (there, back) = (bitmap(place, one, other), bitmap(place, other, one));
    assert_eq!(there, back, "{one} {other}");
    there
}
