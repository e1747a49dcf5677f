//! Whole tasks through the command: what it prints, what it leaves, how it ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use crate::common::{
    CHUNK, Dir, OLD, ORIGIN_CHUNKS, Pair, Ran, command, one_line, origin, pair, parsed, read,
    snapshot, store, write_at,
};
use serde_json::json;

#[test]
fn create_makes_a_sparse_file_that_is_a_sound_empty_store() {
    let dir = Dir::new();
    let file = dir.path("new");
    let said = dmsnap!("create", "--size", "16M", file).ok();
    assert_eq!(
        said,
        "chunk size: 8 sectors (4 KiB)\n\
         size:       32768 sectors (16 MiB)\n\
         capacity:   4079 exceptions (15.9 MiB)\n"
    );
    let metadata = file.metadata().expect("metadata");
    assert_eq!(metadata.len(), 16 << 20);
    assert!(
        metadata.blocks() * 512 <= 64 << 10,
        "{} blocks of it are allocated",
        metadata.blocks()
    );
    assert_eq!(dmsnap!("check", file).ok(), "sound\n");
    let info = parsed(&dmsnap!("info", "--json", file).ok());
    assert_eq!((&info["exceptions"], &info["valid"]), (&json!(0), &json!(true)));
}

#[test]
fn create_rounds_the_size_up_to_sectors_and_tells_it_in_json() {
    let dir = Dir::new();
    let file = dir.path("new");
    let said = dmsnap!("create", "--json", "--chunk-size", "1s", "--size", "1000000", file).ok();
    let created = json!({
        "chunk_size_sectors": 1,
        "total_sectors": 1954,
        "capacity_exceptions": 1893,
        "kernel_loses_last_chunk": false,
    });
    assert_eq!(parsed(&said), created);
    assert_eq!(read(&file).len(), 1_000_448);
    dmsnap!("create", "--size", "1000000", "--force", file).ok();
}

#[test]
fn create_keeps_what_may_be_of_value_and_leaves_no_new_file_behind_a_failure() {
    let dir = Dir::new();
    let file = dir.file("file", &store(&OLD, 16));
    let line = dmsnap!("create", file).failed();
    assert!(line.contains(&*file.to_string_lossy()) && line.contains("--force"), "{line}");
    assert_eq!(read(&file), store(&OLD, 16));
    dmsnap!("create", "--force", file).ok();
    assert_eq!(parsed(&dmsnap!("info", "--json", file).ok())["exceptions"], 0);

    dmsnap!("create", "--size", "4k", dir.path("too-small")).failed();
    assert_eq!(dir.names(), ["file"]);
}

#[test]
fn create_warns_of_a_size_that_kernels_cannot_fill() {
    let dir = Dir::new();
    let ran = dmsnap!("create", "--chunk-size", "512", "--size", "34s", dir.path("new"));
    assert_eq!(ran.status, 0);
    assert!(one_line(&ran.stderr).contains("warning: a kernel"), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 3);
    dmsnap!("create", "--chunk-size", "512", "--size", "35s", dir.path("other")).ok();
}

#[test]
fn info_tells_sizes_exactly_and_for_people() {
    let Pair { cow, dir: _dir, .. } = pair(&OLD, ORIGIN_CHUNKS);
    let said = dmsnap!("info", cow).ok();
    for line in [
        "valid:             yes",
        "chunk size:        4 sectors (2 KiB)",
        "status:            28/84 8",
        "size:              84 sectors (42 KiB)",
        "exceptions:        5 (10 KiB)",
        "runs:              3",
        "holes:             0 (0 B)",
        "next free chunk:   7",
        "out of order:      0",
        "origin at least:   81 sectors (40.5 KiB)",
    ] {
        assert!(said.lines().any(|found| found == line), "no line `{line}` in\n{said}");
    }
    let info = parsed(&dmsnap!("info", "--json", cow).ok());
    for (name, value) in [("status", json!("28/84 8")), ("runs", json!(3)), ("version", json!(1))] {
        assert_eq!(info[name], value, "{name}");
    }
}

#[test]
fn what_is_no_store_is_refused_by_name() {
    let dir = Dir::new();
    let file = dir.file("file", &origin(16));
    for ran in [dmsnap!("info", file), dmsnap!("dump", file)] {
        let line = ran.failed();
        let found = format!("dmsnap: {}: no snapshot store here", file.display());
        assert!(line.starts_with(&found) && line.ends_with("; is it the COW device?"), "{line}");
    }
}

