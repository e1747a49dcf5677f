use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, sleep};
use std::time::Duration;

use dmsnap::device::{
    Access, Caching, File, Identity, Mode, OpenError, User, is_open_elsewhere, is_same, loops_on,
    new_file, new_file_of,
};

use crate::device::loops::{Loop, tool, usable};
use crate::device::neighbour::Neighbour;
use crate::device::scratch::{Scratch, open, run};

const MIB: u64 = 1 << 20;

async fn user(path: &Path, mode: Mode) -> Option<User> {
    match File::open(path, mode, Caching::Direct).await {
        Ok(_) => None,
        Err(OpenError::InUse(user)) => Some(user),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Whether QEMU can open an image for writing, and whether it can look at it.
fn qemu_can(image: &Path) -> (bool, bool) {
    let run = |command: &mut Command| {
        let output = command.output().expect("qemu-utils can be run: ./check installs them");
        output.status.success()
    };
    let write = run(Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 512"]).arg(image));
    let look = Command::new("qemu-img").args(["info", "-U", "-f", "raw"]).arg(image).output();
    (write, look.expect("qemu-img can be run").status.success())
}

#[test]
fn qemu_and_dmsnap_keep_each_other_out() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    run(async {
        let ours = open(&image, Mode::Write, Caching::Direct).await;
        assert_eq!(qemu_can(&image), (false, true), "next to our writer");
        drop(ours);
        let ours = open(&image, Mode::Read, Caching::Direct).await;
        assert_eq!(qemu_can(&image), (false, true), "next to our reader");
        drop(ours);
        let ours = open(&image, Mode::Look, Caching::Direct).await;
        assert_eq!(qemu_can(&image), (true, true), "next to one that only looks");
        drop(ours);

        let socket = scratch.path("qemu.sock");
        let theirs = Neighbour::qemu_nbd(&socket, &image, &[]);
        for mode in [Mode::Write, Mode::Read] {
            let found = user(&image, mode).await;
            let expected = [Some(User::Qemu), Some(User::Writer)];
            assert!(expected.contains(&found), "{mode:?} next to QEMU's writer: {found:?}");
        }
        open(&image, Mode::Look, Caching::Direct).await;
        drop(theirs);
        open(&image, Mode::Write, Caching::Direct).await;

        let theirs = Neighbour::qemu_nbd(&socket, &image, &["--read-only"]);
        open(&image, Mode::Read, Caching::Direct).await;
        drop(theirs);
    });
}

/// As a running guest has it: nobody else may write, and nobody needs another kind of lock.
#[test]
fn bytes_that_qemu_locks_are_respected_one_by_one() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    let theirs = fs::File::open(&image).expect("readable");
    let lock = |byte: i64, kind: i32| {
        let lock = nix::libc::flock {
            l_type: i16::try_from(kind).expect("small"),
            l_whence: 0,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&theirs, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).expect("locked");
    };
    run(async {
        // Permission in use or not shared: refused to a reader, to a writer.
        for (byte, reader, writer) in [
            (100, false, false),
            (101, true, true),
            (102, false, true),
            (103, true, true),
            (200, true, true),
            (201, false, true),
            (202, false, false),
            (203, false, true),
        ] {
            lock(byte, nix::libc::F_RDLCK);
            for (mode, refused) in
                [(Mode::Look, false), (Mode::Read, reader), (Mode::Write, writer)]
            {
                let expected = refused.then_some(User::Qemu);
                assert_eq!(user(&image, mode).await, expected, "{mode:?} next to byte {byte}");
            }
            lock(byte, nix::libc::F_UNLCK);
        }
    });
}

/// nbdkit, a copy under way, ...
#[test]
fn whoever_writes_without_a_lock_is_noticed_by_who_is_to_write() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    let theirs = fs::File::options().append(true).open(&image).expect("writable");
    run(async {
        assert_eq!(user(&image, Mode::Write).await, Some(User::Writer));
        open(&image, Mode::Read, Caching::Direct).await;
        let moment = thread::spawn(move || {
            sleep(Duration::from_millis(200));
            drop(theirs);
        });
        open(&image, Mode::Write, Caching::Direct).await;
        moment.join().expect("it ends");
        let reader = fs::File::open(&image).expect("readable");
        open(&image, Mode::Write, Caching::Direct).await;
        assert!(is_open_elsewhere(&image).await.expect("asked"));
        drop(reader);
        assert!(!is_open_elsewhere(&image).await.expect("asked"));
    });
}

