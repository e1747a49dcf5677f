use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{major, minor};

use super::loops::attached;

/// Disks upon disks that are followed down.
const DEPTH: usize = 16;

/// Which bytes of which file or disk a path leads to, whatever its name: the same for hard links, symbolic
/// links, two nodes of one disk, a partition and its part of the disk, and a loop device and its part of the
/// file it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    of: What,
    /// In bytes. A file or a disk has all of them, however long it is.
    from: u64,
    to: u64,
}

/// What lies below everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// A file: its file system's device number and its inode.
    Inode(u64, u64),
    /// A disk, by its device number.
    Disk(u64),
}

/// A part of something that lies below a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) what: What,
    pub(super) from: u64,
    /// `None`: to its end.
    pub(super) len: Option<u64>,
    /// A name that a file may have.
    pub(super) path: Option<PathBuf>,
}

/// A file or disk, and what it goes through on the way down.
#[derive(Clone, Debug)]
pub(super) struct Descent {
    pub(super) identity: Identity,
    /// The disks from the top to the bottom, by their device numbers.
    pub(super) disks: Vec<u64>,
    /// The file below all of them, by a name that it may have; `None` if there are no disks, or no file.
    pub(super) file: Option<PathBuf>,
}

impl Identity {
    /// Of what `path` leads to.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Descent::of(&metadata, None).identity)
    }

    /// Of an open file.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn of_open(file: &fs::File) -> io::Result<Self> {
        file.metadata().map(|metadata| Descent::of(&metadata, Some(file)).identity)
    }

    /// Whether a write to one may change what is read from the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.of == other.of && self.from < other.to && other.from < self.to
    }

    /// Where it lies in what is below everything else, in bytes.
    pub(super) fn part(&self) -> (u64, u64) {
        (self.from, self.to)
    }

    pub(super) fn all_of(what: What) -> Self {
        Self { of: what, from: 0, to: u64::MAX }
    }

    /// The part of `below` that this is, if `below` is what it lies in.
    fn moved(self, below: &Below) -> Self {
        let to = below.len.map_or(self.to, |len| self.to.min(len));
        let at = |position: u64| position.saturating_add(below.from);
        Self { of: below.what, from: at(self.from), to: at(to) }
    }
}

impl Descent {
    /// `open` is the same file or disk, if it is open.
    pub(super) fn of(metadata: &Metadata, open: Option<&fs::File>) -> Self {
        let what = match metadata.file_type().is_block_device() {
            true => What::Disk(metadata.rdev()),
            false => What::Inode(metadata.dev(), metadata.ino()),
        };
        Self::from(Identity::all_of(what), open)
    }

    pub(super) fn from(identity: Identity, mut open: Option<&fs::File>) -> Self {
        let mut found = Self { identity, disks: Vec::new(), file: None };
        while let What::Disk(disk) = found.identity.of {
            found.disks.push(disk);
            let below = partition(disk).or_else(|| attached(disk, open));
            let Some(below) = below.filter(|_| found.disks.len() <= DEPTH) else { break };
            found.identity = found.identity.moved(&below);
            found.file = below.path;
            open = None;
        }
        found
    }
}

/// True if both paths lead to the same bytes, or to some that are the same.
///
/// # Errors
///
/// Whatever `stat` says of either.
pub fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(Identity::of(a)?.overlaps(&Identity::of(b)?))
}

/// Where on its disk a partition lies, if this is one.
fn partition(disk: u64) -> Option<Below> {
    /// Of sysfs, whatever the disk's own are.
    const SECTOR: u64 = 512;
    sysfs(disk, "partition")?;
    let number = |attribute| sysfs(disk, attribute)?.trim_end().parse::<u64>().ok();
    let (start, size) = (number("start")?, number("size")?);
    let whole = sysfs(disk, "../dev")?;
    let (major, minor) = whole.trim_end().split_once(':')?;
    let whole = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let (from, len) = (start.saturating_mul(SECTOR), Some(size.saturating_mul(SECTOR)));
    Some(Below { what: What::Disk(whole), from, len, path: None })
}

/// An attribute of the disk with this device number.
pub(super) fn sysfs(rdev: u64, attribute: &str) -> Option<String> {
    fs::read_to_string(sysfs_dir(rdev).join(attribute)).ok()
}

/// What the kernel tells about the disk with this device number.
pub(super) fn sysfs_dir(rdev: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_the_same_file_and_copies_are_not() {
        let dir = std::env::temp_dir().join(format!("dmsnap-identity-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("temporary directory");
        let [file, hard, soft, copy] = ["file", "hard", "soft", "copy"].map(|name| dir.join(name));
        fs::write(&file, b"x").expect("write");
        fs::hard_link(&file, &hard).expect("hard link");
        std::os::unix::fs::symlink(&file, &soft).expect("symlink");
        fs::copy(&file, &copy).expect("copy");
        assert!(is_same(&file, &hard).expect("stat"));
        assert!(is_same(&file, &soft).expect("stat"));
        assert!(!is_same(&file, &copy).expect("stat"));
        fs::remove_dir_all(&dir).expect("clean up");
    }

    /// Two loop devices on one file, a partition of one of them, and the file.
    #[test]
    fn parts_of_one_file_are_the_same_where_they_overlap() {
        let file = What::Inode(1, 2);
        let part = |from, len| {
            let below = Below { what: file, from, len, path: None };
            Identity::all_of(What::Disk(7)).moved(&below)
        };
        let (first, second) = (part(0, Some(1 << 20)), part(1 << 20, None));
        assert!(!first.overlaps(&second) && !second.overlaps(&first));
        assert!(part((1 << 20) - 1, Some(1)).overlaps(&first));
        for one in [first, second] {
            assert!(one.overlaps(&one));
            assert!(one.overlaps(&Identity::all_of(file)) && Identity::all_of(file).overlaps(&one));
            assert!(!one.overlaps(&Identity::all_of(What::Inode(1, 3))));
            assert!(!one.overlaps(&Identity::all_of(What::Disk(7))));
        }
        // A partition is cut off where its disk ends.
        let on_first = Identity { of: What::Disk(7), from: 4096, to: 1 << 30 };
        let below = Below { what: file, from: 0, len: Some(1 << 20), path: None };
        assert_eq!(on_first.moved(&below), Identity { of: file, from: 4096, to: 1 << 20 });
    }
}
