//! Every bad input, through every command: one line that names the file and says what is wrong, the
//! exit status that scripts rely on, and nothing written.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::common::{
    CHUNK, Dir, OLD, ORIGIN_CHUNKS, Pair, Ran, one_line, pair, parsed, store, write_at,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use Says::{Cow, Finds, Fine, Origin};

/// What a command makes of an input.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// Done, with nothing to complain about.
    Fine,
    /// Exit status 1, and a finding of this kind.
    Finds(&'static str),
    /// Exit status 3, and a line about the COW device with these words in it.
    Cow(&'static str),
    /// The same about the origin.
    Origin(&'static str),
}

/// What is given to a command.
struct Input {
    dir: Dir,
    cow: PathBuf,
    origin: PathBuf,
    /// Keeps a lock as another process would.
    held: Option<File>,
}

struct Case {
    what: &'static str,
    make: Box<dyn Fn(&mut Input)>,
    info: Says,
    dump: Says,
    check: Says,
    export: Says,
    merge: Says,
}

fn case(
    what: &'static str,
    [info, dump, check, export, merge]: [Says; 5],
    make: impl Fn(&mut Input) + 'static,
) -> Case {
    Case { what, make: Box::new(make), info, dump, check, export, merge }
}

fn patch(at: u64, bytes: &'static [u8]) -> impl Fn(&mut Input) {
    move |input| {
        let mut image = fs::read(&input.cow).expect("read");
        write_at(&mut image, at, bytes);
        fs::write(&input.cow, image).expect("write");
    }
}

/// Puts a sixth exception after the five in order.
fn slot(old: u64, new: u64) -> impl Fn(&mut Input) {
    move |input| {
        let mut image = fs::read(&input.cow).expect("read");
        put_slot(&mut image, 5, old, new);
        fs::write(&input.cow, image).expect("write");
    }
}

fn put_slot(image: &mut [u8], index: u64, old: u64, new: u64) {
    write_at(image, CHUNK as u64 + 16 * index, &old.to_le_bytes());
    write_at(image, CHUNK as u64 + 16 * index + 8, &new.to_le_bytes());
}

fn cut(len: u64) -> impl Fn(&mut Input) {
    move |input| {
        let file = File::options().write(true).open(&input.cow).expect("open");
        file.set_len(len).expect("cut");
    }
}

fn replace_cow(with: fn(&PathBuf)) -> impl Fn(&mut Input) {
    move |input| {
        fs::remove_file(&input.cow).expect("removed");
        with(&input.cow);
    }
}

fn fifo(path: &PathBuf) {
    mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).expect("a pipe");
}

/// No store that anybody could open.
fn headers() -> Vec<Case> {
    let all = |line: Says, kind| [line, line, Finds(kind), line, line];
    let no_store = |line| Cow(line);
    vec![
        case("blank", all(no_store("the magic is zero"), "blank"), patch(0, &[0; 4])),
        case("bad magic", all(no_store("not 53 6e 41 70"), "bad-magic"), patch(0, b"pAnS")),
        case("version 0", all(Cow("format version 0"), "bad-version"), patch(8, &[0])),
        case("version 2", all(Cow("format version 2"), "bad-version"), patch(8, &[2])),
        case(
            "chunk size 0",
            all(Cow("impossible chunk size of 0 sectors"), "impossible-chunk-size"),
            patch(12, &[0; 4]),
        ),
        case(
            "chunk size 24",
            all(Cow("impossible chunk size of 24 sectors"), "impossible-chunk-size"),
            patch(12, &[24, 0, 0, 0]),
        ),
        case(
            "chunk size 4194304",
            all(Cow("impossible chunk size of 4194304 sectors"), "impossible-chunk-size"),
            patch(12, &[0, 0, 64, 0]),
        ),
        case("no byte", all(Cow("the device has 0 bytes"), "truncated"), cut(0)),
        case("100 bytes", all(Cow("the device has 100 bytes"), "truncated"), cut(100)),
        case("600 bytes", all(Cow("the device has 600 bytes"), "truncated"), cut(600)),
    ]
}

/// Stores whose exceptions cannot be true.
fn exceptions() -> Vec<Case> {
    let doubtful = |kind, words| [Fine, Fine, Finds(kind), Cow(words), Cow(words)];
    let metadata = doubtful("new-is-metadata", "slot 5: the exception 9 -> 1 points to a metadata");
    let beyond = "points beyond the end of the COW device";
    let origin = doubtful("old-beyond-origin", "belongs beyond the end of the origin");
    vec![
        case("to an area", metadata, slot(9, 1)),
        case("beyond the device", doubtful("new-beyond-device", beyond), slot(9, 500)),
        case("upper bits", doubtful("new-too-large", "2^56 or more"), slot(9, u64::MAX)),
        case("beyond the origin", origin, slot(ORIGIN_CHUNKS, 7)),
        case(
            "an origin chunk twice",
            doubtful("duplicate-old", "repeats the origin chunk"),
            slot(OLD[2], 7),
        ),
        case("a COW chunk twice", doubtful("duplicate-new", "repeats the COW chunk"), slot(9, 3)),
        case("cut in the data", doubtful("truncated", beyond), cut(5 * CHUNK as u64 + 700)),
        case(
            "an origin that is too small",
            doubtful("old-beyond-origin", "area 0 (chunk 1), slot 4: the exception 20 -> 6"),
            |input| {
                fs::write(&input.origin, crate::common::origin(19)).expect("write");
            },
        ),
        case("an empty origin", origin, |input| fs::write(&input.origin, b"").expect("write")),
    ]
}

/// Lists that end nowhere, or too early.
fn lists() -> Vec<Case> {
    let endless = Cow("should end the list of exceptions");
    let endless = [endless, endless, Finds("missing-terminator"), endless, endless];
    let words = "the snapshot was dropped";
    vec![
        case("invalid", [Fine, Fine, Finds("invalid"), Cow(words), Cow(words)], patch(4, &[0])),
        case("strays", [Fine, Fine, Finds("stray-slots"), Fine, Fine], |input| {
            let mut image = fs::read(&input.cow).expect("read");
            put_slot(&mut image, 7, 9, 9);
            fs::write(&input.cow, image).expect("write");
        }),
        case("no terminator", endless, |input| {
            let olds: Vec<u64> = (0..128).collect();
            fs::write(&input.cow, store(&olds, 130)).expect("write");
            fs::write(&input.origin, crate::common::origin(128)).expect("write");
        }),
        case("cut in the first area", endless, cut(CHUNK as u64 + 600)),
    ]
}

/// Files that are not to be opened, or not for that.
fn files() -> Vec<Case> {
    let all = |words| [Cow(words); 5];
    let origin = |words| [Fine, Fine, Origin(words), Origin(words), Origin(words)];
    let no_storage = "neither a regular file nor a block device; give a file or a disk";
    let in_use = "in use by another process";
    let same = "the same file or device as";
    let swapped = "look swapped";
    let no_store = "no snapshot store here";
    vec![
        case(
            "a directory",
            all(no_storage),
            replace_cow(|cow| {
                fs::create_dir(cow).expect("a directory");
            }),
        ),
        case("a pipe", all(no_storage), replace_cow(fifo)),
        case("nothing there", all("No such file or directory"), replace_cow(|_| {})),
        case(
            "a link to nowhere",
            all("No such file or directory"),
            replace_cow(|cow| symlink("nowhere", cow).expect("a link")),
        ),
        case("an origin that is a directory", origin(no_storage), |input| {
            fs::remove_file(&input.origin).expect("removed");
            fs::create_dir(&input.origin).expect("a directory");
        }),
        case("an origin that is a pipe", origin(no_storage), |input| {
            fs::remove_file(&input.origin).expect("removed");
            fifo(&input.origin);
        }),
        case("no origin", origin("No such file or directory"), |input| {
            fs::remove_file(&input.origin).expect("removed");
        }),
        case(
            "swapped",
            [Cow(no_store), Cow(no_store), Cow(swapped), Cow(swapped), Cow(swapped)],
            |input| std::mem::swap(&mut input.cow, &mut input.origin),
        ),
        case("a locked COW device", [Fine, Fine, Fine, Cow(in_use), Cow(in_use)], |input| {
            input.held = Some(lock(&input.cow));
        }),
        case("a locked origin", [Fine, Fine, Fine, Origin(in_use), Origin(in_use)], |input| {
            input.held = Some(lock(&input.origin));
        }),
        case(
            "a read-only COW device",
            [Fine, Fine, Fine, Fine, Cow("read-only: its mode is 0444; make it writable first")],
            |input| read_only(&input.cow),
        ),
        case(
            "a read-only origin",
            [Fine, Fine, Fine, Fine, Origin("read-only: its mode is 0444")],
            |input| read_only(&input.origin),
        ),
        case("a second name", origin(same), |input| {
            fs::remove_file(&input.origin).expect("removed");
            fs::hard_link(&input.cow, &input.origin).expect("a link");
        }),
        case("a link to the COW device", origin(same), |input| {
            fs::remove_file(&input.origin).expect("removed");
            symlink(&input.cow, &input.origin).expect("a link");
        }),
        case("the same path", origin(same), |input| input.origin.clone_from(&input.cow)),
        case("a COW device behind a link", [Fine; 5], |input| {
            let link = input.dir.path("link");
            symlink(&input.cow, &link).expect("a link");
            input.cow = link;
        }),
        case(
            "an origin that begins like a store",
            [Fine, Fine, Finds("origin-begins-with-header"), Fine, Origin("--force goes on")],
            |input| {
                let mut image = fs::read(&input.origin).expect("read");
                write_at(&mut image, 0, b"SnAp");
                fs::write(&input.origin, image).expect("write");
            },
        ),
    ]
}

fn lock(path: &PathBuf) -> File {
    let file = File::open(path).expect("open");
    file.try_lock().expect("locked");
    file
}

fn read_only(path: &PathBuf) {
    fs::set_permissions(path, Permissions::from_mode(0o444)).expect("read-only");
}

/// Makes every input anew and hands it to `act`; no file may have changed afterwards, but where
/// `writes` says so.
fn every_case(act: impl Fn(&Case, &Input), writes: impl Fn(&Case) -> bool) {
    let cases: Vec<_> = [headers(), exceptions(), lists(), files()].into_iter().flatten().collect();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
        let mut input = Input { dir, cow, origin: disk, held: None };
        (case.make)(&mut input);
        let before = contents(&input.dir);
        act(&case, &input);
        assert!(writes(&case) || contents(&input.dir) == before, "{}: written", case.what);
    }
}