#[test]
fn check_ends_with_0_for_a_sound_and_1_for_a_damaged_store() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    assert_eq!(dmsnap!("check", cow).ok(), "sound\n");
    assert_eq!(dmsnap!("check", cow, disk).ok(), "sound\n");

    let small = dir.file("small", &origin(10));
    let ran = dmsnap!("check", cow, small);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    let lines: Vec<_> = ran.stdout.lines().collect();
    let [finding, last] = lines[..] else { panic!("two lines: {lines:?}") };
    assert!(finding.starts_with("damage: area 0 (chunk 1), slot 4: "), "{finding}");
    assert_eq!(last, "damaged: 1 finding");

    let ran = dmsnap!("check", "--json", cow, small);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    let lines: Vec<_> = ran.stdout.lines().map(parsed).collect();
    let [finding, last] = &lines[..] else { panic!("two lines: {lines:?}") };
    for (name, value) in [
        ("severity", json!("damage")),
        ("kind", json!("old-beyond-origin")),
        ("chunk", json!(1)),
        ("area", json!(0)),
        ("slot", json!(4)),
    ] {
        assert_eq!(finding[name], value, "{name}");
    }
    assert!(finding["message"].is_string());
    assert_eq!((&last["report"]["sound"], &last["report"]["damaged"]), (&json!(false), &json!(1)));
}

#[test]
fn check_tells_20_findings_of_a_kind_in_words_and_all_in_json() {
    let Pair { cow, dir: _dir, .. } = pair(&[3; 40], ORIGIN_CHUNKS);
    let ran = dmsnap!("check", cow);
    assert_eq!(ran.status, 1);
    let lines: Vec<_> = ran.stdout.lines().collect();
    let told = lines.iter().filter(|line| line.starts_with("damage: ")).count();
    assert_eq!(told, 20);
    assert_eq!(lines[20..], ["... and 19 more of duplicate-old", "damaged: 39 findings"]);
    assert_eq!(dmsnap!("check", "--json", cow).stdout.lines().count(), 40);
}

#[test]
fn dump_lists_every_run_with_its_slot() {
    let Pair { cow, dir: _dir, .. } = pair(&OLD, ORIGIN_CHUNKS);
    let text = "0:0  5..7 -> 2..4  3\n0:3  2 -> 5  1\n0:4  20 -> 6  1\n";
    assert_eq!(dmsnap!("dump", cow).ok(), text);
    assert_eq!(dmsnap!("dump", "--format", "text", cow).ok(), text);
    let json = dmsnap!("dump", "--json", cow).ok();
    assert_eq!(dmsnap!("dump", "--format", "json", cow).ok(), json);
    let first = json!({"old": 5, "new": 2, "len": 3, "area": 0, "slot": 0});
    assert_eq!((json.lines().count(), parsed(json.lines().next().expect("a run"))), (3, first));
}

#[test]
fn dump_ends_quietly_when_its_reader_does() {
    let scattered: Vec<u64> = (0..5000).map(|i| 2 * i).collect();
    let Pair { cow, dir: _dir, .. } = pair(&scattered, 1);
    let whole = dmsnap!("dump", "--json", cow).ok();
    assert!(whole.len() > 192 << 10, "more than fits into the pipe and a buffer");
    let mut child =
        command(&["dump", "--json", &cow.to_string_lossy()]).spawn().expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("text");
    drop(lines);
    let ran = Ran::from(child.wait_with_output().expect("ends"));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));

    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = command(&["dump", "--json", &cow.to_string_lossy()]);
    let ran = Ran::from(command.stdout(full).output().expect("the command starts"));
    assert_eq!(ran.failed(), "dmsnap: standard output: No space left on device");
}

#[test]
fn export_writes_what_the_snapshot_shows() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    let expected = snapshot(&OLD, ORIGIN_CHUNKS);
    for io in ["direct", "buffered"] {
        let out = dir.path(io);
        let said = dmsnap!("export", "--io", io, cow, disk, out).ok();
        assert!(said.starts_with("exported 64 KiB ") && said.lines().count() == 1, "{said}");
        assert!(read(&out) == expected, "{io}: another content");
    }
    let ran = dmsnap!("export", "--json", cow, disk, dir.path("json"));
    let exported = parsed(&ran.ok());
    assert_eq!((&exported["image_bytes"], &exported["exceptions"]), (&json!(65536), &json!(5)));
    assert!(exported["seconds"].is_number());
    assert!(read(&cow) == store(&OLD, 21) && read(&disk) == origin(ORIGIN_CHUNKS));
}

#[test]
fn export_overwrites_a_longer_file_when_told_to() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    let out = dir.file("out", &[0xee; 100_000]);
    dmsnap!("export", "--force", cow, disk, out).ok();
    assert!(read(&out) == snapshot(&OLD, ORIGIN_CHUNKS), "another content");
}