#[test]
fn a_file_below_a_loop_device_is_not_written() {
    if !usable("files below loop devices") {
        return;
    }
    let scratch = Scratch::new();
    for kind in [Loop::over, Loop::read_only] {
        let image = scratch.hole("image", MIB);
        let other = scratch.path("other name");
        fs::hard_link(&image, &other).expect("linked");
        let disk = kind(&image);
        fs::remove_file(&image).expect("removed");
        let expected = Some(User::Loop(disk.path().to_owned()));
        run(async {
            assert_eq!(user(&other, Mode::Write).await, expected);
            for mode in [Mode::Read, Mode::Look] {
                open(&other, mode, Caching::Direct).await;
            }
        });
        assert!(is_same(&other, disk.path()).expect("asked"));
        assert_eq!(loops_on(&other).expect("asked").len(), 1);
        assert!(loops_on(disk.path()).expect("asked").is_empty(), "not that it is itself");
        drop(disk);
        run(open(&other, Mode::Write, Caching::Direct));
        fs::remove_file(&other).expect("removed");
    }
}

/// Whatever is given first, the file or the loop device.
#[test]
fn a_file_and_a_loop_device_on_it_have_one_writer() {
    if !usable("a loop device on an open file") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    run(async {
        let ours = open(&image, Mode::Write, Caching::Direct).await;
        let disk = Loop::over(&image);
        for mode in [Mode::Write, Mode::Read] {
            let found = user(disk.path(), mode).await;
            assert!(matches!(found, Some(User::Lock | User::Qemu)), "{mode:?}: {found:?}");
        }
        drop(ours);
        let ours = open(disk.path(), Mode::Write, Caching::Direct).await;
        assert!(user(&image, Mode::Read).await.is_some(), "it is written through the loop device");
        drop(ours);
        open(&image, Mode::Read, Caching::Direct).await;
    });
}

#[test]
fn parts_of_one_file_are_two_disks_unless_they_overlap() {
    if !usable("loop devices on parts of a file") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.hole("image", 4 * MIB);
    let part = |offset: u64, len: u64| {
        let (offset, len) = (offset.to_string(), len.to_string());
        Loop::with(&image, &["--offset", &offset, "--sizelimit", &len])
    };
    let [first, second] = [part(0, 2 * MIB), part(2 * MIB, 2 * MIB)];
    let same = |a: &Path, b: &Path| is_same(a, b).expect("asked");
    assert!(!same(first.path(), second.path()));
    assert!(same(first.path(), &image) && same(&image, second.path()));
    run(async {
        let both = [first.path(), second.path()];
        let _first = open(both[0], Mode::Write, Caching::Direct).await;
        let second = open(both[1], Mode::Write, Caching::Direct).await;
        drop(second);
        let third = part(2 * MIB - 4096, MIB);
        assert!(same(third.path(), both[0]) && same(third.path(), both[1]));
        assert!(matches!(user(third.path(), Mode::Write).await, Some(User::Loop(_))));
        assert_eq!(
            user(third.path(), Mode::Read).await,
            Some(User::Lock),
            "the first writes there"
        );
    });
}