/// Every name, and what the regular files hold.
fn contents(dir: &Dir) -> BTreeMap<String, Option<Vec<u8>>> {
    let content = |name: &String| {
        let path = dir.path(name);
        let is_file = path.symlink_metadata().expect("there").is_file();
        is_file.then(|| fs::read(path).expect("read"))
    };
    dir.names().into_iter().map(|name| (name.clone(), content(&name))).collect()
}

/// Holds how a command ended against what it is to say; `told` may stand on stdout before that.
#[track_caller]
fn assert_says(ran: &Ran, says: Says, input: &Input, what: &str, told: bool) {
    let Ran { status, stdout, stderr } = ran;
    let output = format!("{what}: status {status}\n{stdout}\n{stderr}");
    assert!(!output.contains("panicked") && !output.contains("RUST_BACKTRACE"), "{output}");
    let (path, words) = match says {
        Fine => return assert_eq!((*status, stderr.as_str()), (0, ""), "{output}"),
        Finds(_) => return assert_eq!((*status, stderr.as_str()), (1, ""), "{output}"),
        Cow(words) => (&input.cow, words),
        Origin(words) => (&input.origin, words),
    };
    assert_eq!(*status, 3, "{output}");
    assert!(told || stdout.is_empty(), "{output}");
    let line = one_line(stderr);
    assert!(line.starts_with(&format!("dmsnap: {}: ", path.display())), "{what}: {line}");
    assert!(line.contains(words), "{what}: {line}");
    assert!(!line.contains("os error"), "{what}: {line}");
}

