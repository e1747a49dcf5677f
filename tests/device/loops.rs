#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

/// True on a machine where this process may make loop devices. Otherwise the reason is printed:
/// what cannot be tested must not look tested.
pub(crate) fn usable(test: &str) -> bool {
    let reason = if !is_root() {
        "not root"
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices here"
    } else {
        return true;
    };
    skipped(test, reason);
    false
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn skipped(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {}", reason.trim_end());
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("a process has a user");
    uid.split_whitespace().nth(2) == Some("0")
}

/// Runs a tool of the system, which must be there and succeed.
#[track_caller]
pub(crate) fn tool(line: &mut Command) -> String {
    let output = line
        .output()
        .unwrap_or_else(|error| panic!("{line:?}: {error}: ./check installs what is needed"));
    assert!(output.status.success(), "{line:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A loop device over a file.
#[derive(Debug)]
pub(crate) struct Loop {
    path: PathBuf,
}

impl Loop {
    /// Over an existing file.
    pub(crate) fn over(file: &Path) -> Self {
        Self::with(file, &[])
    }

    /// With logical sectors of 4096 bytes.
    pub(crate) fn with_large_sectors(file: &Path) -> Self {
        Self::with(file, &["--sector-size", "4096"])
    }

    /// Read-only.
    pub(crate) fn read_only(file: &Path) -> Self {
        Self::with(file, &["--read-only"])
    }

    /// With further options. Others look for a free device at the same time: a loser asks
    /// again.
    pub(crate) fn with(file: &Path, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(file);
        for _ in 0..50 {
            let output = losetup.output().expect("losetup can be run: ./check installs it");
            if output.status.success() {
                let path = String::from_utf8_lossy(&output.stdout).trim().into();
                return Self { path };
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{losetup:?}: {}", told(&losetup.output().expect("losetup can be run")));
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Somebody may have the device open for a moment; the kernel then detaches it by itself.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).output();
    }
}

/// A file system on a loop device over a sparse image.
#[derive(Debug)]
pub(crate) struct Mount {
    dir: PathBuf,
    image: PathBuf,
    device: Loop,
}

impl Mount {
    /// Makes it by `mkfs` (a command and its options) below `dir`, which must exist. `None` if this
    /// kernel does not know the file system; the reason is printed.
    pub(crate) fn new(dir: &Path, kind: &str, mkfs: &[&str], bytes: u64) -> Option<Self> {
        let (image, mounted) = (dir.join(format!("{kind}.image")), dir.join(kind));
        let file = File::create(&image).expect("the image can be made");
        file.set_len(bytes).expect("the image can be sparse");
        fs::create_dir(&mounted).expect("the mount point can be made");
        let device = Loop::over(&image);
        tool(Command::new(mkfs[0]).args(&mkfs[1..]).arg(device.path()));
        let mount = Command::new("mount")
            .args(["-t", kind])
            .args([device.path(), &mounted])
            .output()
            .expect("mount can be run");
        if !mount.status.success() {
            let reason = told(&mount);
            assert!(reason.contains("unknown filesystem"), "{reason}");
            skipped(kind, &reason);
            let _ = fs::remove_file(&image);
            return None;
        }
        Some(Self { dir: mounted, image, device })
    }

    /// ext4: cannot share extents.
    pub(crate) fn ext4(dir: &Path) -> Option<Self> {
        Self::new(dir, "ext4", &["mkfs.ext4", "-q", "-b", "4096"], 64 << 20)
    }

    /// btrfs: can share extents.
    pub(crate) fn btrfs(dir: &Path, bytes: u64) -> Option<Self> {
        Self::new(dir, "btrfs", &["mkfs.btrfs", "-q"], bytes)
    }

    /// xfs: can share extents. At least 300 MB.
    pub(crate) fn xfs(dir: &Path, bytes: u64) -> Option<Self> {
        Self::new(dir, "xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"], bytes)
    }

    /// A path on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The disk below.
    pub(crate) fn device(&self) -> &Path {
        self.device.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..50 {
            let unmounted = Command::new("umount").arg(&self.dir).output();
            if unmounted.is_ok_and(|output| output.status.success()) {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_file(&self.image);
    }
}
