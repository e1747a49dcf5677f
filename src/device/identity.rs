use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{major, minor};

/// Which file or disk a path really is, whatever its name: equal for hard links, symbolic links,
/// two nodes of one disk, and a loop device and the file behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A file: its file system's device number and its inode.
    Inode(u64, u64),
    /// A disk, by its device number.
    Disk(u64),
}

impl Identity {
    /// Of what `path` leads to.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from_metadata(&metadata))
    }

    /// Of an open file.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        if !metadata.file_type().is_block_device() {
            return Self::Inode(metadata.dev(), metadata.ino());
        }
        behind_loop(metadata.rdev()).unwrap_or(Self::Disk(metadata.rdev()))
    }
}

/// True if both paths lead to the same file or disk.
///
/// # Errors
///
/// Whatever `stat` says of either.
pub fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(Identity::of(a)? == Identity::of(b)?)
}

/// The file behind a loop device, if it is one and the file still has its name.
fn behind_loop(rdev: u64) -> Option<Identity> {
    let attribute = sysfs(rdev, "loop/backing_file")?;
    Identity::of(Path::new(attribute.trim_end())).ok()
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
}
