//! `docs/json.md` names what `--json` prints, all of it and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::{CHUNK, OLD, ORIGIN_CHUNKS, Pair, pair, parsed, store};
use serde_json::Value;

/// The names in the first column of a table of `docs/json.md`: the one with this head, in the
/// section of this command.
fn documented(section: &str, head: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let text = fs::read_to_string(path).expect("docs/json.md");
    let mut sections = text.split("\n## ");
    let section = sections.find(|it| it.starts_with(&format!("`{section}`"))).expect("section");
    let names = section.split("\n\n").filter(|table| table.starts_with(&format!("| {head} |")));
    let rows = names.flat_map(|table| table.lines().skip(2));
    rows.map(|row| row.split('`').nth(1).expect("a name").to_owned()).collect()
}

#[track_caller]
fn assert_documented(section: &str, head: &str, object: &Value) {
    let names = object.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(documented(section, head), names, "{section}: docs/json.md and the object");
}

#[test]
fn every_name_in_json_is_documented_and_every_documented_name_is_there() {
    let Pair { cow, disk, dir } = pair(&[3, 4, 3], ORIGIN_CHUNKS);
    let found = dmsnap!("check", "--json", cow).stdout;
    let lines: Vec<_> = found.lines().map(parsed).collect();
    let [finding, last] = &lines[..] else { panic!("two lines: {found}") };
    assert_documented("check", "name", finding);
    assert_documented("check", "name in `report`", &last["report"]);
    let kind = finding["kind"].as_str().expect("a word");
    assert!(documented("check", "kind").contains(kind), "{kind}");

    // Two exceptions for chunk 3, with different data.
    let mut image = fs::read(&cow).expect("read");
    image[4 * CHUNK] ^= 1;
    fs::write(&cow, image).expect("write");
    let new = dir.path("new");
    let repaired = dmsnap!("repair", "--json", "--duplicates", "first", "--output", new, cow);
    let lines: Vec<_> = repaired.stdout.lines().map(parsed).collect();
    let [finding, last] = &lines[..] else {
        panic!("two lines: {repaired}", repaired = repaired.stdout)
    };
    assert_documented("repair", "name", finding);
    assert_documented("repair", "name in `treatment`", &finding["treatment"]);
    assert_documented("repair", "name in `plan`", &last["plan"]);
    assert_documented("repair", "name in `repaired`", &last["repaired"]);
    let kind = finding["treatment"]["kind"].as_str().expect("a word");
    assert!(documented("repair", "kind of treatment").contains(kind), "{kind}");

    let created = dmsnap!("create", "--json", "--force", cow).ok();
    assert_documented("create", "name", &parsed(&created));
    fs::write(&cow, store(&OLD, 21)).expect("write");
    let dumped = dmsnap!("dump", "--json", cow).ok();
    assert_documented("dump", "name", &parsed(dumped.lines().next().expect("a run")));
    let dumped = dmsnap!("dump", "--restorable", cow).ok();
    let ends: Vec<_> = dumped.lines().map(parsed).collect();
    let (first, last) = (&ends[0], &ends[ends.len() - 1]);
    assert_documented("dump", "name in `store`", &first["store"]);
    assert_documented("dump", "name in `end`", &last["end"]);
    let (dump, pack) = (dir.file("dump", dumped.as_bytes()), dir.path("pack"));
    let restored = dmsnap!("restore", "--json", "--force", dump, cow).ok();
    assert_documented("restore", "name", &parsed(&restored));
    assert_documented("pack", "name", &parsed(&dmsnap!("pack", "--json", cow, pack).ok()));
    let back = dir.path("back");
    assert_documented("unpack", "name", &parsed(&dmsnap!("unpack", "--json", pack, back).ok()));
    let planned = dmsnap!("wipe", "--json", "--dry-run", back).ok();
    assert_documented("wipe --dry-run", "name", &parsed(&planned));
    assert_documented("wipe", "name", &parsed(&dmsnap!("wipe", "--json", back).ok()));
    let exported = dmsnap!("export", "--json", cow, disk, dir.path("out")).ok();
    assert_documented("export", "name", &parsed(&exported));
    let image = dir.path("out");
    let compared = dmsnap!("compare", "--json", cow, disk, image).ok();
    assert_documented("compare", "name", &parsed(&compared));
    let listed = dmsnap!("diff", "--json", cow, disk).stdout;
    let lines: Vec<_> = listed.lines().map(parsed).collect();
    assert_documented("diff", "name in the first line", &lines[0]);
    assert_documented("diff", "name", &lines[1]);
    let message = parsed(&dmsnap!("diff", "--format", "csi", cow, disk).stdout);
    assert_documented("diff", "name with `--format csi`", &message);
    let map = parsed(&dmsnap!("diff", "--format", "qemu", cow, disk).stdout);
    assert_documented("diff", "name with `--format qemu`", &map[0]);
    let planned = dmsnap!("merge", "--json", "--dry-run", cow, disk).ok();
    assert_documented("merge --dry-run", "name", &parsed(&planned));
    assert_documented("merge", "name", &parsed(&dmsnap!("merge", "--json", cow, disk).ok()));
}

#[test]
fn what_a_merge_with_a_way_back_prints_is_documented() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    let undo = dir.path("undo");
    let with = |more: &str| {
        documented("merge", "name").union(&documented("merge --undo", more)).cloned().collect()
    };
    let planned = parsed(&dmsnap!("merge", "--json", "--dry-run", "--undo", undo, cow, disk).ok());
    let names: BTreeSet<String> = planned.as_object().expect("an object").keys().cloned().collect();
    let more = documented("merge --undo", "name with `--dry-run`");
    assert_eq!(names, documented("merge --dry-run", "name").union(&more).cloned().collect());
    let merged = parsed(&dmsnap!("merge", "--json", "--undo", undo, cow, disk).ok());
    let names: BTreeSet<String> = merged.as_object().expect("an object").keys().cloned().collect();
    let all: BTreeSet<String> = with("name");
    assert_eq!(names, all);
    // A store that belongs to somebody says so.
    assert_documented("info", "name", &parsed(&dmsnap!("info", "--json", cow).ok()));
}
