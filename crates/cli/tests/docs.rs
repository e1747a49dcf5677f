//! The manual pages and completions in `docs/` are those of this command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::Dir;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).expect("directory");
    entries
        .map(|entry| {
            let entry = entry.expect("entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read_to_string(entry.path()).expect("text"))
        })
        .collect()
}

#[track_caller]
fn assert_current(found: &BTreeMap<String, String>, made: &BTreeMap<String, String>, how: &str) {
    let old: Vec<_> = made.iter().filter(|(name, text)| found.get(*name) != Some(text)).collect();
    let stray: Vec<_> = found.keys().filter(|name| !made.contains_key(*name)).collect();
    let old: Vec<_> = old.into_iter().map(|(name, _)| name).collect();
    assert!(old.is_empty() && stray.is_empty(), "not current: {old:?}, {stray:?}; run: {how}");
}

#[test]
fn the_manual_pages_are_current() {
    let dir = Dir::new();
    // It is made, with what is above it.
    let fresh = dir.path("share/man");
    assert_eq!(dmsnap!("man", fresh).ok(), "");
    assert_current(&files(&docs("man")), &files(&fresh), "dmsnap man docs/man");
}

#[test]
fn every_command_has_a_page_with_exit_status_and_examples() {
    let pages = files(&docs("man"));
    for (name, page) in &pages {
        let name = name.strip_suffix(".1").expect("section 1");
        assert!(page.contains(".SH \"EXIT STATUS\""), "{name}");
        if let Some((above, _)) = name.rsplit_once('-') {
            assert!(page.contains(".SH EXAMPLES"), "{name}");
            let listed = &pages[&format!("{above}.1")];
            assert!(listed.contains(&name.replace('-', "\\-")), "{name} in {above}");
        }
    }
}

#[test]
fn the_completions_are_current() {
    let shells = [("bash", "dmsnap.bash"), ("zsh", "_dmsnap"), ("fish", "dmsnap.fish")];
    let made = shells.map(|(shell, name)| (name.to_owned(), dmsnap!("completions", shell).ok()));
    let how = "dmsnap completions SHELL > docs/completions/FILE";
    assert_current(&files(&docs("completions")), &made.into(), how);
}
