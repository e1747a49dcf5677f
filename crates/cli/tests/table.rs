//! `dmsnap serve --table`: lines of the kernel's targets, served to qemu-io and nbdinfo.

use std::fs;
use std::path::Path;

use crate::loops::{Loop, usable};
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

/// The sectors of an origin of 16 MiB.
const SECTORS: u64 = 16 * MIB / 512;

/// Writes a table, with `{origin}`, `{dir}` and `{len}` filled in, and gives its path.
fn table(place: &Place, lines: &str) -> String {
    let dir = place.path("").display().to_string();
    let text = lines
        .replace("{origin}", &place.text("origin"))
        .replace("{dir}/", &dir)
        .replace("{len}", &SECTORS.to_string());
    fs::write(place.path("table"), text).expect("written");
    place.text("table")
}

fn blank(place: &Place, name: &str) {
    fs::write(place.path(name), vec![0; 8 << 20]).expect("written");
}

fn info(place: &Place, name: &str) -> serde_json::Value {
    let json = tool(DMSNAP, &["info", "--json", &place.text(name)]);
    serde_json::from_str(&json).expect("JSON")
}

fn serve(place: &Place, lines: &str) -> Serving {
    Serving::exactly(place, &["--table", &table(place, lines)])
}

#[test]
fn every_store_of_a_table_is_a_device() {
    let place = Place::new(16, &["a"]);
    blank(&place, "b");
    fs::write(place.path("t"), vec![9; 8 << 20]).expect("written");
    let before = place.read("origin");
    let lines = "# one origin\n\nroot: 0 {len} snapshot-origin {origin}\n\
                 vm: 0 {len} snapshot {origin} {dir}/a P 8 0\n\
                 \t0  {len} snapshot {origin} {dir}/b PO 0\n\
                 tmp: 0 {len} snapshot {origin} {dir}/t Nothing 16\n";
    let serving = serve(&place, lines);
    let list = tool("nbdinfo", &["--list", &place.uri("")]);
    assert_eq!(list.matches("export=\"").count(), 4, "{list}");
    for export in ["origin", "vm", "b", "tmp"] {
        assert!(list.contains(&format!("export=\"{export}\"")), "{list}");
    }
    let size = tool("nbdinfo", &["--size", &place.uri("tmp")]);
    assert_eq!(size.trim(), (16 * MIB).to_string());
    for (byte, export) in ["origin", "vm", "b", "tmp"].into_iter().enumerate() {
        let write = format!("write -P {} 1M 64k", byte + 1);
        place.qemu_io(export, &[&write, "flush"]);
    }
    for (byte, export) in ["origin", "vm", "b", "tmp"].into_iter().enumerate() {
        let mut expected = before.clone();
        expected[1 << 20..(1 << 20) + (64 << 10)].fill(u8::try_from(byte + 1).expect("small"));
        assert!(place.copy_of(export) == expected, "{export}");
    }
    assert_eq!(serving.stop(), "");

    assert_eq!(info(&place, "a")["chunk_size_sectors"], 8);
    assert_eq!(info(&place, "b")["chunk_size_sectors"], 32, "the kernel's default");
    for name in ["a", "b"] {
        tool(DMSNAP, &["check", &place.text(name), &place.text("origin")]);
    }
    // The stores are there the next time, and the transient snapshot begins anew.
    let serving = serve(&place, lines);
    for (byte, export) in [(1, "origin"), (2, "vm"), (3, "b"), (1, "tmp")] {
        place.qemu_io(export, &[&format!("read -P {byte} 1M 64k")]);
    }
    assert_eq!(serving.stop(), "");
}

#[test]
fn a_new_store_has_the_chunks_of_the_table_and_an_old_one_its_own() {
    let place = Place::new(16, &[]);
    blank(&place, "s");
    let lines = |chunk: u32| format!("0 {{len}} snapshot {{origin}} {{dir}}/s P {chunk}\n");
    let serving = serve(&place, &lines(64));
    place.qemu_io("s", &["write -P 5 2M 512", "flush"]);
    assert_eq!(serving.stop(), "");
    assert_eq!(info(&place, "s")["chunk_size_sectors"], 64);
    for (chunk, warns) in [(64, false), (0, false), (8, true)] {
        let serving = serve(&place, &lines(chunk));
        place.qemu_io("s", &["read -P 5 2M 512"]);
        let said = serving.stop();
        let warning = format!("dmsnap: {}: warning: its chunks have 64 sectors", place.text("s"));
        assert_eq!(said.starts_with(&warning), warns, "{chunk}: {said}");
        assert_eq!(said.lines().count(), usize::from(warns), "{chunk}: {said}");
        assert_eq!(info(&place, "s")["chunk_size_sectors"], 64);
    }
}

