use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::backing::attached;
use super::identity::{Below, Identity, What};
use super::sysfs;

/// Disks upon disks that are followed down.
const DEPTH: usize = 16;

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
        while let What::Disk(disk) = found.identity.of_what() {
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
    let dir = sysfs::dir(disk);
    sysfs::attribute(&dir, "partition")?;
    let (start, size): (u64, u64) = (sysfs::number(&dir, "start")?, sysfs::number(&dir, "size")?);
    let whole = sysfs::attribute(&dir, "../dev")?;
    let (major, minor) = whole.split_once(':')?;
    let whole = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let (from, len) = (start.saturating_mul(SECTOR), Some(size.saturating_mul(SECTOR)));
    Some(Below { what: What::Disk(whole), from, len, path: None })
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
}