#[test]
fn an_export_that_cannot_be_done_removes_its_own_file_and_spares_an_old_one() {
    let Pair { cow, disk, dir } = pair(&[1, 2, 1], ORIGIN_CHUNKS);
    let old = dir.file("old", b"old");
    for ran in [
        dmsnap!("export", cow, disk, dir.path("new")),
        dmsnap!("export", "--force", cow, disk, old),
        dmsnap!("export", "--force", disk, cow, old),
    ] {
        let line = ran.failed();
        let named = [&cow, &disk].map(|path| format!("dmsnap: {}: ", path.display()));
        assert!(named.iter().any(|named| line.starts_with(named)), "{line}");
    }
    assert_eq!(read(&old), b"old");
    assert_eq!(dir.names(), ["cow", "disk", "old"]);
}

#[test]
fn an_invalid_store_is_exported_only_when_allowed_and_never_merged() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    let mut dropped = store(&OLD, 21);
    write_at(&mut dropped, 4, &[0; 4]);
    fs::write(&cow, &dropped).expect("write");
    let out = dir.path("out");
    let line = dmsnap!("export", cow, disk, out).failed();
    assert!(line.ends_with("; --allow-invalid exports it all the same"), "{line}");
    dmsnap!("export", "--allow-invalid", cow, disk, out).ok();
    dmsnap!("export", "--allow-invalid", "--force", cow, disk, out).ok();
    assert!(read(&out) == snapshot(&OLD, ORIGIN_CHUNKS), "another content");
    dmsnap!("merge", cow, disk).failed();
    assert!(read(&cow) == dropped && read(&disk) == origin(ORIGIN_CHUNKS), "something was written");
}

#[test]
fn merge_empties_the_store_into_the_origin() {
    for options in [&[][..], &["--io", "buffered"], &["--no-share"], &["--window", "2k"]] {
        let Pair { cow, disk, dir: _dir } = pair(&OLD, ORIGIN_CHUNKS);
        let (cow_name, disk_name) = (cow.to_string_lossy(), disk.to_string_lossy());
        let args = [&["merge", &*cow_name, &*disk_name][..], options].concat();
        let said = crate::common::run(&args).ok();
        assert!(said.starts_with("merged 5 exceptions (10 KiB"), "{said}");
        assert!(read(&disk) == snapshot(&OLD, ORIGIN_CHUNKS), "{options:?}: another content");
        assert_eq!(dmsnap!("dump", cow).ok(), "", "{options:?}");
        assert_eq!(dmsnap!("check", cow, disk).ok(), "sound\n", "{options:?}");
    }
}

#[test]
fn a_dry_run_says_what_a_merge_then_does() {
    let Pair { cow, disk, dir: _dir } = pair(&OLD, ORIGIN_CHUNKS);
    let plan = parsed(&dmsnap!("merge", "--dry-run", "--json", cow, disk).ok());
    let said = dmsnap!("merge", "--dry-run", cow, disk).ok();
    assert!(said.ends_with("; nothing was written\n"), "{said}");
    assert!(read(&cow) == store(&OLD, 21) && read(&disk) == origin(ORIGIN_CHUNKS));
    let merged = parsed(&dmsnap!("merge", "--json", cow, disk).ok());
    for name in ["exceptions", "bytes", "windows"] {
        assert_eq!(plan[name], merged[name], "{name}");
    }
    assert_eq!((&merged["finished"], &merged["left"]), (&json!(true), &json!(0)));
    let flushes = ["origin_flushes", "cow_flushes"].map(|name| merged[name].as_u64());
    assert_eq!(plan["flushes"].as_u64(), flushes.into_iter().sum());
}

#[test]
fn devices_the_wrong_way_round_are_refused_untouched() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    for ran in [
        dmsnap!("merge", disk, cow),
        dmsnap!("merge", "--dry-run", disk, cow),
        dmsnap!("export", disk, cow, dir.path("out")),
    ] {
        let line = ran.failed();
        assert!(line.contains("swapped"), "{line}");
    }
    let second = dir.file("second", &store(&OLD, 21));
    let line = dmsnap!("merge", cow, second).failed();
    assert!(line.starts_with(&format!("dmsnap: {}: ", second.display())), "{line}");
    assert!(line.ends_with("; if it is the origin, --force goes on"), "{line}");
    assert!(read(&cow) == store(&OLD, 21) && read(&disk) == origin(ORIGIN_CHUNKS));
}

#[test]
fn a_rate_lowers_the_window_to_a_second() {
    let Pair { cow, disk, dir: _dir } = pair(&OLD, ORIGIN_CHUNKS);
    let rate = format!("{CHUNK}");
    let plan = parsed(&dmsnap!("merge", "--dry-run", "--json", "--rate", rate, cow, disk).ok());
    assert_eq!(plan["windows"], 5);
}
