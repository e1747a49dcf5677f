//! What the command says before it touches a store: usage, names, files it refuses.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::common::{Dir, origin, read, store};

#[test]
fn a_command_line_that_makes_no_sense_exits_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["create"],
        &["create", "x", "--size", "4kb"],
        &["create", "x", "--size", "0"],
        &["create", "x", "--chunk-size", "3k"],
        &["create", "x", "--chunk-size", "2G"],
        &["info"],
        &["info", "x", "y"],
        &["check"],
        &["repair"],
        &["repair", "x", "--force"],
        &["repair", "x", "--duplicates", "both"],
        &["repair", "x", "--chunk-size", "3k"],
        &["dump", "x", "--format", "xml"],
        &["dump", "x", "--format", "text", "--json"],
        &["dump", "x", "--restorable", "--json"],
        &["restore", "x"],
        &["pack", "x"],
        &["pack", "x", "y", "--chunk-size", "3k"],
        &["unpack", "x"],
        &["wipe"],
        &["export", "x", "y"],
        &["export", "x", "y", "z", "--io", "mmap"],
        &["diff", "x"],
        &["diff", "x", "y", "--max", "0"],
        &["diff", "x", "y", "--from", "end"],
        &["diff", "x", "y", "--format", "xml"],
        &["diff", "x", "y", "--format", "text", "--json"],
        &["diff", "x", "y", "--progress"],
        &["compare", "x"],
        &["merge", "x"],
        &["merge", "x", "y", "--rate", "fast"],
        &["merge", "x", "y", "--window", "1.5G"],
        &["completions", "tcsh"],
        &["man"],
    ] {
        let ran = crate::common::run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ran.stderr.contains("Usage") || ran.stderr.contains("--help"), "{args:?}");
    }
}

