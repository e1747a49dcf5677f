//! `dmsnap create --base` and `--for`: a store that knows its origin again, and has room for all of it.

use std::fs;
use std::path::PathBuf;

use crate::common::{Dir, origin, run, write_at};

struct Made {
    scratch: Dir,
    cow: PathBuf,
    origin: PathBuf,
}

fn made(chunks: u64) -> Made {
    let scratch = Dir::new();
    let origin = scratch.file("golden.img", &origin(2 * chunks));
    let cow = scratch.path("vm1.cow");
    let told = run(&[
        "create",
        "--for",
        origin.to_str().expect("text"),
        "--base",
        origin.to_str().expect("text"),
        cow.to_str().expect("text"),
    ])
    .ok();
    assert!(told.contains(&format!("capacity:   {chunks} exceptions")), "{told}");
    Made { scratch, cow, origin }
}

impl Made {
    fn run(&self, words: &[&str]) -> crate::common::Ran {
        let named = |word: &&str| match *word {
            "COW" => self.cow.display().to_string(),
            "ORIGIN" => self.origin.display().to_string(),
            "OUT" => self.scratch.path("out").display().to_string(),
            other => other.to_owned(),
        };
        run(&words.iter().map(named).collect::<Vec<_>>())
    }
}

#[test]
fn an_origin_that_was_written_without_its_store_is_refused_by_every_command() {
    let made = made(700);
    made.run(&["check", "COW", "ORIGIN"]).ok();
    let mut content = fs::read(&made.origin).expect("read");
    write_at(&mut content, 65_536, b"mounted elsewhere");
    fs::write(&made.origin, &content).expect("written");
    let before = fs::read(&made.cow).expect("read");

    let told = format!(
        "dmsnap: {}: not the origin that the store was made for, or it was written past the store: the 4096 \
         bytes from byte 65536 on differ; give the right one, or go on with --no-fence",
        made.origin.display()
    );
    for words in [
        &["export", "COW", "ORIGIN", "OUT"][..],
        &["merge", "COW", "ORIGIN"],
        &["merge", "--dry-run", "COW", "ORIGIN"],
    ] {
        assert_eq!(made.run(words).failed(), told, "{words:?}");
    }
    let checked = made.run(&["check", "COW", "ORIGIN"]);
    assert!(
        checked.stdout.contains("the 4096 bytes from byte 65536 on differ"),
        "{}",
        checked.stdout
    );
    assert_eq!(checked.status, 1);
    let served = made.run(&[
        "serve",
        "ORIGIN",
        "--snapshot",
        &format!("s={}", made.cow.display()),
        "--nbd",
        "unix:nowhere",
    ]);
    assert!(served.failed().contains("the 4096 bytes from byte 65536 on differ"));
    assert!(fs::read(&made.origin).expect("read") == content, "nothing was written");
    assert!(fs::read(&made.cow).expect("read") == before, "nothing was written");

    made.run(&["export", "--no-fence", "COW", "ORIGIN", "OUT"]).ok();
    made.run(&["merge", "--no-fence", "COW", "ORIGIN"]).ok();
}

#[test]
fn a_part_of_the_origin_takes_less_room() {
    let scratch = Dir::new();
    let origin = scratch.file("golden.img", &origin(2000));
    let [origin, cow] = [origin, scratch.path("vm.cow")].map(|it| it.display().to_string());
    let told = run(&["create", "--for", &origin, "--percent", "10", &cow]).ok();
    assert!(told.contains("capacity:   100 exceptions"), "{told}");
    assert_eq!(fs::metadata(&cow).expect("made").len(), 102 * 4096);
    // Without --base nothing of the origin is remembered.
    run(&["check", &cow, &origin]).ok();
}

#[test]
fn a_size_is_said_once_and_an_origin_that_is_not_there_makes_nothing() {
    let scratch = Dir::new();
    let cow = scratch.path("vm.cow").display().to_string();
    for words in [
        &["create", "--size", "1M", "--for", "golden.img", &cow][..],
        &["create", "--percent", "10", "--size", "1M", &cow],
        &["create", "--for", "golden.img", "--percent", "0", &cow],
        &["create", "--for", "golden.img", "--percent", "101", &cow],
    ] {
        assert_eq!(run(words).status, 2, "{words:?}");
    }
    let missing = scratch.path("missing").display().to_string();
    run(&["create", "--size", "1M", "--base", &missing, &cow]).failed();
    run(&["create", "--for", &missing, &cow]).failed();
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}
