//! Tables of the kernel's targets.
#![no_main]

use std::path::PathBuf;

/// The very parser of the command, which is a program and no library.
#[path = "../../crates/cli/src/table.rs"]
#[allow(dead_code, missing_docs, reason = "the command uses all of it")]
mod table;

use table::{Line, Store, Target, parse};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse(text) {
        Ok(lines) => {
            let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
            assert_eq!(numbers, meant(text).map(|(number, _)| number).collect::<Vec<_>>());
            for line in lines {
                is_what_it_says(&line);
            }
        }
        Err(error) => {
            let (_, line) = meant(text).find(|(number, _)| *number == error.line).expect("a line");
            // Every line before is fine, and this one alone is not.
            assert!(parse(line).is_err(), "{line:?}: {error}");
            let before: Vec<&str> = text.lines().take(error.line - 1).collect();
            assert!(parse(&before.join("\n")).is_ok(), "{error}");
            assert!(error.to_string().starts_with("found "), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
});

/// The lines that say something, with their numbers.
fn meant(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines()).map(|(number, line)| (number, line.trim_ascii()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Written down again, a line is read as the same.
fn is_what_it_says(line: &Line) {
    let path = |path: &PathBuf| path.to_str().expect("from text").to_owned();
    let mut words: Vec<String> = line.name.iter().map(|name| format!("{name}:")).collect();
    words.extend(["0".into(), line.len_sectors.to_string()]);
    match &line.target {
        Target::Origin => words.extend(["snapshot-origin".into(), path(&line.origin)]),
        Target::Snapshot(it) => {
            let target = if it.merges { "snapshot-merge" } else { "snapshot" };
            words.extend([target.into(), path(&line.origin), path(&it.cow)]);
            words.extend(match it.store {
                Store::Persistent(None) => ["P".into(), "0".into()],
                Store::Persistent(Some(size)) => ["PO".into(), size.sectors().to_string()],
                Store::Transient(size) => ["N".into(), size.sectors().to_string()],
            });
            let features = [
                (it.discard_zeroes, "discard_zeroes_cow"),
                (it.discard_passdown, "discard_passdown_origin"),
            ];
            let features = features.iter().filter(|(set, _)| *set).map(|(_, word)| *word);
            let features: Vec<&str> = features.collect();
            words.push(features.len().to_string());
            words.extend(features.into_iter().map(str::to_owned));
        }
    }
    let again = parse(&words.join(" ")).expect("it was read before");
    assert_eq!(again, [Line { number: 1, ..line.clone() }]);
}
