//! One base and many overlays: servers, exports and checks that share it, and what is refused of a base that is
//! shared, or that nobody may write.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::controlled::{ctl, ctl_json, refused, start, wait_until};
use crate::serving::{DMSNAP, Place, Serving, output, tool};

/// Another server of the same origin, with a socket of its own.
struct Second<'a> {
    place: &'a Place,
    serving: Serving,
}

impl<'a> Second<'a> {
    fn start(place: &'a Place, args: &[&str]) -> Self {
        let moved = place.path("socket2");
        let _ = fs::remove_file(&moved);
        fs::rename(place.path("socket"), &moved).expect("moved out of the way");
        let serving = Serving::start(place, args);
        fs::rename(place.path("socket"), place.path("socket3")).expect("moved");
        fs::rename(&moved, place.path("socket")).expect("moved back");
        Self { place, serving }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.place.text("socket3"))
    }
}

fn write(uri: &str) -> bool {
    let done = output("qemu-io", &["-f", "raw", "-c", "write -P 9 64k 64k", uri]);
    done.status.success() && !String::from_utf8_lossy(&done.stdout).contains("failed")
}

fn read_only(place: &Place, export: &str) -> bool {
    let json = tool("nbdinfo", &["--json", &place.uri(export)]);
    let info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    info["exports"][0]["is_read_only"].as_bool().expect("told")
}

#[test]
fn two_servers_share_a_base_until_one_of_them_is_alone() {
    let place = Place::new(1, &["a", "b"]);
    let was = place.read("origin");
    let [a, b] = ["a", "b"].map(|name| format!("vm={}", place.text(name)));
    let mut first = start(&place, &["--snapshot", &a]);
    let second = Second::start(&place, &["--snapshot", &b]);
    assert!(write(&place.uri("vm")) && write(&second.uri("vm")), "overlays are written");
    for _ in 0..2 {
        assert!(!write(&place.uri("origin")), "the base is shared");
    }
    let said = first.next_line();
    assert!(said.contains("origin: a write to it was refused: not written as long as others"));
    refused(&place, &["merge", "start", "vm"], "not written as long as others have it open");
    assert!(place.read("origin") == was);

    // Who reads shares it too.
    let (origin, out) = (place.text("origin"), place.text("out"));
    tool(DMSNAP, &["check", &place.text("a"), &origin]);
    tool(DMSNAP, &["create", "--size", "1M", &place.text("c")]);
    tool(DMSNAP, &["export", &place.text("c"), &origin, &out]);
    assert!(place.read("out") == was);
    let merge = output(DMSNAP, &["merge", &place.text("c"), &origin]);
    assert_eq!(merge.status.code(), Some(3), "{merge:?}");

    second.serving.stop();
    assert!(write(&place.uri("origin")), "nobody else has it");
    let nbd = format!("unix:{}", place.text("other"));
    let late = output(DMSNAP, &["serve", &origin, "--nbd", &nbd]);
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(late.status.code() == Some(3) && said.contains("in use by another"), "{said}");
    // Nothing more was said: the refusal once, and a stop.
    assert_eq!(first.stop(), "");
    assert!(place.read("origin")[64 << 10..128 << 10].iter().all(|byte| *byte == 9));
}

#[test]
fn a_base_that_nobody_may_write_is_served_with_overlays_that_can_be() {
    for args in [&[][..], &["--origin-read-only"]] {
        let place = Place::new(1, &["a", "b"]);
        let was = place.read("origin");
        if args.is_empty() {
            fs::set_permissions(place.path("origin"), fs::Permissions::from_mode(0o444))
                .expect("set");
        }
        let [a, b] = ["a", "b"].map(|name| format!("vm={}", place.text(name)));
        let first = start(&place, &[args, &["--snapshot", &a]].concat());
        let second = Second::start(&place, &[args, &["--snapshot", &b]].concat());
        assert!(read_only(&place, "origin") && !read_only(&place, "vm"));
        assert!(!read_only(&place, ""), "the default is the only overlay");
        assert!(write(&place.uri("")) && write(&second.uri("vm")));
        assert!(!write(&place.uri("origin")));
        assert_eq!(ctl_json(&place, &["status"])["origin"]["read_only"], true);
        assert!(ctl(&place, &["status"]).contains("itself read-only"));
        refused(&place, &["merge", "start", "vm"], "open for reading alone");
        second.serving.stop();
        assert_eq!(first.stop(), "");
        assert!(place.read("origin") == was, "{args:?}");
        assert!(tool(DMSNAP, &["info", &place.text("a")]).contains('1'));
    }
}