#[test]
fn info_says_what_is_wrong() {
    let act = |case: &Case, input: &Input| {
        for ran in [dmsnap!("info", input.cow), dmsnap!("info", "--json", input.cow)] {
            assert_says(&ran, case.info, input, case.what, false);
        }
    };
    every_case(act, |_| false);
}

#[test]
fn dump_says_what_is_wrong() {
    let act = |case: &Case, input: &Input| {
        for ran in [dmsnap!("dump", input.cow), dmsnap!("dump", "--json", input.cow)] {
            // The runs before an end that is missing are worth having.
            assert_says(&ran, case.dump, input, case.what, case.what == "no terminator");
        }
    };
    every_case(act, |_| false);
}

#[test]
fn check_says_what_is_wrong() {
    let act = |case: &Case, input: &Input| {
        let ran = dmsnap!("check", input.cow, input.origin);
        assert_says(&ran, case.check, input, case.what, false);
        match case.check {
            Finds(_) => {
                let lines: Vec<_> = ran.stdout.lines().collect();
                assert!(lines.iter().any(|line| line.starts_with("damage: ")), "{lines:?}");
                assert!(lines[lines.len() - 1].starts_with("damaged: "), "{lines:?}");
            }
            Fine => assert_eq!(ran.stdout, "sound\n", "{}", case.what),
            Cow(_) | Origin(_) => {}
        }
        let ran = dmsnap!("check", "--json", input.cow, input.origin);
        assert_says(&ran, case.check, input, case.what, false);
        if let Finds(kind) = case.check {
            let found = ran.stdout.lines().map(parsed).any(|it| it["kind"] == kind);
            assert!(found, "{}: {}", case.what, ran.stdout);
        }
    };
    every_case(act, |_| false);
}

