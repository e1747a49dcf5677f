//! A store's metadata, kept, sent and brought back; and a store that is given away.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{
    CHUNK, Dir, OLD, ORIGIN_CHUNKS, Pair, Ran, pair, parsed, read, store, write_at,
};

/// Runs the command with these bytes on its standard input.
fn with_input(args: &[&Path], input: &[u8]) -> Ran {
    let mut child = crate::common::command(args).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends").into()
}

/// A store whose header and first area were overwritten, and the dump of what it was.
fn lost() -> (Pair, PathBuf, Vec<u8>) {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    let dump = dmsnap!("dump", "--restorable", pair.cow).ok();
    let dump = pair.dir.file("dump", dump.as_bytes());
    let before = read(&pair.cow);
    let mut lost = before.clone();
    lost[..2 * CHUNK].fill(0);
    fs::write(&pair.cow, lost).expect("write");
    (pair, dump, before)
}

#[test]
fn a_store_comes_back_from_its_dump() {
    let (Pair { cow, disk, dir }, dump, before) = lost();
    let planned = dmsnap!("restore", "--dry-run", dump, cow).ok();
    assert_eq!(planned, "would restore 5 exceptions; nothing was written\n");
    assert!(read(&cow) != before);
    assert_eq!(dmsnap!("restore", dump, cow).ok(), "restored 5 exceptions, status 28/84 8\n");
    assert!(read(&cow) == before);
    dmsnap!("export", cow, disk, dir.path("out")).ok();
    // Through a pipe, onto a device of its own.
    let other = dir.file("other", &vec![0; before.len()]);
    let args = ["restore".as_ref(), "-".as_ref(), other.as_path()];
    with_input(&args, &read(&dump)).ok();
    assert_eq!(dmsnap!("dump", other).ok(), dmsnap!("dump", cow).ok());
}

#[test]
fn a_dump_that_is_not_whole_is_refused_in_one_line() {
    let (Pair { cow, dir, .. }, dump, _) = lost();
    let before = read(&cow);
    let whole = fs::read_to_string(&dump).expect("text");
    let lines: Vec<&str> = whole.lines().collect();
    let short = lines[..lines.len() - 1].join("\n") + "\n";
    let file = dir.path("changed");
    let name = file.display().to_string();
    for (text, found) in [
        (String::new(), "not a restorable dump: its first line does not describe a store"),
        (
            dmsnap!("dump", "--json", dir.file("cow2", &store(&OLD, 21))).ok(),
            "not a restorable dump: its first line does not describe a store",
        ),
        (short, "the dump is cut off after line 4: it has no end line"),
        (
            whole[..whole.len() - 5].to_owned(),
            "the dump is cut off after line 4: it has no end line",
        ),
        (
            whole.replace("\"old\":20", "\"old\":21"),
            "the dump is damaged: the checksum does not fit what its end line says",
        ),
        (
            whole.replace("\"exceptions\":5", "\"exceptions\":6"),
            "the dump is damaged: the number of exceptions does not fit what its end line says",
        ),
        (
            whole.replace("\"slot\":3", "\"slot\":4"),
            "the dump is damaged: line 3 does not go on where the line before it ends",
        ),
        (
            whole.replace("\"len\":3", "\"len\":-3"),
            "the dump is damaged: line 2 is not one of a dump",
        ),
        (
            whole.replace("\"len\":3", &format!("\"len\":3{}", " ".repeat(5000))),
            "the dump is damaged: line 2 is too long for one of a dump",
        ),
        (format!("{whole}\n"), "the dump is damaged: line 6 is not one of a dump"),
    ] {
        fs::write(&file, &text).expect("write");
        let line = dmsnap!("restore", file, cow).failed();
        assert_eq!(line, format!("dmsnap: {name}: {found}"), "{text}");
        assert!(read(&cow) == before, "something was written");
    }
    let line = dmsnap!("restore", dir.path("missing"), cow).failed();
    assert!(line.ends_with("missing: No such file or directory; check the name"), "{line}");
}