#[test]
fn every_command_has_short_help_and_long_help_with_examples() {
    const COMMANDS: &str = "create info check repair dump restore pack unpack wipe export diff compare merge undo completions man";
    for name in COMMANDS.split(' ') {
        let short = dmsnap!(name, "-h").ok();
        let long = dmsnap!(name, "--help").ok();
        assert!(short.contains("Usage: dmsnap"), "{name}");
        assert!(!short.contains("Examples:"), "{name}");
        let (_, examples) = long.split_once("Examples:").expect("examples");
        let copyable = examples.lines().filter(|line| line.contains("dmsnap ")).count();
        assert!((2..=4).contains(&copyable), "{name}: {copyable} examples");
    }
    assert!(dmsnap!("--help").ok().contains("Exit status:"));
    assert_eq!(dmsnap!("--version").ok(), format!("dmsnap {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_file_that_is_not_there_is_named_in_one_line() {
    let dir = Dir::new();
    let there = dir.file("there", b"");
    let missing = dir.path("missing");
    let out = dir.path("out");
    for ran in [
        dmsnap!("info", missing),
        dmsnap!("check", missing),
        dmsnap!("check", there, missing),
        dmsnap!("dump", missing),
        dmsnap!("restore", there, missing),
        dmsnap!("pack", missing, out),
        dmsnap!("unpack", missing, there),
        dmsnap!("wipe", missing),
        dmsnap!("export", missing, there, out),
        dmsnap!("export", there, missing, out),
        dmsnap!("merge", missing, there),
        dmsnap!("merge", there, missing),
        dmsnap!("merge", "--dry-run", there, missing),
    ] {
        let line = ran.failed();
        let said = "No such file or directory; check the name";
        assert_eq!(line, format!("dmsnap: {}: {said}", missing.display()));
    }
    let line = dmsnap!("create", missing).failed();
    assert!(line.ends_with("No such file or directory; to make a new file, give its --size"));
    assert_eq!(dir.names(), ["there"]);
}

#[test]
fn a_name_with_a_line_break_still_makes_one_line() {
    let line = dmsnap!("info", "no\nsuch\u{1b}[31mfile").failed();
    assert!(line.starts_with("dmsnap: no\\nsuch\\u{1b}[31mfile: "), "{line}");
}

#[test]
fn what_is_no_storage_is_refused() {
    let dir = Dir::new();
    let file = dir.file("file", b"");
    let directory = dir.path("directory");
    fs::create_dir(&directory).expect("mkdir");
    for (path, found) in [
        (directory, "neither a regular file nor a block device"),
        (PathBuf::from("/dev/null"), "neither a regular file nor a block device"),
        (looped(&dir), "Too many levels of symbolic links"),
    ] {
        for ran in [
            dmsnap!("info", path),
            dmsnap!("dump", path),
            dmsnap!("check", file, path),
            dmsnap!("create", path),
            dmsnap!("export", path, file, dir.path("out")),
            dmsnap!("export", "--force", file, dir.file("origin", b""), path),
            dmsnap!("merge", file, path),
        ] {
            let line = ran.failed();
            assert!(line.starts_with(&format!("dmsnap: {}: {found}", path.display())), "{line}");
        }
    }
}

fn looped(dir: &Dir) -> PathBuf {
    let path = dir.path("loop");
    symlink(&path, &path).expect("symlink");
    path
}

#[test]
fn one_file_under_two_names_is_refused_and_both_are_named() {
    let dir = Dir::new();
    let file = dir.file("file", &store(&[0], 16));
    let other = dir.file("other", &origin(16));
    let [hard, soft] = ["hard", "soft"].map(|name| dir.path(name));
    fs::hard_link(&file, &hard).expect("hard link");
    symlink(&file, &soft).expect("symlink");
    for again in [&file, &hard, &soft] {
        for (roles, ran) in [
            ("COW and ORIGIN", dmsnap!("check", file, again)),
            ("COW and ORIGIN", dmsnap!("merge", file, again)),
            ("COW and ORIGIN", dmsnap!("merge", "--dry-run", file, again)),
            ("COW and ORIGIN", dmsnap!("export", file, again, dir.path("out"))),
            ("COW and OUTPUT", dmsnap!("export", "--force", file, other, again)),
            ("ORIGIN and OUTPUT", dmsnap!("export", "--force", other, file, again)),
        ] {
            let (again, file) = (again.display(), file.display());
            let said = format!("the same file or device as {file}; {roles} must be two");
            assert_eq!(ran.failed(), format!("dmsnap: {again}: {said}"));
        }
    }
    assert_eq!(read(&file), store(&[0], 16));
    assert_eq!(read(&other), origin(16));
}

#[test]
fn a_file_marked_read_only_is_not_written() {
    let dir = Dir::new();
    let cow = dir.file("cow", &store(&[0], 16));
    let disk = dir.file("disk", &origin(16));
    let marked = dir.file("marked", b"old");
    fs::set_permissions(&marked, Permissions::from_mode(0o444)).expect("chmod");
    for ran in [
        dmsnap!("create", "--force", marked),
        dmsnap!("merge", cow, marked),
        dmsnap!("merge", marked, disk),
        dmsnap!("export", "--force", cow, disk, marked),
    ] {
        let found = "read-only: its mode is 0444; make it writable first";
        assert_eq!(ran.failed(), format!("dmsnap: {}: {found}", marked.display()));
    }
    assert_eq!(read(&marked), b"old");
}

#[test]
fn a_device_somebody_else_has_locked_is_refused() {
    for locked in ["cow", "disk"] {
        let dir = Dir::new();
        let cow = dir.file("cow", &store(&[0], 16));
        let disk = dir.file("disk", &origin(16));
        let other = File::open(dir.path(locked)).expect("open");
        other.lock().expect("lock");
        for ran in [dmsnap!("merge", cow, disk), dmsnap!("export", cow, disk, dir.path("out"))] {
            let line = ran.failed();
            let found = "in use by another process, which has it locked";
            let start = format!("dmsnap: {}: {found}; ", dir.path(locked).display());
            assert!(line.starts_with(&start), "{line}");
        }
        assert_eq!(dir.names(), ["cow", "disk"]);
    }
}

#[test]
fn an_output_that_exists_is_left_alone() {
    let dir = Dir::new();
    let cow = dir.file("cow", &store(&[0], 16));
    let disk = dir.file("disk", &origin(16));
    let file = dir.file("out", b"old");
    let dangling = dir.path("dangling");
    symlink(dir.path("nowhere"), &dangling).expect("symlink");
    for path in [&file, &dangling] {
        let line = dmsnap!("export", cow, disk, path).failed();
        let said = "exists already; choose another name, or give --force to overwrite it";
        assert_eq!(line, format!("dmsnap: {}: {said}", path.display()));
    }
    let line = dmsnap!("export", cow, disk, dir.path("no/such/dir")).failed();
    assert!(line.ends_with("its directory does not exist; make it first"), "{line}");
    assert_eq!(read(&file), b"old");
    assert_eq!(dir.names(), ["cow", "dangling", "disk", "out"]);
}

#[test]
fn create_does_not_resize_what_exists() {
    let dir = Dir::new();
    let file = dir.file("file", &[0; 8192]);
    let line = dmsnap!("create", "--size", "4k", file).failed();
    let said = "exists and has 8192 bytes, not 4096; leave out --size to use it as it is";
    assert_eq!(line, format!("dmsnap: {}: {said}", file.display()));
    assert_eq!(read(&file), [0; 8192]);
}

#[test]
fn create_leaves_no_file_that_cannot_be_so_large() {
    let dir = Dir::new();
    let file = dir.path("file");
    for size in ["16777215T", "18446744073709551615"] {
        let line = dmsnap!("create", "--size", size, file).failed();
        assert!(line.contains("--size: found "), "{line}");
        assert!(line.ends_with("bytes, which is more than any file has"), "{line}");
        assert_eq!(dir.names(), [""; 0]);
    }
}

#[test]
fn help_and_scripts_end_quietly_when_nobody_reads() {
    for args in [&["--help"][..], &["completions", "bash"]] {
        let mut child = crate::common::command(args).spawn().expect("the command starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        let ran = crate::common::Ran::from(output);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_under_stdout_is_reported() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = crate::common::command(&["completions", "bash"]);
    let output = command.stdout(full).output().expect("the command starts");
    let line = crate::common::Ran::from(output).failed();
    assert_eq!(line, "dmsnap: standard output: No space left on device");
}