/// The origin was made longer since: what lies past the snapshot's end is neither kept nor shown.
#[test]
fn a_snapshot_may_be_shorter_than_its_origin() {
    let place = Place::new(16, &[]);
    blank(&place, "s");
    let serving = serve(
        &place,
        "0 {len} snapshot-origin {origin}\ns: 0 2056 snapshot {origin} {dir}/s P 8\n",
    );
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("s")]), "1052672\n");
    assert_eq!(tool("nbdinfo", &["--size", &place.uri("origin")]), "16777216\n");
    place.qemu_io("origin", &["write -P 5 1052672 64k", "write -P 5 8M 64k", "flush"]);
    assert_eq!(info(&place, "s")["exceptions"], 0);
    place.qemu_io("origin", &["write -P 5 1052160 1k", "flush"]);
    assert_eq!(info(&place, "s")["exceptions"], 1);
    assert_eq!(serving.stop(), "");
}

#[test]
fn a_discard_does_what_the_features_say() {
    let place = Place::new(16, &["plain", "zeroes"]);
    let serving = serve(
        &place,
        "0 {len} snapshot {origin} {dir}/plain P 8\n\
         0 {len} snapshot {origin} {dir}/zeroes P 8 1 Discard_Zeroes_COW\n",
    );
    for (export, byte) in [("plain", 7), ("zeroes", 0)] {
        let read = format!("read -P {byte} 1M 64k");
        place.qemu_io(export, &["write -P 7 1M 64k", "flush", "discard 1M 64k", &read]);
    }
    serving.stop();
}

#[test]
fn snapshot_merge_merges_from_the_start() {
    let place = Place::new(16, &["s", "other"]);
    let before = place.read("origin");
    let lines = "s: 0 {len} snapshot {origin} {dir}/s P 8\n\
                 other: 0 {len} snapshot {origin} {dir}/other PO 8\n";
    let serving = serve(&place, lines);
    place.qemu_io("s", &["write -P 6 1M 3M", "write -P 7 9M 512", "flush"]);
    let expected = place.copy_of("s");
    serving.stop();

    let path = table(&place, &lines.replacen("snapshot ", "snapshot-merge ", 1));
    let serving = Serving::exactly(&place, &["--table", &path, "--rate", "100M"]);
    assert!(place.copy_of("origin") == expected, "origin and merging snapshot are one");
    assert!(place.copy_of("other") == before, "the other snapshot has changed");
    let said = serving.stop();
    if info(&place, "s")["exceptions"] != 0 {
        assert!(said.contains("exceptions left"), "{said}");
        tool(DMSNAP, &["merge", &place.text("s"), &place.text("origin")]);
    } else {
        assert!(said.contains("s: merged"), "{said}");
    }
    assert!(place.read("origin") == expected);
}

/// What a refused table names, by lines: nothing is listened on, and no store was made.
#[test]
fn a_table_that_cannot_be_served_is_refused_in_one_line_before_anything_is_written() {
    let place = Place::new(16, &["a"]);
    blank(&place, "b");
    fs::write(place.path("elsewhere"), vec![0; 16 << 20]).expect("written");
    let nearly = [&[0; 4095][..], &[1], &[0; 65536]].concat();
    fs::write(place.path("nearly"), &nearly).expect("written");
    fs::write(place.path("junk"), vec![7; 65536]).expect("written");
    const B: &str = "# first\nb: 0 {len} snapshot {origin} {dir}/b P 8\n";
    let refuse = |lines: &str, more: &[&str], words: &str| {
        let nbd = format!("unix:{}", place.text("socket"));
        let path = table(&place, lines);
        let args = [&["serve", "--nbd", &nbd, "--table", &path][..], more].concat();
        let done = output(DMSNAP, &args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(3), "{lines}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{lines}: {said}");
        assert!(place.read("b").iter().all(|byte| *byte == 0), "{lines}: a store was made");
    };
    let second = |line: &str, words: &str| {
        refuse(&format!("{B}{line}"), &[], &format!("table:3: {words}"));
    };
    refuse("# nothing\n", &[], "table: no line");
    second("0 {len} linear 8:0 0", "found `linear`, expected snapshot-origin");
    second("0 {len} snapshot {origin} {dir}/a P 3", "found `3`, expected the chunk size");
    second("0 8 snapshot-origin {origin}", "found the length 8, expected the 32768 sectors");
    second("0 {len} snapshot {dir}/elsewhere {dir}/a P 8", "found the origin ");
    second("0 {len} snapshot 0:0 {dir}/a P 8", "found the origin /dev/block/0:0: No such");
    second("b: 0 {len} snapshot {origin} {dir}/a P 8", "found the name `b` again");
    second("origin: 0 {len} snapshot {origin} {dir}/a P 8", "found the name `origin`");
    second("0 {len} snapshot {origin} .. P 8", "found the name ``");
    let long = B.replace("{len}", "36028797018963967");
    refuse(&long, &[], "the snapshot has 18446744073709551104 bytes, and its origin only");
    refuse(&B.replace("{len}", "36028797018963968"), &[], "which is not a number of bytes");
    let b_again = format!("{B}c: 0 {{len}} snapshot {{origin}} {{dir}}/b N 8");
    refuse(&b_again, &[], "the same file or device");
    refuse(&format!("{B}0 {{len}} snapshot {{origin}} {{dir}}/missing P 8"), &[], "missing");

    let merge = "s: 0 {len} snapshot-merge {origin} {dir}/a P 8\n";
    let twice = format!("{merge}t: 0 {{len}} snapshot-merge {{origin}} {{dir}}/b P 8");
    refuse(&twice, &[], "table:2: found another snapshot-merge");
    refuse(merge, &["--read-only"], "read-only");
    refuse(merge, &["--merge", "s"], "--merge");
    refuse(B, &["--rate", "1M"], "--rate");
    refuse(B, &[&place.text("elsewhere")], "found the origin");

    let one = |name: &str| format!("0 {{len}} snapshot {{origin}} {{dir}}/{name} P 8\n");
    refuse(&one("nearly"), &[], "there is data at byte");
    assert!(place.read("nearly") == nearly);
    refuse(&one("junk"), &[], "magic");
}

