use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::sysfs;

/// What every disk writes untorn.
const SMALLEST: u32 = 512;

/// What the page cache writes at a time.
const LARGEST: u32 = 4096;

/// Disks upon disks that are followed down.
const DEPTH: u32 = 16;

/// The largest aligned write that reaches the medium all or nothing.
///
/// That is the smallest physical block of all disks below, as far as a file system's own blocks
/// reach (larger writes may be laid apart), and at most a page. 512 bytes where a disk cannot be
/// found out, as below a file system over several, or does not begin at a physical block.
pub(super) fn untorn_bytes(file: &fs::File, is_disk: bool) -> u32 {
    let Ok(metadata) = file.metadata() else { return SMALLEST };
    let found = match is_disk {
        true => of_disk(&sysfs::dir(metadata.rdev()), DEPTH),
        false => rustix::fs::fstatvfs(file)
            .ok()
            .and_then(|system| of_file(system.f_frsize, metadata.dev(), DEPTH)),
    };
    found.unwrap_or(SMALLEST)
}

/// Of a file on a file system with this block, on the disk `dev`.
fn of_file(block: u64, dev: u64, depth: u32) -> Option<u32> {
    believed(of_disk(&sysfs::dir(dev), depth)?.min(u32::try_from(block).ok()?))
}

/// `dir` is what the kernel tells about a disk or a partition.
fn of_disk(dir: &Path, depth: u32) -> Option<u32> {
    let depth = depth.checked_sub(1)?;
    // Partitions, and disks made of parts of others, may begin anywhere.
    if sysfs::number::<u32>(dir, "alignment_offset")? != 0 {
        return None;
    }
    let is_partition = dir.join("partition").exists();
    let whole = if is_partition { dir.join("..") } else { dir.to_owned() };
    let mut smallest: u32 = sysfs::number(&whole, "queue/physical_block_size")?;
    // A disk made of others tells the largest block of them.
    for below in below(&whole) {
        smallest = smallest.min(of_disk(&below, depth)?);
    }
    if let Some(file) = sysfs::backing_file(&whole) {
        smallest = smallest.min(below_loop(&whole, &file, depth)?);
    }
    believed(smallest)
}

/// A loop device writes through the file below it, whatever it says about itself.
fn below_loop(dir: &Path, file: &Path, depth: u32) -> Option<u32> {
    let metadata = fs::metadata(file).ok()?;
    let block = match metadata.file_type().is_block_device() {
        true => of_disk(&sysfs::dir(metadata.rdev()), depth)?,
        false => of_file(rustix::fs::statvfs(file).ok()?.f_frsize, metadata.dev(), depth)?,
    };
    let offset: u64 = sysfs::number(dir, "loop/offset")?;
    offset.is_multiple_of(block.into()).then_some(block)
}

fn believed(bytes: u32) -> Option<u32> {
    bytes.is_power_of_two().then(|| bytes.clamp(SMALLEST, LARGEST))
}

/// The disks that this one is made of.
fn below(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir.join("slaves")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel would tell, as files.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("dmsnap-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("temporary directory");
            Self(dir)
        }

        fn put(&self, dir: &str, attribute: &str, value: &str) {
            let path = self.0.join(dir).join(attribute);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
            fs::write(path, format!("{value}\n")).expect("attribute");
        }

        fn disk(&self, dir: &str, physical: &str, alignment_offset: &str) {
            self.put(dir, "queue/physical_block_size", physical);
            self.put(dir, "alignment_offset", alignment_offset);
        }

        fn lies_on(&self, dir: &str, below: &str) {
            let slaves = self.0.join(dir).join("slaves");
            fs::create_dir_all(&slaves).expect("directory");
            let name = below.replace('/', "-");
            std::os::unix::fs::symlink(self.0.join(below), slaves.join(name)).expect("symlink");
        }

        fn of(&self, dir: &str) -> Option<u32> {
            of_disk(&self.0.join(dir), DEPTH)
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_disk_is_believed_between_a_sector_and_a_page() {
        let sys = Sys::new("limits-disk");
        let told = [("512", 512), ("1024", 1024), ("4096", 4096), ("16384", 4096), ("1", 512)];
        for (physical, expected) in told {
            sys.disk("sda", physical, "0");
            assert_eq!(sys.of("sda"), Some(expected), "{physical}");
        }
        for nonsense in ["0", "3000", "", "-1"] {
            sys.disk("sda", nonsense, "0");
            assert_eq!(sys.of("sda"), None, "{nonsense}");
        }
        assert_eq!(sys.of("missing"), None);
    }

    #[test]
    fn a_partition_is_as_its_disk_if_it_begins_at_a_block() {
        let sys = Sys::new("limits-partition");
        sys.disk("sda", "4096", "0");
        for (partition, alignment_offset) in [("sda1", "0"), ("sda2", "3584"), ("sda3", "-1")] {
            let dir = format!("sda/{partition}");
            sys.put(&dir, "partition", "1");
            sys.put(&dir, "alignment_offset", alignment_offset);
        }
        let found = ["sda/sda1", "sda/sda2", "sda/sda3"].map(|dir| sys.of(dir));
        assert_eq!(found, [Some(4096), None, None]);
    }

    #[test]
    fn a_disk_made_of_others_is_as_the_smallest_of_them() {
        let sys = Sys::new("limits-stack");
        sys.disk("sda", "4096", "0");
        sys.disk("sdb", "512", "0");
        sys.put("sdb/sdb1", "partition", "1");
        sys.put("sdb/sdb1", "alignment_offset", "0");
        sys.disk("dm-0", "4096", "0");
        sys.lies_on("dm-0", "sda");
        assert_eq!(sys.of("dm-0"), Some(4096));
        sys.lies_on("dm-0", "sdb/sdb1");
        assert_eq!(sys.of("dm-0"), Some(512));
        sys.disk("md0", "4096", "0");
        sys.lies_on("md0", "dm-0");
        assert_eq!(sys.of("md0"), Some(512));
        sys.disk("dm-1", "4096", "0");
        sys.lies_on("dm-1", "dm-1");
        assert_eq!(sys.of("dm-1"), None, "a circle ends");
    }
}
