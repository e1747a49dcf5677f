//! What holds for every file of the repository.

use std::fs;
use std::path::Path;

use crate::sources::{files, root, text};

/// The longest Rust file, in lines.
const LONGEST: usize = 600;

/// Words that no finished text holds. They are cut in two here, because this file is read too.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Strings that have no business anywhere: promises for later, and the machine a text was
/// written on.
const UNWANTED: [&str; 7] = [
    concat!("todo", "!"),
    concat!("unimplemented", "!("),
    concat!("/wo", "rk/"),
    concat!("/tmp/", "wt"),
    concat!("/home", "/"),
    concat!("clau", "de"),
    concat!("suba", "gent"),
];

/// What is wrong with the text of one file.
fn untidy(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, words) in (1..).zip(text.split('\n')) {
        let mut say = |what: &str| found.push(format!("{path}:{line}: {what}"));
        if words.ends_with([' ', '\t', '\r']) {
            say("white space at the end");
        }
        for word in UNFINISHED.iter().filter(|word| holds_word(words, word)) {
            say(word);
        }
        let lower = words.to_lowercase();
        for unwanted in UNWANTED.iter().filter(|unwanted| lower.contains(**unwanted)) {
            say(unwanted);
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{path}: no newline at the end"));
    }
    if text.ends_with("\n\n") {
        found.push(format!("{path}: empty lines at the end"));
    }
    let lines = text.lines().count();
    if path.ends_with(".rs") && lines > LONGEST {
        found.push(format!("{path}: {lines} lines, more than {LONGEST}"));
    }
    found
}

fn holds_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric()).any(|found| found == word)
}

/// Files kept byte for byte as somebody else's program wrote them: they are only where expected.
fn is_binary(path: &str) -> bool {
    path.starts_with("tests/data/") && path.ends_with(".zst")
        || path.starts_with("tests/data/lvm/") && path.ends_with(".vg")
        || path.starts_with("fuzz/corpus/")
}

#[test]
fn every_file_is_tidy() {
    let mut found = Vec::new();
    let files = files();
    for path in files.iter().filter(|path| !is_binary(path)) {
        found.extend(untidy(path, &text(Path::new(path))));
    }
    assert!(files.len() > 30, "only {} files were found", files.len());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The one lint table holds for every package.
#[test]
fn every_package_takes_its_lints_from_the_workspace() {
    for path in files().iter().filter(|path| path.ends_with("Cargo.toml")) {
        let manifest: toml::Table = text(Path::new(path)).parse().expect("Cargo.toml is TOML");
        // The fuzz targets are a workspace of their own, which cannot inherit.
        if manifest.contains_key("package") && !path.starts_with("fuzz/") {
            let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
            assert_eq!(lints, Some(&toml::Value::Boolean(true)), "{path}: [lints]");
        }
    }
}

#[test]
fn the_fuzz_targets_have_the_same_lints() {
    let manifest = |path| text(Path::new(path)).parse::<toml::Table>().expect("it is TOML");
    let workspace = manifest("Cargo.toml")["workspace"].get("lints").cloned();
    assert_eq!(manifest("fuzz/Cargo.toml").get("lints").cloned(), workspace);
}

/// A file no `mod` names is not compiled, so its tests never run.
#[test]
fn every_module_is_named_by_its_parent() {
    let files = files();
    for path in files.iter().filter(|path| path.ends_with(".rs") && is_module(path)) {
        let (dir, name) = path.trim_end_matches("/mod.rs").rsplit_once('/').expect("src/...");
        let name = name.trim_end_matches(".rs");
        let declared = format!("mod {name};");
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|parent| format!("{dir}/{parent}"));
        let parents = parents.into_iter().chain([format!("{dir}.rs")]);
        let mut parents = parents.filter(|parent| files.contains(parent));
        let named = parents.any(|parent| {
            let text = text(Path::new(&parent));
            text.lines().any(|line| line.contains(&declared) && !line.trim().starts_with("//"))
        });
        assert!(named, "{path}: no `{declared}` in its parent");
    }
}

fn is_module(path: &str) -> bool {
    let in_src = path.starts_with("src/") || path.contains("/src/");
    in_src
        && !["/lib.rs", "/main.rs"].iter().any(|root| path.ends_with(root))
        && !path.contains("/bin/")
}

/// Anyone who checks the project out can run these without a second thought.
#[test]
fn the_commands_of_the_repository_are_executable() {
    use std::os::unix::fs::PermissionsExt;
    for path in ["check", "quickstart", ".ci/run", "fuzz/run"] {
        let mode = fs::metadata(root().join(path)).expect("the command is there").permissions();
        assert_eq!(mode.mode() & 0o111, 0o111, "{path} is not executable");
        assert!(text(Path::new(path)).starts_with("#!"), "{path} does not name its interpreter");
    }
}

#[test]
fn a_planted_blemish_is_caught() {
    let planted = [
        "a line \n".to_owned(),
        "a line\r\n".to_owned(),
        "no newline".to_owned(),
        "two newlines\n\n".to_owned(),
        format!("// {}: later\n", UNFINISHED[0]),
        format!("({})\n", UNFINISHED[2]),
        format!("fn f() {{ {}() }}\n", UNWANTED[0]),
        format!("see {}notes\n", UNWANTED[2]),
        "//\n".repeat(LONGEST + 1),
    ];
    for text in planted {
        assert_eq!(untidy("src/planted.rs", &text).len(), 1, "{text}");
    }
    for text in ["", "fine\n", "mktemp -d dmsnap.XXXXXX\n", "todos los dispositivos\n"] {
        assert!(untidy("README.md", text).is_empty(), "{text}");
    }
}