#[test]
fn what_must_not_be_overwritten_is_not() {
    let (Pair { cow, dir, .. }, dump, before) = lost();
    dmsnap!("pack", dir.file("whole", &before), dir.path("pack")).ok();
    let pack = dir.path("pack");
    let small = dir.file("small", &vec![0; before.len() - CHUNK]);
    let line = dmsnap!("unpack", pack, small).failed();
    assert!(line.ends_with("small: has 40960 bytes; the store needs 43008"), "{line}");
    let small = dir.file("smaller", &vec![0; 4 * CHUNK]);
    let line = dmsnap!("restore", dump, small).failed();
    assert!(line.ends_with("smaller: has 8192 bytes; the store needs 14336"), "{line}");

    let held = File::open(&cow).expect("open");
    held.lock().expect("lock");
    for ran in [dmsnap!("restore", dump, cow), dmsnap!("unpack", pack, cow)] {
        let line = ran.failed();
        assert!(line.contains("in use by another process, which has it locked"), "{line}");
    }
    drop(held);

    dmsnap!("restore", dump, cow).ok();
    let lock = File::open(&cow).expect("open");
    lock.lock().expect("lock");
    assert!(dmsnap!("wipe", cow).failed().contains("in use by another process"));
    drop(lock);
    for ran in [dmsnap!("restore", dump, cow), dmsnap!("unpack", pack, cow)] {
        let line = ran.failed();
        let said = "holds a valid store, which would be lost; --force overwrites it";
        assert_eq!(line, format!("dmsnap: {}: {said}", cow.display()));
    }
    assert!(read(&cow) == before);
    dmsnap!("restore", "--force", dump, cow).ok();
    dmsnap!("unpack", "--force", pack, cow).ok();
    assert!(read(&cow) == before);

    let line = dmsnap!("pack", cow, pack).failed();
    assert!(line.ends_with("pack: exists already; remove it, or choose another name"), "{line}");
}

/// What is seen of a store without its data.
fn seen(cow: &Path) -> [String; 4] {
    let check = dmsnap!("check", cow);
    assert_eq!(check.stderr, "");
    [
        dmsnap!("info", cow).ok(),
        check.stdout,
        dmsnap!("dump", "--json", cow).ok(),
        dmsnap!("dump", "--restorable", cow).ok(),
    ]
}

#[test]
fn a_pack_shows_what_the_store_shows_and_has_none_of_its_data() {
    let Pair { cow, dir, .. } = pair(&OLD, ORIGIN_CHUNKS);
    let mut image = read(&cow);
    // A stray, and an exception that cannot be.
    write_at(&mut image, (CHUNK + 16 * 40 + 8) as u64, &[9]);
    write_at(&mut image, (CHUNK + 16 * 2 + 8) as u64, &[200]);
    image.resize(64 << 20, 0x77);
    fs::write(&cow, &image).expect("write");
    let (pack, back) = (dir.path("pack"), dir.path("back"));
    let packed = dmsnap!("pack", cow, pack).ok();
    assert!(
        packed.starts_with("packed 5 exceptions and 16 B of areas as they are into "),
        "{packed}"
    );
    assert!(fs::metadata(&pack).expect("made").len() < 3000);
    let unpacked = dmsnap!("unpack", pack, back).ok();
    let said = "unpacked 5 exceptions and 16 B of areas as they were of a device of 64 MiB\n";
    assert_eq!(unpacked, said);
    assert_eq!(seen(&back), seen(&cow));
    let made = fs::metadata(&back).expect("made");
    assert_eq!(made.len(), 64 << 20);
    assert!(made.blocks() * 512 < 1 << 20, "{} blocks", made.blocks());
    assert!(read(&back)[2 * CHUNK..].iter().all(|byte| *byte == 0), "data is in the pack");

    // To standard output; the report goes to stderr.
    let args = ["pack".as_ref(), cow.as_path(), "-".as_ref()];
    let piped = crate::common::command(&args).output().expect("it starts");
    assert_eq!(
        (piped.status.code(), String::from_utf8_lossy(&piped.stderr)),
        (Some(0), packed.into())
    );
    assert!(piped.stdout == read(&pack), "another pack");
}

#[test]
fn a_pack_that_is_not_whole_leaves_no_file() {
    let Pair { cow, dir, .. } = pair(&OLD, ORIGIN_CHUNKS);
    let (pack, back) = (dir.path("pack"), dir.path("back"));
    dmsnap!("pack", cow, pack).ok();
    let whole = read(&pack);
    let mut flipped = whole.clone();
    flipped[60] ^= 4;
    let changed = dir.path("changed");
    for (bytes, found) in [
        (&whole[..whole.len() - 1], "the pack is cut off after "),
        (&flipped[..], "the pack is damaged: record 1 has a wrong checksum"),
        (&read(&cow)[..], "not a pack of dmsnap"),
        (b"dmsnap pack 2\n", "a pack of another version (only 1 is known here)"),
        (b"", "not a pack of dmsnap"),
    ] {
        fs::write(&changed, bytes).expect("write");
        let line = dmsnap!("unpack", changed, back).failed();
        assert!(line.starts_with(&format!("dmsnap: {}: {found}", changed.display())), "{line}");
        assert!(!back.exists(), "a file is left");
    }
}

