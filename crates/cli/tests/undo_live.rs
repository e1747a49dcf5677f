//! Merges of a running server that are taken back, with clients that nobody here wrote.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::controlled::{SECOND, ctl, ctl_json, refused, start, wait_until};
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

/// An origin of 16 MiB with a snapshot `s` that differs in 5 MiB of it, which clients have written.
struct World {
    place: Place,
    /// What the origin is.
    old: Vec<u8>,
    /// What the snapshot shows.
    new: Vec<u8>,
}

impl World {
    fn new() -> (Self, Serving) {
        let place = Place::new(16, &["s"]);
        let serving = start(&place, &["--snapshot", &format!("s={}", place.text("s"))]);
        place.qemu_io("s", &["write -P 7 1M 4M", "write -P 8 9M 1M", "flush"]);
        let (old, new) = (place.read("origin"), place.copy_of("s"));
        (Self { place, old, new }, serving)
    }

    /// The arguments of a server of both stores.
    fn both(&self) -> [String; 4] {
        let snapshot = |name: &str, cow: &str| format!("{name}={}", self.place.text(cow));
        let (s, undo) = (snapshot("s", "s"), snapshot("s-undo", "undo"));
        ["--snapshot".into(), s, "--snapshot".into(), undo]
    }

    fn again(&self, args: &[&str]) -> Serving {
        start(&self.place, args)
    }

    fn merge(&self, more: &[&str]) -> String {
        let undo = self.place.text("undo");
        ctl(&self.place, &[&["merge", "start", "s", "--undo", &undo][..], more].concat())
    }

    fn shown(&self, cow: &str) -> Vec<u8> {
        let [cow, origin, out] = [cow, "origin", "out"].map(|it| self.place.text(it));
        let _ = fs::remove_file(&out);
        tool(DMSNAP, &["export", &cow, &origin, &out]);
        self.place.read("out")
    }

    fn status_of(&self, name: &str) -> Value {
        let status = ctl_json(&self.place, &["status"]);
        let snapshots = status["snapshots"].as_array().expect("a list").clone();
        snapshots.into_iter().find(|it| it["name"] == name).expect("it is there")
    }

    /// Waits until a part of the merge is done, and lets it stay so.
    fn paused_half_way(&self) {
        self.half_way();
        ctl(&self.place, &["merge", "pause"]);
    }

    /// Waits until a part of the merge is done.
    fn half_way(&self) {
        wait_until("half of the merge", || {
            let merge = &ctl_json(&self.place, &["status"])["merge"];
            merge["exceptions_left"].as_u64() < merge["exceptions_total"].as_u64()
        });
    }
}

