use std::fs;
use std::path::{Path, PathBuf};

use dmsnap::device::Identity;

/// A loop device on an image.
#[derive(Debug)]
pub(super) struct Loop {
    /// `/dev/loop0`
    pub(super) node: PathBuf,
    /// Whether device-mapper, or another disk made of disks, lies on it or on a partition of it.
    pub(super) held: bool,
}

/// The loop devices on an image file. Locks say nothing about them, and what the kernel does
/// through one passes by everybody who has the file open.
pub(super) fn loops_on(image: Identity) -> Vec<Loop> {
    loops_in(Path::new("/sys/block"), image)
}

fn loops_in(sys_block: &Path, image: Identity) -> Vec<Loop> {
    let on_image = |dir: &PathBuf| {
        let file = fs::read_to_string(dir.join("loop/backing_file")).ok();
        let file = file.and_then(|file| Identity::of(Path::new(file.trim_end())).ok());
        file == Some(image)
    };
    let found = entries(sys_block).filter(on_image).map(|dir| Loop {
        node: Path::new("/dev").join(dir.file_name().unwrap_or_default()),
        held: is_held(&dir) || entries(&dir).any(|part| is_held(&part)),
    });
    found.collect()
}

fn is_held(dir: &Path) -> bool {
    entries(&dir.join("holders")).next().is_some()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_on_the_image_is_found_and_whether_something_lies_on_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        for image in ["a.img", "b.img"] {
            fs::write(path(image), b"").expect("write");
        }
        let attach = |name: &str, image: &str| {
            fs::create_dir_all(path("sys").join(name).join("loop")).expect("mkdir");
            let file = format!("{}\n", path(image).display());
            fs::write(path("sys").join(name).join("loop/backing_file"), file).expect("write");
        };
        attach("loop0", "a.img");
        attach("loop7", "b.img");
        fs::create_dir_all(path("sys/sda/holders")).expect("mkdir");
        let found = |image: &str| {
            let image = Identity::of(&path(image)).expect("stat");
            let loops = loops_in(&path("sys"), image);
            loops.iter().map(|it| (it.node.display().to_string(), it.held)).collect::<Vec<_>>()
        };
        assert_eq!(found("a.img"), [("/dev/loop0".into(), false)]);
        fs::create_dir_all(path("sys/loop7/loop7p2/holders/dm-0")).expect("mkdir");
        assert_eq!(found("b.img"), [("/dev/loop7".into(), true)]);
    }
}