#[test]
fn what_is_not_a_store_is_packed_only_with_raw() {
    let (Pair { cow, dir, .. }, ..) = lost();
    let line = dmsnap!("pack", cow, dir.path("pack")).failed();
    assert!(line.ends_with("--raw packs what looks like areas"), "{line}");
    assert!(!dir.path("pack").exists());
    let packed = dmsnap!("pack", "--raw", "--json", cow, dir.path("pack")).ok();
    assert_eq!(parsed(&packed)["exceptions"], 0);
    // With its first area still there.
    let mut image = store(&OLD, 21);
    image[..4].fill(0xEE);
    let cow = dir.file("broken", &image);
    let packed = parsed(&dmsnap!("pack", "--raw", "--json", cow, dir.path("raw")).ok());
    assert!(packed["raw_bytes"].as_u64().expect("a number") >= CHUNK as u64, "{packed}");
    dmsnap!("unpack", dir.path("raw"), dir.path("back")).ok();
    assert_eq!(read(&dir.path("back"))[..2 * CHUNK], image[..2 * CHUNK]);
    let packed = dmsnap!("pack", "--chunk-size", "2k", "--json", cow, dir.path("sized")).ok();
    assert_eq!(parsed(&packed)["exceptions"], 5);
}

#[test]
fn a_store_that_is_given_away_is_zeroed() {
    let Pair { cow, dir, disk } = pair(&OLD, ORIGIN_CHUNKS);
    let before = read(&cow);
    let planned = dmsnap!("wipe", "--dry-run", cow).ok();
    assert_eq!(planned, "would wipe 14 KiB (5 exceptions); nothing was written\n");
    assert!(read(&cow) == before);
    let wiped = dmsnap!("wipe", cow).ok();
    assert!(wiped.starts_with("wiped 14 KiB (5 exceptions), "), "{wiped}");
    assert!(read(&cow).iter().all(|byte| *byte == 0));
    // There is nothing more to wipe.
    assert!(dmsnap!("wipe", cow).failed().contains("no snapshot store here"));

    // What was merged lies there still.
    fs::write(&cow, &before).expect("write");
    dmsnap!("merge", cow, disk).ok();
    dmsnap!("wipe", cow).ok();
    assert!(read(&cow).iter().any(|byte| *byte != 0));
    fs::write(&cow, &before).expect("write");
    dmsnap!("merge", cow, disk).ok();
    let wiped = dmsnap!("wipe", "--all", "--discard", "--json", cow).ok();
    assert_eq!(parsed(&wiped)["discarded_bytes"], before.len());
    assert!(read(&cow).iter().all(|byte| *byte == 0));

    for foreign in [vec![0; 8192], vec![0xEE; 8192]] {
        let file = dir.file("foreign", &foreign);
        dmsnap!("wipe", "--all", file).failed();
        assert!(read(&file) == foreign);
    }
    let line = dmsnap!("wipe", "lvm:disk.img:vg0/snap").failed();
    assert!(line.contains("no store in a volume group is wiped"), "{line}");
}

/// The block in this language that comes after this heading of docs/format.md.
fn documented(heading: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let text = fs::read_to_string(path).expect("docs/format.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the section");
    let (_, block) = section.split_once(&format!("\n```{language}\n")).expect("the block");
    let (block, _) = block.split_once("```").expect("its end");
    block.to_owned()
}

/// The worked example of docs/format.md, made of the hexdump there.
fn worked_example(dir: &Dir) -> PathBuf {
    let mut image = vec![0; 281 * 512];
    let put = |image: &mut Vec<u8>, at: u64, old: u64, new: u64| {
        write_at(image, at, &[old.to_le_bytes(), new.to_le_bytes()].concat());
    };
    write_at(&mut image, 0, b"SnAp\x01\0\0\0\x01\0\0\0\x02\0\0\0");
    put(&mut image, 1024, 10, 2);
    for n in 0..62 {
        put(&mut image, 1040 + 16 * n, 100 + n, 3 + n);
    }
    put(&mut image, 2032, 0, 65);
    put(&mut image, 67584, 7, 67);
    put(&mut image, 67600, 500, 68);
    put(&mut image, 68096, 430, 99);
    dir.file("example", &image)
}

#[test]
fn the_examples_of_the_documentation_are_what_the_command_writes() {
    let dir = Dir::new();
    let cow = worked_example(&dir);
    assert_eq!(dmsnap!("dump", "--restorable", cow).ok(), documented("Restorable dumps", "json"));
    let pack = dir.path("pack");
    dmsnap!("pack", cow, pack).ok();
    let pack = read(&pack);
    let block = documented("Packs", "text");
    let mut shown = 0;
    for line in block.lines() {
        let (bytes, _) = line.split_once("   ").unwrap_or((line, ""));
        let bytes: Vec<u8> = bytes
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
            .collect();
        let found = pack.windows(bytes.len()).any(|window| window == bytes);
        assert!(found, "{line}");
        shown += bytes.len();
    }
    assert!(shown > 60, "{shown} bytes are shown");
    assert!(pack.starts_with(b"dmsnap pack 1\n"));
}