fn texts(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_running_merge_is_taken_back_and_made_again() {
    let (world, serving) = World::new();
    let World { place, old, new } = &world;
    let told = world.merge(&["--rate", "1M", "--window", "256K"]);
    assert!(told.contains("merge of s: running") && told.contains("way back: s-undo"), "{told}");
    assert!(place.copy_of("origin") == *new && place.copy_of("s-undo") == *old);
    world.paused_half_way();
    // The merging device is written, its way back is not.
    place.qemu_io("s", &["write -P 9 2M 64k", "write -P 10 12M 64k", "flush"]);
    let refused_write = output("qemu-io", &["-f", "raw", "-c", "write 0 4k", &place.uri("s-undo")]);
    assert!(!refused_write.status.success(), "the way back can be written");
    assert!(place.copy_of("s-undo") == *old, "the way back keeps what clients write over");
    let written = place.copy_of("s");
    assert!(written != *new && place.copy_of("origin") == written);
    let shown = world.status_of("s-undo");
    assert_eq!((&shown["way_back"], &shown["partner"]), (&json!(true), &json!("s")));
    assert_eq!(world.status_of("s")["partner"], "s-undo");
    refused(place, &["merge", "start", "s", "--undo", &place.text("other")], "s is merging");
    refused(place, &["snapshot", "remove", "s-undo"], "shares an undoable merge with s");

    let told = ctl(place, &["merge", "undo", "s"]);
    assert!(told.contains("merge of s-undo: running") && told.contains("way back: s"), "{told}");
    assert!(place.copy_of("origin") == *old && place.copy_of("s") == written);
    // Half-way back, and forth once more.
    ctl(place, &["merge", "undo", "s-undo"]);
    assert!(place.copy_of("origin") == written && place.copy_of("s-undo") == *old);
    ctl(place, &["merge", "rate", "none"]);
    wait_until("the end", || ctl_json(place, &["status"])["merge"]["state"] == "finished");
    assert!(place.copy_of("origin") == written && place.copy_of("s-undo") == *old);
    let told = ctl(place, &["merge", "undo", "s", "--wait"]);
    assert!(told.contains("merge of s-undo: finished"), "{told}");
    assert!(place.copy_of("origin") == *old && place.copy_of("s") == written);
    // A plain snapshot again.
    place.qemu_io("s", &["write -P 11 3M 64k", "flush", "read -P 11 3M 64k"]);
    assert!(place.copy_of("origin") == *old);
    let left = place.copy_of("s");
    let said = serving.stop();
    assert!(said.contains("s-undo: merged"), "{said}");
    assert!(place.read("origin") == *old && world.shown("s") == left);
    for cow in ["s", "undo"] {
        tool(DMSNAP, &["check", &place.text(cow), &place.text("origin")]);
        let info: Value =
            serde_json::from_str(&tool(DMSNAP, &["info", "--json", &place.text(cow)]))
                .expect("JSON");
        assert_eq!(info["state"], "plain", "nobody needs the other: {info}");
    }
}

/// fio, which verifies what it has written.
fn verifying(place: &Place) -> Child {
    let uri = format!("--uri={}", place.uri("s"));
    let args = "--name=verify --ioengine=nbd --rw=randwrite --bs=4k-32k --size=16m --io_size=60m \
                --iodepth=16 --fsync=32 --verify=crc32c --verify_fatal=1 --output-format=terse \
                --aux-path=/tmp --verify_state_save=0 --rate=12m";
    Command::new("fio")
        .args(args.split_whitespace())
        .arg(uri)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio")
}

#[test]
fn no_client_notices_that_a_merge_is_taken_back() {
    let (world, serving) = World::new();
    let World { place, old, .. } = &world;
    world.merge(&["--rate", "4M", "--window", "512K"]);
    let client = verifying(place);
    world.half_way();
    for name in ["s", "s-undo", "s"] {
        std::thread::sleep(SECOND / 2);
        ctl(place, &["merge", "undo", name]);
    }
    let done = client.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    ctl(place, &["merge", "rate", "none"]);
    wait_until("the end", || ctl_json(place, &["status"])["merge"]["state"] == "finished");
    assert!(place.copy_of("origin") == *old, "the origin is not the old one");
    let status = ctl_json(place, &["status"]);
    let exports = status["exports"].as_array().expect("a list");
    assert!(exports.iter().all(|it| it["errors"] == 0), "{status}");
    serving.stop();
}

#[test]
fn a_killed_server_goes_on_or_takes_back_with_both_stores_and_not_with_one() {
    for round in 0..3 {
        let (world, serving) = World::new();
        let World { place, old, new } = &world;
        world.merge(&["--rate", "1M", "--window", "128K"]);
        world.paused_half_way();
        place.qemu_io("s", &["write -P 9 12M 64k", "flush"]);
        let written = place.copy_of("s");
        serving.kill();
        assert!(written != *new && world.shown("s") == written && world.shown("undo") == *old);
        let alone = [format!("s={}", place.text("s")), format!("u={}", place.text("undo"))];
        for one in &alone {
            let nbd = format!("unix:{}", place.text("socket"));
            let args = ["serve", &place.text("origin"), "--nbd", &nbd, "--snapshot", one];
            let done = output(DMSNAP, &args);
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(3), "{said}");
            assert!(said.contains("shares an undoable merge with the store"), "{said}");
        }
        let refused_alone = output(DMSNAP, &["merge", &place.text("s"), &place.text("origin")]);
        let said = String::from_utf8_lossy(&refused_alone.stderr);
        assert!(said.contains("is merged with a way back in the store"), "{said}");
        match round {
            // The same server, which takes it back.
            0 => {
                let both = world.both();
                let serving = world.again(&texts(&both));
                assert!(place.copy_of("s") == written && place.copy_of("s-undo") == *old);
                ctl(place, &["merge", "undo", "s", "--wait"]);
                assert!(place.copy_of("origin") == *old && place.copy_of("s") == written);
                serving.stop();
                assert!(place.read("origin") == *old && world.shown("s") == written);
            }
            // Nobody serves it: both ways offline.
            1 => {
                let [s, origin, undo] = ["s", "origin", "undo"].map(|it| place.text(it));
                tool(DMSNAP, &["undo", &s, &origin, &undo]);
                assert!(place.read("origin") == *old && world.shown("s") == written);
                tool(DMSNAP, &["merge", "--undo", &undo, &s, &origin]);
                assert!(place.read("origin") == written && world.shown("undo") == *old);
            }
            // Without the way back.
            _ => {
                let serving = world.again(&["--snapshot", &alone[0], "--forget-undo"]);
                let told = ctl(place, &["merge", "start", "s", "--wait"]);
                assert!(told.contains("its way back is lost"), "{told}");
                assert!(place.copy_of("origin") == written);
                serving.stop();
            }
        }
    }
}

#[test]
fn a_server_that_begins_with_a_merge_goes_on_with_it_by_the_same_command() {
    let (world, serving) = World::new();
    let World { place, old, new } = &world;
    serving.stop();
    let (s, undo) = (format!("s={}", place.text("s")), place.text("undo"));
    let args = ["--snapshot", &s, "--merge", "s", "--undo", &undo];
    let slow = [&args[..], &["--rate", "1M", "--window", "128K"]].concat();
    let serving = world.again(&slow);
    world.half_way();
    assert!(place.copy_of("s-undo") == *old);
    serving.kill();
    let serving = world.again(&args);
    wait_until("the end", || ctl_json(place, &["status"])["merge"]["state"] == "finished");
    assert!(place.copy_of("origin") == *new && place.copy_of("s-undo") == *old);
    let said = serving.stop();
    assert!(said.contains("s: merged"), "{said}");
    assert!(world.shown("undo") == *old);
}

