//! `dmsnap merge --undo` and `dmsnap undo`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::common::{Dir, command, origin, parsed, run, snapshot, store};

/// Chunks of the origin that have exceptions.
const OLDS: [u64; 7] = [3, 4, 5, 40, 41, 90, 17];

/// The chunks of the origin.
const CHUNKS: u64 = 100;

struct World {
    dir: Dir,
}

impl World {
    fn new() -> Self {
        let dir = Dir::new();
        dir.file("cow", &store(&OLDS, 200));
        dir.file("origin", &origin(CHUNKS));
        Self { dir }
    }

    fn run(&self, words: &[&str]) -> crate::common::Ran {
        let named = |word: &&str| match word.strip_prefix('@') {
            Some(name) => self.dir.path(name).display().to_string(),
            None => (*word).to_owned(),
        };
        run(&words.iter().map(named).collect::<Vec<_>>())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path(name)).expect("readable")
    }

    fn shown(&self, cow: &str) -> Vec<u8> {
        self.run(&["export", "--force", cow, "@origin", "@out"]).ok();
        self.read("out")
    }
}

#[test]
fn a_merge_is_taken_back_and_made_again_ten_times() {
    let world = World::new();
    let (old, new) = (origin(CHUNKS), snapshot(&OLDS, CHUNKS));
    let told = world.run(&["merge", "--json", "--undo", "@undo", "@cow", "@origin"]).ok();
    let told = parsed(&told);
    assert_eq!((&told["kept_chunks"], &told["exceptions"]), (&7.into(), &7.into()), "{told}");
    assert!(world.read("origin") == new && world.shown("@undo") == old);
    for _ in 0..10 {
        world.run(&["undo", "@cow", "@origin", "@undo"]).ok();
        assert!(world.read("origin") == old && world.shown("@cow") == new);
        world.run(&["undo", "@undo", "@origin", "@cow"]).ok();
        assert!(world.read("origin") == new && world.shown("@undo") == old);
    }
    let [cow, undo] = ["@cow", "@undo"].map(|it| parsed(&world.run(&["info", "--json", it]).ok()));
    assert_eq!((&cow["partner"], &undo["partner"]), (&undo["id"], &cow["id"]));
}

#[test]
fn a_dry_run_tells_what_it_takes_and_writes_nothing() {
    let world = World::new();
    let before = (world.read("cow"), world.read("origin"));
    let told = world.run(&["merge", "--dry-run", "--undo", "@undo", "@cow", "@origin"]).ok();
    assert!(told.contains("would keep 7 chunks (14 KiB) first"), "{told}");
    assert!(told.contains("the way back takes 18432 bytes (18 KiB)"), "{told}");
    assert!(!world.dir.path("undo").exists());
    assert!(before == (world.read("cow"), world.read("origin")));
    world.run(&["merge", "--undo", "@undo", "@cow", "@origin"]).ok();
    assert_eq!(world.read("undo").len(), 18432, "as large as it said");
    let told = world.run(&["undo", "--dry-run", "@cow", "@origin", "@undo"]).ok();
    assert!(told.contains("would keep 7 chunks"), "{told}");
    assert!(world.shown("@undo") == origin(CHUNKS));
}

#[test]
fn a_killed_merge_is_cancelled_or_finished() {
    for n in 0..6 {
        let world = World::new();
        let path = |name: &str| world.dir.path(name).display().to_string();
        let words = ["merge", "--rate", "16K", "--window", "2K", "--undo"];
        let words = words.map(str::to_owned);
        let words = [&words[..], &[path("undo"), path("cow"), path("origin")]].concat();
        let mut merge = command(&words).spawn().expect("the command starts");
        sleep(Duration::from_millis(150 * n));
        merge.kill().expect("killed");
        merge.wait().expect("it ends");
        assert!(world.shown("@cow") == snapshot(&OLDS, CHUNKS), "{n}");
        let begun = fs::read(world.dir.path("undo")).is_ok_and(|it| it.starts_with(b"SnAp"));
        match begun {
            true => assert!(world.shown("@undo") == origin(CHUNKS), "{n}"),
            false => assert!(world.read("origin") == origin(CHUNKS), "{n}"),
        }
        if begun && n % 2 == 0 {
            world.run(&["undo", "@cow", "@origin", "@undo"]).ok();
            assert!(world.read("origin") == origin(CHUNKS), "{n}");
            assert!(world.shown("@cow") == snapshot(&OLDS, CHUNKS), "{n}");
        } else {
            world.run(&["merge", "--undo", "@undo", "@cow", "@origin"]).ok();
            assert!(world.read("origin") == snapshot(&OLDS, CHUNKS), "{n}");
            assert!(world.shown("@undo") == origin(CHUNKS), "{n}");
        }
    }
}

