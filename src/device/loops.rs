use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, major, makedev, minor};

use super::identity::{Below, Descent, Identity, What, sysfs};
use super::ioctl::{LoopStatus, loop_status};

/// Linux: `LOOP_MAJOR`.
const LOOP_MAJOR: u32 = 7;

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
    let number = |attribute| sysfs(disk, attribute)?.trim_end().parse::<u64>().ok();
    let Some(told) = sysfs(disk, "loop/backing_file") else { return false };
    let Ok(metadata) = fs::metadata(path) else { return false };
    let rest = metadata.len().saturating_sub(number("loop/offset").unwrap_or(0));
    let is_cut = number("loop/sizelimit").is_some_and(|limit| limit != 0);
    ends_alike(told.trim_end_matches('\n'), path) && (is_cut || number("size") == Some(rest / 512))
}

/// The kernel says of a file that was removed that it was.
fn ends_alike(told: &str, path: &Path) -> bool {
    let told = Path::new(told.strip_suffix(" (deleted)").unwrap_or(told));
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    told.file_name().is_some_and(|name| Some(name) == path.file_name())
}

/// What a loop device is attached to; `None` if this is no such device, attached to nothing, or cannot be
/// found out. `open` is the device, if it is open.
pub(super) fn attached(disk: u64, open: Option<&fs::File>) -> Option<Below> {
    if major(disk) != LOOP_MAJOR {
        return None;
    }
    let asked = match open {
        Some(open) => loop_status(open),
        None => open_node(disk).and_then(loop_status),
    };
    match asked {
        Ok(status) => Some(below(disk, status)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => None,
        Err(_) => told_by_sysfs(disk),
    }
}

fn below(disk: u64, status: LoopStatus) -> Below {
    let (device, inode) = status.inode;
    let what = status.disk.map_or(What::Inode(device, inode), What::Disk);
    let told = sysfs(disk, "loop/backing_file").map(|told| told.trim_end_matches('\n').into());
    let path = Some(told.unwrap_or(status.file_name));
    Below { what, from: status.offset_bytes, len: status.size_bytes, path }
}

/// Where no node of it can be opened. The name may lead to another file here.
fn told_by_sysfs(disk: u64) -> Option<Below> {
    let told = sysfs(disk, "loop/backing_file")?;
    let path = Path::new(told.trim_end_matches('\n'));
    let metadata = fs::metadata(path).ok()?;
    let number = |attribute| sysfs(disk, attribute)?.trim_end().parse::<u64>().ok();
    let what = match metadata.file_type().is_block_device() {
        true => What::Disk(metadata.rdev()),
        false => What::Inode(metadata.dev(), metadata.ino()),
    };
    let len = number("loop/sizelimit").filter(|len| *len != 0);
    Some(Below { what, from: number("loop/offset").unwrap_or(0), len, path: Some(path.into()) })
}

/// For questions only.
fn open_node(disk: u64) -> io::Result<fs::File> {
    let name = sysfs(disk, "uevent");
    let name = name.as_deref().and_then(|it| it.lines().find_map(|it| it.strip_prefix("DEVNAME=")));
    let name = name.map_or_else(|| format!("loop{}", minor(disk)), str::to_owned);
    let node = open_quietly(&Path::new("/dev").join(name), OFlags::empty())?;
    match node.metadata()?.rdev() == disk {
        true => Ok(node),
        // The name is left over from another device.
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

fn open_quietly(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
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
    fn a_name_that_leads_nowhere_is_held_against_the_end_of_a_path() {
        let path = Path::new("/img/disk.img");
        for (told, expected) in [
            ("/host/images/disk.img", true),
            ("/host/images/disk.img (deleted)", true),
            ("/host/images/other.img", false),
            ("/", false),
        ] {
            assert_eq!(ends_alike(told, path), expected, "{told}");
        }
    }
}
