//! The files of the repository, for the tests that read its own text.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The paths of all files that are, or would be, part of the repository, from its root.
pub(crate) fn files() -> Vec<String> {
    // An unpacked archive has no index: there, everything but what was built counts.
    let mut names = if root().join(".git").exists() { listed() } else { found("") };
    names.retain(|name| root().join(name).is_file());
    names.sort();
    names
}

fn listed() -> Vec<String> {
    let listed = Command::new("git")
        // The checkout may belong to somebody else, as in a container.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git can be run");
    assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn found(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(dir)).expect("a directory is readable");
    let names = entries.map(|entry| entry.expect("an entry is readable").file_name());
    let names = names.map(|name| name.into_string().expect("file names are UTF-8"));
    let names = names.filter(|name| name != "target").map(|name| match dir {
        "" => name,
        dir => format!("{dir}/{name}"),
    });
    names
        .flat_map(|name| if root().join(&name).is_dir() { found(&name) } else { vec![name] })
        .collect()
}

/// The text of one of them.
pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where they all lie.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