#[test]
fn what_is_refused_is_refused_in_one_line_and_changes_nothing() {
    let world = World::new();
    world.dir.file("other", &store(&[1], 50));
    world.dir.file("small", &vec![0; 8 * 2048]);
    let before = ["cow", "origin", "other"].map(|it| world.read(it));
    for (undo, told) in [
        ("@cow", "the same file or device"),
        ("@origin", "the same file or device"),
        (
            "@other",
            "holds a store already, which is not the way back of this merge; name another file or device",
        ),
        ("@small", "has 16384 bytes; the way back takes 18432"),
        ("@missing/undo", "its directory does not exist"),
    ] {
        let refused = world.run(&["merge", "--undo", undo, "@cow", "@origin"]).failed();
        assert!(refused.contains(told), "{refused}");
    }
    let refused = world.run(&["undo", "@cow", "@origin", "@other"]).failed();
    assert!(refused.contains("is not the way back of this store's merge"), "{refused}");
    assert!(before == ["cow", "origin", "other"].map(|it| world.read(it)));

    world.run(&["merge", "--undo", "@undo", "@cow", "@origin"]).ok();
    let before = ["cow", "origin", "undo"].map(|it| world.read(it));
    let refused = world.run(&["undo", "@undo", "@origin", "@cow"]).failed();
    let right = ["cow", "origin", "undo"].map(|it| world.dir.path(it).display().to_string());
    let right = format!("dmsnap undo {} {} {}", right[0], right[1], right[2]);
    assert!(refused.ends_with(&right), "the right command is printed: {refused}");
    let refused = world.run(&["merge", "@undo", "@origin"]).failed();
    assert!(refused.contains("is the way back of a merge"), "{refused}");
    assert!(refused.contains("`dmsnap undo` merges it"), "{refused}");
    assert!(before == ["cow", "origin", "undo"].map(|it| world.read(it)));
    assert_eq!(world.run(&["merge", "--undo"]).status, 2);
    assert_eq!(world.run(&["undo", "@cow", "@origin"]).status, 2);
}

#[test]
fn a_server_needs_both_stores_of_an_undoable_merge() {
    let world = World::new();
    let [undo, cow] =
        ["undo", "cow"].map(|name| format!("{name}={}", world.dir.path(name).display()));
    world.run(&["merge", "--undo", "@undo", "@cow", "@origin"]).ok();
    let serve = ["serve", "@origin", "--run", "true", "--snapshot"];
    let alone = world.run(&[&serve[..], &[undo.as_str()]].concat()).failed();
    assert!(alone.contains("shares an undoable merge with the store"), "{alone}");
    world.run(&[&serve[..], &[undo.as_str(), "--snapshot", cow.as_str()]].concat()).ok();
    world.run(&[&serve[..], &[undo.as_str(), "--forget-undo"]].concat()).ok();
}

#[test]
fn a_snapshot_that_is_thrown_away_is_dropped() {
    let world = World::new();
    world.run(&["merge", "--undo", "@undo", "@cow", "@origin"]).ok();
    world.run(&["undo", "--drop-snapshot", "@cow", "@origin", "@undo"]).ok();
    assert!(world.read("origin") == origin(CHUNKS));
    let info = parsed(&world.run(&["info", "--json", "@cow"]).ok());
    assert_eq!(info["valid"], false);
}
