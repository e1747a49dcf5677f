use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, major, minor};

use super::identity::{Below, What};
use super::sysfs;
use crate::device::ioctl::{LoopStatus, loop_status};

/// Linux: `LOOP_MAJOR`.
pub(super) const LOOP_MAJOR: u32 = 7;

/// What a loop device is attached to; `None` if this is not such a device, attached to nothing, or cannot be
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
    let path = Some(sysfs::backing_file(&sysfs::dir(disk)).unwrap_or(status.file_name));
    Below { what, from: status.offset_bytes, len: status.size_bytes, path }
}

/// Where no node of it can be opened. The name may lead to another file here.
fn told_by_sysfs(disk: u64) -> Option<Below> {
    let dir = sysfs::dir(disk);
    let path = sysfs::backing_file(&dir)?;
    let metadata = fs::metadata(&path).ok()?;
    let what = match metadata.file_type().is_block_device() {
        true => What::Disk(metadata.rdev()),
        false => What::Inode(metadata.dev(), metadata.ino()),
    };
    let len = sysfs::number(&dir, "loop/sizelimit").filter(|len| *len != 0);
    let from = sysfs::number(&dir, "loop/offset").unwrap_or(0);
    Some(Below { what, from, len, path: Some(path) })
}

/// For questions only.
fn open_node(disk: u64) -> io::Result<fs::File> {
    let name = sysfs::attribute(&sysfs::dir(disk), "uevent");
    let name = name.as_deref().and_then(|it| it.lines().find_map(|it| it.strip_prefix("DEVNAME=")));
    let name = name.map_or_else(|| format!("loop{}", minor(disk)), str::to_owned);
    let node = open_quietly(&Path::new("/dev").join(name), OFlags::empty())?;
    match node.metadata()?.rdev() == disk {
        true => Ok(node),
        // The name is left over from another device.
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Without waiting for anybody.
pub(super) fn open_quietly(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}
