use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, major, makedev};

use super::backing::{LOOP_MAJOR, open_quietly};
use super::descent::Descent;
use super::identity::{Identity, What};
use super::sysfs;

/// A loop device that is attached to a file or a disk. What the kernel does through one passes by everybody
/// who has the file open, and no lock tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// `/dev/loop0`
    pub node: PathBuf,
    /// Whether it is mounted, or device-mapper or another disk made of disks lies on it.
    pub is_claimed: bool,
}

/// The loop devices through which bytes of this file or disk are written or read, apart from those that
/// `path` itself goes through.
///
/// They are asked themselves, by a call that gives device and inode: names and mount namespaces do not
/// matter. One that cannot be asked, for want of a node or of a permission, is known by the name that
/// sysfs tells, as far as that leads anywhere here; and one whose file's name leads nowhere counts if
/// that name ends as `path` does and the size fits.
///
/// # Errors
///
/// Whatever `stat` says of `path`.
pub fn loops_on(path: &Path) -> io::Result<Vec<Loop>> {
    let here = Descent::of(&fs::metadata(path)?, None);
    Ok(others(path, &here))
}

pub(super) fn others(path: &Path, here: &Descent) -> Vec<Loop> {
    let mut found = Vec::new();
    for (disk, node) in nodes() {
        if here.disks.contains(&disk) {
            continue;
        }
        let there = Descent::from(Identity::all_of(What::Disk(disk)), None).identity;
        // Attached to nothing, or to what cannot be found from here.
        let is_on = match there == Identity::all_of(What::Disk(disk)) {
            true => seems_on(disk, path),
            false => there.overlaps(&here.identity),
        };
        if is_on {
            found.push(Loop { is_claimed: is_claimed(&node), node });
        }
    }
    found
}

/// Whether a loop device whose file has a name that leads nowhere here may be on this file: by the end of the
/// name and by the size.
fn seems_on(disk: u64, path: &Path) -> bool {
    let dir = sysfs::dir(disk);
    let Some(told) = sysfs::backing_file(&dir) else { return false };
    let Ok(metadata) = fs::metadata(path) else { return false };
    let rest = metadata.len().saturating_sub(sysfs::number(&dir, "loop/offset").unwrap_or(0));
    let is_cut = sysfs::number(&dir, "loop/sizelimit").is_some_and(|limit: u64| limit != 0);
    let fits = is_cut || sysfs::number(&dir, "size") == Some(rest / 512);
    ends_alike(&told, path) && fits
}

/// The kernel says of a file that was removed that it was.
fn ends_alike(told: &Path, path: &Path) -> bool {
    let bytes = told.as_os_str().as_bytes();
    let told = Path::new(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    told.file_name().is_some_and(|name| Some(name) == path.file_name())
}

/// A disk that is mounted, or part of another, can not be opened for oneself.
fn is_claimed(node: &Path) -> bool {
    let busy = rustix::io::Errno::BUSY.raw_os_error();
    open_quietly(node, OFlags::EXCL).is_err_and(|error| error.raw_os_error() == Some(busy))
}

/// All loop devices, attached or not, by their device numbers: those that have a node, and those that
/// sysfs tells of.
fn nodes() -> BTreeMap<u64, PathBuf> {
    let mut found = BTreeMap::new();
    for dir in entries(Path::new("/sys/block")) {
        let numbers = fs::read_to_string(dir.join("dev")).unwrap_or_default();
        let numbers = numbers.trim_end().split_once(':').map(|(a, b)| (a.parse(), b.parse()));
        if let (Some((Ok(LOOP_MAJOR), Ok(minor))), Some(name)) = (numbers, dir.file_name()) {
            found.insert(makedev(LOOP_MAJOR, minor), Path::new("/dev").join(name));
        }
    }
    for node in entries(Path::new("/dev")) {
        let is_loop = node.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"loop"));
        let Some(metadata) = is_loop.then(|| fs::metadata(&node).ok()).flatten() else { continue };
        // Partitions are parts of a disk that is asked itself.
        if metadata.file_type().is_block_device() && major(metadata.rdev()) == LOOP_MAJOR {
            found.entry(metadata.rdev()).or_insert(node);
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_nowhere_is_compared_with_the_end_of_a_path() {
        let path = Path::new("/img/disk.img");
        for (told, expected) in [
            ("/host/images/disk.img", true),
            ("/host/images/disk.img (deleted)", true),
            ("/host/images/other.img", false),
            ("/", false),
        ] {
            assert_eq!(ends_alike(Path::new(told), path), expected, "{told}");
        }
    }
}