#[test]
fn a_partition_is_a_part_of_its_disk() {
    if !usable("partitions") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.hole("image", 16 * MIB);
    let table = "label: dos\nstart=2048, size=8192\nstart=10240, size=8192\n";
    fs::write(scratch.path("table"), table).expect("written");
    let given = fs::File::open(scratch.path("table")).expect("readable");
    tool(Command::new("sfdisk").arg("--quiet").arg(&image).stdin(given));
    let disk = Loop::with(&image, &["--partscan"]);
    let part = |n: u32| PathBuf::from(format!("{}p{n}", disk.path().display()));
    for _ in 0..100 {
        if part(2).exists() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    if !part(2).exists() {
        eprintln!("SKIPPED partitions: nobody makes nodes for them here");
        return;
    }
    let same = |a: &Path, b: &Path| is_same(a, b).expect("asked");
    assert!(!same(&part(1), &part(2)));
    for whole in [disk.path(), &image] {
        assert!(same(&part(1), whole) && same(whole, &part(2)), "{}", whole.display());
    }
    let raw = Loop::with(&image, &["--offset", "1048576", "--sizelimit", "4194304"]);
    assert!(same(raw.path(), &part(1)) && !same(raw.path(), &part(2)));
}

#[test]
fn a_new_file_is_for_those_who_may_have_what_its_content_comes_from() {
    let scratch = Scratch::new();
    let made = |access: Access| {
        let path = scratch.path("new");
        let file = new_file(&path, access).expect("made");
        let metadata = file.metadata().expect("asked");
        fs::remove_file(&path).expect("removed");
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(made(Access::default()).0, 0o600, "nothing is known");
    let like = scratch.file("like", b"");
    for (mode, expected) in [(0o600, 0o600), (0o444, 0o644), (0o400, 0o600), (0o7755, 0o644)] {
        fs::set_permissions(&like, fs::Permissions::from_mode(mode)).expect("set");
        let (found, ..) = made(Access::like(&like).expect("asked"));
        assert_eq!(found & !expected, 0, "{mode:o}: {found:o}");
        assert_eq!(found & 0o600, 0o600, "{mode:o}: {found:o}");
    }
    let shared = Access::like(&like).expect("asked");
    assert_eq!((shared.exceeded_by(0o644), shared.exceeded_by(0o664)), (0, 0o020));
    assert_eq!(Access::default().exceeded_by(0o644), 0o044);
    if chown(&like, Some(65_534), Some(65_533)).is_ok() {
        fs::set_permissions(&like, fs::Permissions::from_mode(0o640)).expect("set");
        let (mode, uid, gid) = made(Access::like(&like).expect("asked"));
        assert_eq!((mode & !0o640, uid, gid), (0, 65_534, 65_533));
    }
}

#[test]
fn a_new_file_takes_the_place_of_nothing() {
    let scratch = Scratch::new();
    let target = scratch.path("target");
    let link = scratch.path("link");
    std::os::unix::fs::symlink(&target, &link).expect("linked");
    let error = new_file(&link, Access::default()).expect_err("a link to nowhere is there");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(!target.exists());
}

/// A reader that finds the name finds all of the content.
#[test]
fn a_new_file_of_some_content_is_there_as_a_whole() {
    let scratch = Scratch::new();
    let content = vec![7; 4 << 20];
    for turn in 0..8 {
        let path = scratch.path(&format!("new-{turn}"));
        thread::scope(|scope| {
            let seen = scope.spawn(|| {
                loop {
                    if let Ok(found) = fs::read(&path) {
                        return found.len();
                    }
                }
            });
            new_file_of(&path, Access::default(), &content).expect("made");
            assert_eq!(seen.join().expect("seen"), content.len(), "turn {turn}");
        });
        let error = new_file_of(&path, Access::default(), b"other").expect_err("it is there");
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert!(fs::read(&path).expect("read") == content);
    }
    let names = fs::read_dir(scratch.path("")).expect("read").count();
    assert_eq!(names, 8, "nothing else is left");
}

#[test]
fn an_open_disk_is_what_its_name_is() {
    if !usable("identities of disks") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    let disk = Loop::over(&image);
    run(async {
        let file = open(disk.path(), Mode::Write, Caching::Buffered).await;
        let found = file.identity().expect("asked");
        assert_eq!(found, Identity::of(disk.path()).expect("asked"));
        assert!(found.overlaps(&Identity::of(&image).expect("asked")));
        assert!(file.is_locked());
    });
}
