//! `dmsnap repair`: what it says, what it leaves, and what it refuses.

use std::fs;
use std::path::Path;

use dmsnap::format::{StoreId, Tag, TagState};

use crate::common::{CHUNK, OLD, ORIGIN_CHUNKS, Pair, pair, parsed, read, snapshot, write_at};

/// Puts numbers into slot `index` of a store.
fn put_slot(cow: &Path, index: u64, old: u64, new: u64) {
    let mut image = read(cow);
    write_at(&mut image, CHUNK as u64 + 16 * index, &old.to_le_bytes());
    write_at(&mut image, CHUNK as u64 + 16 * index + 8, &new.to_le_bytes());
    fs::write(cow, image).expect("write");
}

/// The snapshot that a store shows over its origin.
fn exported(cow: &Path, disk: &Path, out: &Path) -> Vec<u8> {
    dmsnap!("export", "--force", cow, disk, out).ok();
    read(out)
}

#[test]
fn of_a_sound_store_nothing_is_made() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    let new = dir.path("new");
    assert_eq!(dmsnap!("repair", cow, disk).ok(), "sound, nothing to do\n");
    assert_eq!(dmsnap!("repair", "--output", new, cow, disk).ok(), "sound, nothing to do\n");
    let json = parsed(&dmsnap!("repair", "--json", cow).ok());
    assert_eq!((&json["plan"]["sound"], json.get("repaired")), (&true.into(), None));
    assert_eq!(dir.names(), ["cow", "disk"]);
}

#[test]
fn the_plan_names_what_would_be_lost_and_writes_nothing() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 2, 7, 1);
    put_slot(&cow, 9, 3, 4);
    let before = read(&cow);
    let ran = dmsnap!("repair", cow, disk);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    assert_eq!(
        ran.stdout,
        "damage: area 0 (chunk 1), slot 2: the exception 7 -> 1 points to a metadata chunk of the COW device\n\
         \x20 repair: dropped: the snapshot will show the origin in bytes 14336 to 16383\n\
         damage: area 0 (chunk 1), slot 9: slots 9 to 9 after the terminator in slot 5 are not empty: a \
         kernel that opens this store brings them to life when it fills the gap\n\
         \x20 repair: 1 slots zeroed\n\
         would keep 4 of 5 exceptions, with chunks of 4 sectors (2 KiB); a copy needs 12 KiB\n\
         needs --drop: a repair loses chunks of the snapshot\n\
         nothing was written\n"
    );
    let lines = dmsnap!("repair", "--json", cow, disk);
    let lines: Vec<_> = lines.stdout.lines().map(parsed).collect();
    assert_eq!(lines[0]["kind"], "new-is-metadata");
    assert_eq!(lines[0]["treatment"]["kind"], "drop");
    assert_eq!(lines[0]["treatment"]["needs"], "drop");
    assert_eq!(lines[0]["treatment"]["origin_start_bytes"], 14336);
    assert_eq!(lines[0]["treatment"]["origin_length_bytes"], 2048);
    assert_eq!(lines[1]["treatment"]["kind"], "zero-slots");
    assert_eq!(lines[2]["plan"]["needs"][0], "drop");
    assert_eq!(dir.names(), ["cow", "disk"]);
    assert!(read(&cow) == before, "a plan was carried out");
}

#[test]
fn a_repaired_store_is_sound_and_shows_what_was_not_named() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 2, 7, 1);
    let (new, out) = (dir.path("new"), dir.path("out"));
    let refused = dmsnap!("repair", "--output", new, cow, disk);
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.contains("a repair loses chunks of the snapshot; --drop goes on"));
    assert!(!new.exists());

    let ran = dmsnap!("repair", "--drop", "--output", new, cow, disk).ok();
    assert!(ran.contains("repaired to ") && ran.contains(": 4 of 5 exceptions (8 KiB"), "{ran}");
    assert_eq!(dmsnap!("check", new, disk).ok(), "sound\n");
    assert_eq!(read(&new).len(), read(&cow).len(), "as much room as before");
    assert!(exported(&new, &disk, &out) == snapshot(&[5, 6, 2, 20], ORIGIN_CHUNKS));
}

/// The header is lost with everything that says how large chunks are.
#[test]
fn a_lost_header_is_guessed_and_can_be_told() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    let (new, out) = (dir.path("new"), dir.path("out"));
    let mut image = read(&cow);
    image[..512].fill(0);
    fs::write(&cow, &image).expect("write");
    dmsnap!("repair", "--output", new, cow, disk).ok();
    assert!(exported(&new, &disk, &out) == snapshot(&OLD, ORIGIN_CHUNKS));
    fs::remove_file(&new).expect("is there");
    // Of one exception nothing can be guessed.
    image[CHUNK + 16..CHUNK + 80].fill(0);
    fs::write(&cow, &image).expect("write");
    let refused = dmsnap!("repair", cow, disk).failed();
    assert!(refused.contains("no snapshot store here"), "{refused}");
    dmsnap!("repair", "--chunk-size", "2k", "--output", new, cow, disk).ok();
    assert!(exported(&new, &disk, &out) == snapshot(&OLD[..1], ORIGIN_CHUNKS));
}

