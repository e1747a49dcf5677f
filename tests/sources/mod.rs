//! The files of the repository, for the tests that read its own text.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The paths of all files that are, or would be, part of the repository, from its root.
pub(crate) fn files() -> Vec<String> {
    let listed = Command::new("git")
        // The checkout may belong to somebody else, as in a container.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("git can be run");
    assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let here = |name: &&str| !name.is_empty() && root().join(name).is_file();
    names.split('\0').filter(here).map(str::to_owned).collect()
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
