//! Tables of the kernel's targets.
#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The very parser of the command, which is a program and no library.
#[path = "../../crates/cli/src/table.rs"]
#[allow(dead_code, missing_docs, reason = "the command uses all of it")]
mod table;

use table::{Line, Store, Target, parse};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        let _ = parse(data);
        return;
    };
    match parse(data) {
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
            assert!(parse(line.as_bytes()).is_err(), "{line:?}: {error}");
            let before: Vec<&str> = text.split('\n').take(error.line - 1).collect();
            assert!(parse(before.join("\n").as_bytes()).is_ok(), "{error}");
            assert!(error.to_string().starts_with("found "), "{error}");
        }
    }
});

/// The lines that say something, with their numbers.
fn meant(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let says = |line: &str| !line.is_empty() && !line.starts_with('#');
    (1..).zip(text.split('\n')).filter(move |(_, line)| says(line.trim_ascii()))
}

/// Written down again, a line is read as the same.
fn is_what_it_says(line: &Line) {
    let path = |path: &PathBuf| escaped(path.as_os_str().as_bytes());
    let name = |name: &String| format!("{}:", escaped(name.as_bytes()));
    let mut words: Vec<String> = line.name.iter().map(name).collect();
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
    let again = parse(words.join(" ").as_bytes()).expect("it was read before");
    assert_eq!(again, [Line { number: 1, ..line.clone() }]);
}

/// As `dmsetup` writes what is not a plain word.
fn escaped(word: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.-_".contains(&byte);
    let byte = |byte: &u8| match plain(*byte) {
        true => char::from(*byte).to_string(),
        false => format!("\\{byte:03o}"),
    };
    word.iter().map(byte).collect()
}
