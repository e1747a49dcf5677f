//! What the kernel tells about disks, as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{major, minor};

/// The folder of the disk with this device number.
pub(super) fn dir(rdev: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)).into()
}

/// One attribute, without the end of its line.
pub(super) fn attribute(dir: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(dir.join(name)).ok()?.trim_end().to_owned())
}

/// An attribute that is a number.
pub(super) fn number<N: FromStr>(dir: &Path, name: &str) -> Option<N> {
    attribute(dir, name)?.parse().ok()
}

/// The name of the file that a loop device is attached to, as the one who attached it knew it: it
/// may lead somewhere else here, and a removed file's ends with ` (deleted)`.
pub(super) fn backing_file(dir: &Path) -> Option<PathBuf> {
    // A name may end with spaces.
    let told = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
    Some(told.trim_end_matches('\n').into())
}