#[test]
fn export_says_what_is_wrong_and_leaves_no_output() {
    let act = |case: &Case, input: &Input| {
        let out = input.dir.path("out");
        let ran = dmsnap!("export", input.cow, input.origin, out);
        assert_says(&ran, case.export, input, case.what, false);
        let done = matches!(case.export, Fine);
        assert_eq!(out.symlink_metadata().is_ok(), done, "{}: output", case.what);
        if done {
            fs::remove_file(out).expect("removed");
        }
    };
    every_case(act, |_| false);
}

#[test]
fn merge_says_what_is_wrong_and_so_does_its_plan() {
    let act = |case: &Case, input: &Input| {
        let before = contents(&input.dir);
        let plan = dmsnap!("merge", "--dry-run", input.cow, input.origin);
        assert!(contents(&input.dir) == before, "{}: a plan wrote something", case.what);
        let ran = dmsnap!("merge", input.cow, input.origin);
        assert_says(&ran, case.merge, input, case.what, false);
        // A plan is refused exactly where the merge is.
        assert_says(&plan, case.merge, input, case.what, false);
        if matches!(case.merge, Fine) {
            assert_eq!(dmsnap!("check", input.cow, input.origin).ok(), "sound\n", "{}", case.what);
            let expected = crate::common::snapshot(&OLD, ORIGIN_CHUNKS);
            assert!(crate::common::read(&input.origin) == expected, "{}: wrong content", case.what);
            assert_eq!(dmsnap!("dump", input.cow).ok(), "", "{}", case.what);
        }
    };
    every_case(act, |case| matches!(case.merge, Fine));
}

/// None of these is empty, so none is formatted without `--force`.
#[test]
fn create_spares_all_of_them() {
    let act = |case: &Case, input: &Input| {
        let ran = dmsnap!("create", input.cow);
        assert_says(&ran, Cow(""), input, case.what, false);
    };
    every_case(act, |_| false);
}