#[test]
fn a_table_takes_the_place_of_origin_and_snapshots() {
    for args in [
        &["serve"][..],
        &["serve", "--table", "t", "--snapshot", "s=x"],
        &["serve", "origin", "--rate", "1M"],
    ] {
        let done = output(DMSNAP, args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("Usage"), "{args:?}: {said}");
    }
    // The origin may be named by another of its names all the same.
    let place = Place::new(16, &["a"]);
    std::os::unix::fs::symlink("origin", place.path("link")).expect("linked");
    let path = table(&place, "0 {len} snapshot {dir}/link {dir}/a P 8\n");
    let serving = Serving::start(&place, &["--table", &path]);
    place.qemu_io("a", &["write -P 3 0 4k", "read -P 3 0 4k"]);
    serving.stop();
}

#[test]
fn devices_are_found_by_their_numbers() {
    if !usable("a table of disks") {
        return;
    }
    let place = Place::new(16, &["a"]);
    let [origin, a] = ["origin", "a"].map(|name| Loop::over(&place.path(name)));
    let numbers = |disk: &Loop| {
        let name = disk.path().file_name().expect("a name").to_owned();
        let numbers = fs::read_to_string(Path::new("/sys/block").join(name).join("dev"));
        numbers.expect("readable").trim().to_owned()
    };
    let (origin_numbers, a_numbers) = (numbers(&origin), numbers(&a));
    let line = format!("vg-s: 0 {{len}} snapshot {origin_numbers} {a_numbers} P 8\n");
    let serving = serve(&place, &line);
    place.qemu_io("vg-s", &["write -P 3 1M 4k", "flush"]);
    assert_eq!(serving.stop(), "");
    drop((origin, a));
    assert_eq!(info(&place, "a")["exceptions"], 1);
}

/// A snapshot write that finds no room leaves the snapshot alive, an origin write drops it, whether
/// the table says P or PO.
#[test]
fn a_full_store_is_dropped_by_the_origin_only() {
    let place = Place::new(16, &[]);
    let lines = "0 {len} snapshot {origin} {dir}/p P 8\n0 {len} snapshot {origin} {dir}/po PO 8\n";
    for name in ["p", "po"] {
        fs::write(place.path(name), vec![0; 64 << 10]).expect("written");
    }
    let before = place.read("origin");
    let serving = serve(&place, lines);
    let fails = |export: &str, command: &str| {
        let done = output("qemu-io", &["-f", "raw", "-c", command, &place.uri(export)]);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("failed"), "{export}: {command}: {said}");
    };
    for name in ["p", "po"] {
        fails(name, "write -P 1 8M 1M");
        place.qemu_io(name, &["read 0 1M"]);
    }
    place.qemu_io("origin", &["write -P 2 0 1M", "flush"]);
    for name in ["p", "po"] {
        fails(name, "read 0 4k");
    }
    // Dropped for good, whatever becomes of the server.
    serving.kill();
    for name in ["p", "po"] {
        assert_eq!(info(&place, name)["valid"], false);
    }
    let after = place.read("origin");
    assert!(
        after[..1 << 20].iter().all(|byte| *byte == 2) && after[1 << 20..] == before[1 << 20..]
    );
}