#[test]
fn a_way_back_that_cannot_grow_is_lost_loudly_and_the_merge_is_not() {
    let (world, serving) = World::new();
    let World { place, new, .. } = &world;
    serving.stop();
    let (s, undo) = (format!("s={}", place.text("s")), place.text("undo"));
    let args = ["--snapshot", &s, "--merge", "s", "--undo", &undo, "--max-size", "6M"];
    let serving = world.again(&[&args[..], &["--rate", "2M"]].concat());
    // More than the sixth MiB.
    place.qemu_io("origin", &["write -P 5 12M 3M", "flush"]);
    ctl(place, &["merge", "rate", "none"]);
    wait_until("the end", || ctl_json(place, &["status"])["merge"]["state"] == "finished");
    let merge = &ctl_json(place, &["status"])["merge"];
    assert_eq!((&merge["way_back"], &merge["way_back_lost"]), (&Value::Null, &json!(true)));
    assert_eq!(world.status_of("s-undo")["state"], "invalid");
    refused(place, &["merge", "undo", "s"], "s: no store here keeps a way back");
    let mut expected = new.clone();
    let at = usize::try_from(12 * MIB).expect("small");
    expected[at..at + (3 << 20)].fill(5);
    assert!(place.copy_of("origin") == expected);
    let (status, said) = serving.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("can no longer be taken back: s-undo was dropped"), "{said}");
}

#[test]
fn what_cannot_be_a_way_back_is_refused_before_anything_is_written() {
    let (world, serving) = World::new();
    let place = &world.place;
    tool(DMSNAP, &["create", "--size", "1M", &place.text("store")]);
    fs::write(place.path("small"), vec![0; 4 << 20]).expect("written");
    fs::write(place.path("text"), "a diary".repeat(1 << 20)).expect("written");
    for (name, mode) in [("small", 0o600), ("text", 0o600), ("store", 0o600)] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    let before = ["s", "origin", "store", "text"].map(|it| place.read(it));
    for (undo, told) in [
        ("s", "the same file or device as the COW device of s"),
        ("origin", "the same file or device as the origin"),
        ("store", "holds a store already"),
        ("small", "has 4194304 bytes; the way back takes"),
        ("text", "there is data at byte 0"),
        ("missing/undo", "its directory does not exist"),
    ] {
        refused(place, &["merge", "start", "s", "--undo", &place.text(undo)], told);
    }
    let undo = place.text("undo");
    let little = ["merge", "start", "s", "--undo", &undo, "--max-size", "1M"];
    refused(place, &little, "the way back takes 5271552 bytes, and the most is 1048576");
    refused(place, &["merge", "undo", "s"], "s: no store here keeps a way back");
    refused(place, &["merge", "undo", "nobody"], "no snapshot is named nobody");
    assert!(!place.path("undo").exists());
    assert!(before == ["s", "origin", "store", "text"].map(|it| place.read(it)));
    assert_eq!(ctl_json(place, &["status"])["merge"], Value::Null);
    serving.stop();
    let nbd = format!("unix:{}", place.text("socket"));
    let serve = ["serve", &place.text("origin"), "--nbd", &nbd];
    let s = format!("s={}", place.text("s"));
    for (undo, told) in
        [("s", "the same file or device"), ("store", "holds a store already"), ("small", "takes")]
    {
        let undo = place.text(undo);
        let args = [&serve[..], &["--snapshot", &s, "--merge", "s", "--undo", &undo]].concat();
        let done = output(DMSNAP, &args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(3) && said.contains(told), "{undo}: {said}");
    }
    let done = output(DMSNAP, &[&serve[..], &["--undo", &undo]].concat());
    assert_eq!(done.status.code(), Some(2));
    assert!(before == ["s", "origin", "store", "text"].map(|it| place.read(it)));
}

#[test]
fn a_store_that_needs_another_is_not_added_alone() {
    let (world, serving) = World::new();
    world.merge(&["--rate", "1M", "--window", "256K"]);
    world.paused_half_way();
    serving.stop();
    let World { place, .. } = &world;
    let serving = start(place, &[]);
    for cow in ["s", "undo"] {
        let args = ["snapshot", "create", &format!("{cow}={}", place.text(cow))];
        refused(place, &args, "shares an undoable merge with the store");
        assert_eq!(ctl_json(place, &["status"])["snapshots"], json!([]));
    }
    serving.stop();
    let serving = start(place, &["--forget-undo"]);
    ctl(place, &["snapshot", "create", &format!("s={}", place.text("s"))]);
    serving.stop();
}
