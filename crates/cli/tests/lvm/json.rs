use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::parsed;
use crate::lvm::samples::sample;

/// The names in the first column of a table of `docs/json.md`: the one with this head, in the
/// section that begins so.
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
    let sample = sample("several");
    let listed = parsed(&sample.lvm("list", &["--json"]).ok());
    assert_documented("lvm list", "name", &listed["report"][0]["lv"][0]);
    let checked = sample.lvm("check", &["--json"]).ok();
    let about: Vec<_> =
        checked.lines().map(parsed).filter(|it| !it["snapshot"].is_null()).collect();
    let snapshot = |name: &str| serde_json::json!({ "snapshot": format!("vg0/{name}") });
    assert_eq!(about, ["monday", "tuesday", "wednesday"].map(snapshot));
    let planned = parsed(&sample.lvm("merge", &["--json", "--dry-run", "vg0/monday"]).ok());
    assert_documented("lvm merge --dry-run", "name", &planned);
    assert_documented("lvm merge", "name in `others`", &planned["others"][0]);
    let merged = parsed(&sample.lvm("merge", &["--json", "vg0/monday"]).ok());
    assert_documented("lvm merge", "name", &merged);
    assert_documented("lvm merge", "name in `others`", &merged["others"][0]);
    assert_documented("lvm merge", "name in `metadata`", &merged["metadata"]);
}