#[test]
fn which_of_two_exceptions_counts_is_asked_for() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 5, 5, 7);
    let mut image = read(&cow);
    image[7 * CHUNK..8 * CHUNK].fill(9);
    fs::write(&cow, image).expect("write");
    let refused = dmsnap!("repair", "--drop", "--output", dir.path("new"), cow, disk);
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.contains("--duplicates goes on"), "{}", refused.stderr);
    for (rule, byte) in [("first", 105), ("last", 9)] {
        let (new, out) = (dir.path(rule), dir.path("out"));
        dmsnap!("repair", "--duplicates", rule, "--output", new, cow, disk).ok();
        assert_eq!(exported(&new, &disk, &out)[5 * CHUNK], byte, "{rule}");
    }
}

#[test]
fn what_exists_is_overwritten_only_with_force_and_what_is_too_small_not_at_all() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 9, 3, 4);
    let new = dir.file("new", b"precious");
    let refused = dmsnap!("repair", "--output", new, cow, disk);
    assert_eq!((refused.status, read(&new)), (3, b"precious".to_vec()));
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    dmsnap!("repair", "--force", "--output", new, cow, disk).ok();
    let checked = dmsnap!("check", new, disk).ok();
    assert!(checked.ends_with("sound\n"), "{checked}");
    for same in [&cow, &disk] {
        let refused = dmsnap!("repair", "--force", "--output", same, cow, disk).failed();
        assert!(refused.contains("must be two"), "{refused}");
    }
}

#[test]
fn many_findings_of_a_kind_are_counted() {
    let Pair { cow, disk, dir: _dir } = pair(&OLD, ORIGIN_CHUNKS);
    (0..40).for_each(|n| put_slot(&cow, n, 10 + n, 1));
    let ran = dmsnap!("repair", cow, disk);
    let found = "... and 2 more of new-is-metadata, repaired by drop\n";
    assert!(ran.stdout.contains(found), "{}", ran.stdout);
    assert_eq!(ran.status, 1);
}

#[test]
fn a_store_is_repaired_where_it_is_and_the_backup_brings_the_damaged_one_back() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 2, 7, 1);
    put_slot(&cow, 9, 3, 4);
    let (before, backup) = (read(&cow), dir.path("backup"));
    // Without a backup it is a usage error, and without consent nothing is made.
    assert_eq!(dmsnap!("repair", "--in-place", cow, disk).status, 2);
    assert_eq!(dmsnap!("repair", "--backup", backup, cow, disk).status, 2);
    let refused = dmsnap!("repair", "--in-place", "--backup", backup, cow, disk);
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.contains("--drop goes on"), "{}", refused.stderr);
    assert_eq!(dir.names(), ["cow", "disk"]);
    assert!(read(&cow) == before);

    let args = ["--in-place", "--drop", "--backup"];
    let told = dmsnap!("repair", args[0], args[1], args[2], backup, cow, disk).ok();
    assert!(told.contains(&format!("repaired {}: 4 of 5 exceptions", cow.display())), "{told}");
    assert!(dmsnap!("check", cow, disk).ok().ends_with("sound\n"));
    assert!(read(&cow) != before);
    dmsnap!("unpack", "--force", backup, cow).ok();
    assert!(read(&cow) == before, "the damaged store is back");

    // What exists is not overwritten, and then nothing is repaired.
    let refused = dmsnap!("repair", args[0], args[1], args[2], backup, cow, disk);
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    assert!(read(&cow) == before);
}

#[test]
fn a_repair_that_did_not_end_is_told_by_every_command() {
    let Pair { dir, cow, disk } = pair(&OLD, ORIGIN_CHUNKS);
    put_slot(&cow, 9, 3, 4);
    let (before, backup) = (read(&cow), dir.path("backup"));
    dmsnap!("repair", "--in-place", "--backup", backup, cow, disk).ok();
    // As a crash between its second and its last step leaves it.
    let tag = {
        let mut tag = Tag::new(StoreId::new([3; 16]).expect("not zero"));
        tag.state = TagState::Repairing;
        tag.to_bytes()
    };
    let mut begun = read(&cow);
    begun[..512].fill(0);
    write_at(&mut begun, 64, &tag);
    fs::write(&cow, &begun).expect("write");
    let advice = "a repair in place was begun here and did not end: the backup of the metadata brings the \
                  store back; `dmsnap unpack` writes the backup of the repair to it";
    let (out, other) = (dir.path("out"), dir.path("other"));
    fs::write(&other, &before).expect("write");
    for refused in [
        dmsnap!("info", cow),
        dmsnap!("check", cow, disk),
        dmsnap!("dump", cow),
        dmsnap!("export", cow, disk, out),
        dmsnap!("merge", cow, disk),
        dmsnap!("repair", cow, disk),
        dmsnap!("diff", cow, disk),
        dmsnap!("diff", disk, cow),
        dmsnap!("diff", cow, other),
    ] {
        let stderr = refused.failed();
        assert!(stderr.contains(advice), "{stderr}");
    }
    assert!(read(&cow) == begun && !out.exists());
    dmsnap!("unpack", backup, cow).ok();
    assert!(read(&cow) == before);
}