#[test]
fn the_default_export_can_be_chosen() {
    let place = Place::new(1, &["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| format!("{name}={}", place.text(name)));
    let args = ["--snapshot", &a, "--snapshot", &b, "--default-export", "b"];
    let serving = start(&place, &args);
    assert!(write(&place.uri("")));
    let exceptions = || {
        let status = ctl_json(&place, &["status"]);
        ["a", "b"].map(|name| {
            let all = status["snapshots"].as_array().expect("snapshots");
            let found = all.iter().find(|it| it["name"] == name).expect("served");
            found["exceptions"].as_u64().expect("a number")
        })
    };
    wait_until("it is in b", || exceptions()[0] == 0 && exceptions()[1] > 0);
    ctl(&place, &["snapshot", "remove", "b"]);
    assert!(place.copy_of("") == place.read("origin"), "the origin again");
    serving.stop();
    for (args, words) in [
        (&["--default-export", "c"][..], "no export is named c"),
        (&["--origin-read-only", "--snapshot", &a, "--merge", "a"], "cannot be used with"),
    ] {
        let nbd = format!("unix:{}", place.text("other"));
        let origin = place.text("origin");
        let done = output(DMSNAP, &[&["serve", &origin, "--nbd", &nbd], args].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(words), "{args:?}: {said}");
    }
}

fn exports(place: &Place) -> String {
    tool("nbdinfo", &["--list", &format!("nbd+unix:///?socket={}", place.text("socket"))])
}

#[test]
fn a_store_is_made_where_there_is_none() {
    let place = Place::new(1, &[]);
    fs::set_permissions(place.path("origin"), fs::Permissions::from_mode(0o600)).expect("set");
    let spec = |name: &str, rest: &str| format!("{name}={}{rest}", place.text(name));
    let (a, b) = (spec("a", ",make,for=base"), spec("b", ",make,size=640k,chunk-size=64k"));
    let (c, d) = (spec("c", ",make"), spec("d", ",max-size=4M,make,size=100k"));
    let all: Vec<&str> = [&a, &b, &c, &d].into_iter().flat_map(|it| ["--snapshot", it]).collect();
    let serving = Serving::start(&place, &all);
    assert!(write(&place.uri("a")), "{}", exports(&place));
    serving.stop();
    let info = |name: &str| -> serde_json::Value {
        let json = tool(DMSNAP, &["info", "--json", &place.text(name)]);
        serde_json::from_str(&json).expect("JSON")
    };
    assert_eq!(info("a")["capacity_exceptions"], 256, "room for everything");
    assert!(info("a")["origin_samples"].as_u64().expect("a number") > 0);
    assert_eq!(info("a")["exceptions"], 16);
    assert_eq!(
        (info("b")["chunk_size_sectors"].clone(), info("b")["total_sectors"].clone()),
        (128.into(), 1280.into())
    );
    assert_eq!(
        (info("c")["capacity_exceptions"].clone(), info("c")["id"].clone()),
        (256.into(), serde_json::Value::Null)
    );
    let mode = place.path("a").metadata().expect("made").permissions().mode() & 0o7777;
    assert_eq!(mode & 0o077, 0, "{mode:o}");

    // What is there is opened as it is.
    let serving = Serving::start(&place, &all);
    assert_eq!(place.copy_of("a")[64 << 10..128 << 10], [9; 64 << 10]);
    serving.stop();
    fs::write(place.path("origin"), vec![1; 1 << 20]).expect("written");
    let nbd = format!("unix:{}", place.text("other"));
    let origin = place.text("origin");
    let serve = |spec: &str| output(DMSNAP, &["serve", &origin, "--nbd", &nbd, "--snapshot", spec]);
    for (rest, status, words) in [
        ("a", 3, "not the origin"),
        ("new=NEW,size=1M", 2, "it needs make as well"),
        ("new=NEW,for=base", 2, "it needs make as well"),
        ("new=NEW,for=other,make", 2, "found the option `for=other`"),
        ("new=NEW,make,transient=4k", 2, "found make and transient"),
        ("new=NEW,make,size=512", 3, "NEW: "),
    ] {
        let spec = if rest == "a" { a.clone() } else { rest.replace("NEW", &place.text("new")) };
        let done = serve(&spec);
        let said = String::from_utf8_lossy(&done.stderr).replace(&place.text("new"), "NEW");
        assert!(done.status.code() == Some(status) && said.contains(words), "{spec}: {said}");
        assert!(!place.path("new").exists(), "{spec}");
    }
}

#[test]
fn a_disk_is_larger_or_smaller_than_its_base() {
    for (size, bytes) in [("3M", 3 << 20), ("513k", 513 << 10)] {
        let place = Place::new(1, &[]);
        let mut shown = place.read("origin");
        shown.resize(bytes, 0);
        let a = format!("a={},make,virtual-size={size}", place.text("a"));
        let serving = Serving::start(&place, &["--snapshot", &a]);
        assert!(place.copy_of("a") == shown && place.copy_of("origin") == place.read("origin"));
        let at = bytes - 512;
        place.qemu_io("a", &[&format!("write -P 7 {at} 512"), "write -P 8 65024 1024", "flush"]);
        shown[at..].fill(7);
        shown[65_024..66_048].fill(8);
        assert!(place.copy_of("a") == shown);
        place.qemu_io("origin", &["write -P 5 0 1M"]);
        assert!(place.copy_of("a") == shown, "what the origin held is kept");
        serving.stop();

        // The store remembers it.
        let (cow, origin, out) = (place.text("a"), place.text("origin"), place.text("out"));
        assert!(tool(DMSNAP, &["info", &cow]).contains("virtual size"), "{size}");
        tool(DMSNAP, &["check", &cow, &origin]);
        tool(DMSNAP, &["export", &cow, &origin, &out]);
        assert!(place.read("out") == shown);
        tool(DMSNAP, &["compare", &cow, &origin, &out]);
        let streamed = output(DMSNAP, &["export", &cow, &origin, "-"]).stdout;
        assert!(streamed == shown);
        let serving = Serving::start(&place, &["--snapshot", &format!("a={cow}")]);
        assert!(place.copy_of("a") == shown);
        serving.stop();
        let merged = output(DMSNAP, &["merge", &cow, &origin]);
        let said = String::from_utf8_lossy(&merged.stderr);
        match bytes > 1 << 20 {
            true => assert!(said.contains("make it as large first"), "{said}"),
            false => assert!(merged.status.success(), "{said}"),
        }
    }
}

#[test]
fn the_size_of_a_disk_is_told_or_remembered() {
    let place = Place::new(1, &[]);
    let (cow, origin, out) = (place.text("a"), place.text("origin"), place.text("out"));
    tool(DMSNAP, &["create", "--for", &origin, "--virtual-size", "2M", &cow]);
    let json = tool(DMSNAP, &["info", "--json", &cow]);
    assert!(json.contains("\"snapshot_bytes\":2097152"), "{json}");
    assert!(json.contains("\"capacity_exceptions\":512"), "{json}");
    let told = ["export", "--virtual-size", "1537k", &cow, &origin, &out];
    tool(DMSNAP, &told);
    let mut shown = place.read("origin");
    shown.resize(1537 << 10, 0);
    assert!(place.read("out") == shown);
    tool(DMSNAP, &["compare", "--virtual-size", "1537k", &cow, &origin, &out]);
    tool(DMSNAP, &["check", "--virtual-size", "1537k", &cow, &origin]);
    let table =
        format!("o: 0 2048 snapshot-origin {origin}\na: 0 3074 snapshot {origin} {cow} P 8\n");
    fs::write(place.path("table"), table).expect("written");
    let serving = Serving::exactly(&place, &["--table", &place.text("table")]);
    assert!(place.copy_of("a") == shown);
    place.qemu_io("a", &["write -P 3 1500k 4k", "flush"]);
    serving.stop();
    let small = output(DMSNAP, &["check", "--virtual-size", "1M", &cow, &origin]);
    assert_eq!(small.status.code(), Some(1), "an exception past its end");
}

#[test]
fn the_table_for_a_kernel_is_printed() {
    let place = Place::new(1, &[]);
    let (cow, origin) = (place.text("a"), place.text("origin"));
    tool(DMSNAP, &["create", "--size", "1M", &cow]);
    let lines = |args: &[&str]| -> Vec<String> {
        let printed = tool(DMSNAP, &[&["table", &cow, &origin][..], args].concat());
        let lines = printed.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let equal = lines(&[]);
    assert_eq!(equal, [format!("snapshot: 0 2048 snapshot {origin} {cow} P 8")]);
    // What it prints is served.
    fs::write(place.path("table"), equal.concat()).expect("written");
    let serving = Serving::exactly(&place, &["--table", &place.text("table")]);
    assert!(place.copy_of("snapshot") == place.read("origin"));
    serving.stop();
    let smaller = lines(&["--name", "vm", "--virtual-size", "4k"]);
    assert_eq!(smaller, [format!("vm: 0 8 snapshot {origin} {cow} P 8")]);
    let larger = lines(&["--name", "vm", "--virtual-size", "3M"]);
    assert_eq!(
        larger,
        [
            format!("vm-base: 0 2048 linear {origin} 0"),
            "vm-base: 2048 4096 zero".into(),
            format!("vm: 0 6144 snapshot /dev/mapper/vm-base {cow} P 8"),
        ]
    );
    let swapped = output(DMSNAP, &["table", &origin, &cow]);
    assert_eq!(swapped.status.code(), Some(3), "{swapped:?}");
    let named = output(DMSNAP, &["table", &cow, &origin, "--name", "a b"]);
    assert_eq!(named.status.code(), Some(2), "{named:?}");
}

#[test]
fn a_base_that_somebody_changes_while_it_is_served_is_noticed() {
    let words =
        ["somebody has written to it", "it had 1048576 bytes, and has 4096", "its name leads"];
    for (n, words) in words.into_iter().enumerate() {
        let place = Place::new(1, &["a"]);
        let a = format!("vm={}", place.text("a"));
        let mut serving = start(&place, &["--snapshot", &a]);
        let file = fs::File::options().write(true).open(place.path("origin")).expect("writable");
        match n {
            0 => {
                std::os::unix::fs::FileExt::write_all_at(&file, b"mixed", 4096).expect("written");
            }
            1 => file.set_len(4096).expect("cut"),
            _ => fs::rename(place.path("a"), place.path("origin")).expect("replaced"),
        }
        drop(file);
        let said = serving.next_line();
        assert!(said.contains(words) && said.contains("origin: warning"), "{said}");
        wait_until("the status tells it", || {
            let found = ctl_json(&place, &["status"])["origin"]["changed"].to_string();
            found.contains(words)
        });
        assert!(ctl(&place, &["status"]).contains("the origin is not what it was"));
        // It is served as well as that can be.
        let read = output("qemu-io", &["-f", "raw", "-c", "read 512k 4k", &place.uri("vm")]);
        let failed = String::from_utf8_lossy(&read.stdout).contains("failed");
        assert_eq!(failed, n == 1, "{read:?}");
        assert!(write(&place.uri("vm")), "overlays are written");
        let (_, rest) = serving.end();
        assert!(!rest.contains("origin: warning"), "once: {rest}");
    }
}

/// What one server has read of the base the next one finds in the page cache.
#[test]
fn a_server_that_starts_leaves_the_base_in_the_page_cache() {
    let place = Place::new(1, &["a"]);
    let origin = place.text("origin");
    fs::File::open(place.path("origin")).and_then(|file| file.sync_all()).expect("synced");
    let cached = || -> u64 {
        let told = tool("fincore", &["--bytes", "--noheadings", "--output", "RES", &origin]);
        told.trim().parse().expect("a number")
    };
    let a = format!("vm={}", place.text("a"));
    for args in [&[][..], &["--origin-read-only"]] {
        let was = place.read("origin");
        assert_eq!(cached(), was.len() as u64, "all of it was read");
        let serving = Serving::start(&place, &[args, &["--snapshot", &a]].concat());
        assert_eq!(cached(), was.len() as u64, "{args:?}");
        serving.stop();
    }
}
