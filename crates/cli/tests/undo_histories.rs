//! Random histories of merges with a way back, killed at random moments and brought to an end in each way there is.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::common::{CHUNK, Dir, command, origin, run, snapshot, store};
use crate::kernel::random::{Random, rounds};

/// The chunks of the origin.
const CHUNKS: u64 = 350;

/// A merge takes about this long, in milliseconds.
const MERGE_MS: u64 = 120;

struct History {
    dir: Dir,
    old: Vec<u8>,
    new: Vec<u8>,
    exceptions: u64,
    told: String,
}

impl History {
    fn new(seed: u64) -> Self {
        let (dir, mut random) = (Dir::new(), Random::from(seed));
        let mut olds: Vec<u64> = (0..CHUNKS).collect();
        for n in 0..olds.len() as u64 {
            let other = n + random.below(CHUNKS - n);
            olds.swap(usize::try_from(n).expect("small"), usize::try_from(other).expect("small"));
        }
        // One area, one that is exactly full, or more.
        let exceptions = [1 + random.below(127), 128, 129 + random.below(170)];
        let exceptions = exceptions[usize::try_from(random.below(3)).expect("small")];
        olds.truncate(usize::try_from(exceptions).expect("small"));
        dir.file("cow", &store(&olds, 400));
        dir.file("origin", &origin(CHUNKS));
        let (old, new) = (origin(CHUNKS), snapshot(&olds, CHUNKS));
        Self { dir, old, new, exceptions, told: format!("seed {seed}, {exceptions} exceptions") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path(name).display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path(name)).expect("readable")
    }

    /// `@name` is a file of the history.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let named = |word: &&str| match word.strip_prefix('@') {
            Some(name) => self.path(name),
            None => (*word).to_owned(),
        };
        words.iter().map(named).collect()
    }

    #[track_caller]
    fn done(&mut self, words: &[&str]) {
        self.told += &format!("; {}", words.join(" "));
        let ran = run(&self.words(words));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{}", self.told);
    }

    /// Starts a command and kills it.
    fn killed(&mut self, words: &[&str], random: &mut Random) {
        let after = Duration::from_micros(random.below(1200 * MERGE_MS));
        let bytes = self.exceptions * CHUNK as u64;
        let rate = (bytes * 1000 / MERGE_MS).max(1).to_string();
        let window = (bytes.div_ceil(8 * CHUNK as u64) * CHUNK as u64).to_string();
        let slow = ["--no-share", "--rate", &rate, "--window", &window];
        self.told += &format!("; {} killed after {after:?}", words.join(" "));
        let words = self.words(&[words, &slow[..]].concat());
        let mut child = command(&words).spawn().expect("the command starts");
        sleep(after);
        child.kill().expect("killed");
        child.wait().expect("it ends");
    }

    fn shown(&self, cow: &str) -> Vec<u8> {
        run(&self.words(&["export", "--force", cow, "@origin", "@out"])).ok();
        self.read("out")
    }

    fn has_begun(&self) -> bool {
        Path::new(&self.path("undo")).exists() && self.read("undo").starts_with(b"SnAp")
    }

    /// What holds at every moment.
    fn assert_shown(&self) {
        assert!(self.shown("@cow") == self.new, "another snapshot: {}", self.told);
        match self.has_begun() {
            true => assert!(self.shown("@undo") == self.old, "another way back: {}", self.told),
            false => assert!(self.read("origin") == self.old, "no way back: {}", self.told),
        }
    }

    fn assert_origin(&self, content: &[u8]) {
        assert!(self.read("origin") == content, "another origin: {}", self.told);
        self.assert_shown();
    }
}

const MERGE_UNDO: [&str; 5] = ["merge", "--undo", "@undo", "@cow", "@origin"];
const UNDO: [&str; 4] = ["undo", "@cow", "@origin", "@undo"];

fn play(seed: u64) {
    let (mut history, mut random) = (History::new(seed), Random::from(!seed));
    history.killed(&MERGE_UNDO, &mut random);
    history.assert_shown();
    let is_undone = match random.below(4) {
        _ if !history.has_begun() => {
            history.done(&MERGE_UNDO);
            false
        }
        0 => {
            history.done(&MERGE_UNDO);
            false
        }
        1 => {
            history.done(&["merge", "@cow", "@origin"]);
            false
        }
        2 => {
            history.done(&UNDO);
            true
        }
        _ => {
            history.killed(&UNDO, &mut random);
            history.assert_shown();
            history.done(&UNDO);
            true
        }
    };
    let (old, new) = (history.old.clone(), history.new.clone());
    if is_undone {
        history.assert_origin(&old);
        history.done(&["undo", "@undo", "@origin", "@cow"]);
        history.assert_origin(&new);
    } else {
        history.assert_origin(&new);
        history.done(&UNDO);
        history.assert_origin(&old);
    }
}

#[test]
fn whatever_was_killed_both_ways_lead_to_their_ends() {
    let seed = Random::seed();
    for n in 0..rounds(50) {
        play(seed.wrapping_add(n));
    }
}
