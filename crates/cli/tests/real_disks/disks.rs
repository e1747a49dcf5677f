use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::loops::{Mount, tool};

/// The kinds of file systems: those that write in place, and one that never does.
pub(crate) const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// A small file system that can be filled and frozen.
pub(crate) struct Small {
    // Before the folder it lies in.
    mount: Mount,
    _dir: TempDir,
}

impl Small {
    /// `None` if this kernel does not know it; that is said.
    pub(crate) fn new(kind: &str) -> Option<Self> {
        let dir = TempDir::with_prefix_in("real", env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mount = match kind {
            "ext4" => Mount::ext4(dir.path()),
            "xfs" => Mount::xfs(dir.path(), 320 << 20),
            _ => Mount::btrfs(dir.path(), 128 << 20),
        };
        Some(Self { mount: mount?, _dir: dir })
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.mount.path(name).to_str().expect("plain").to_owned()
    }

    fn filler(&self) -> PathBuf {
        self.mount.path("filler")
    }

    /// Until nothing more fits, not the smallest file.
    pub(crate) fn fill(&self) {
        let mut all = File::create(self.filler()).expect("made");
        for size in [1 << 20, 64 << 10, 4 << 10, 512] {
            let piece = vec![0x5a; size];
            loop {
                match all.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the file system fills up: {error}"),
                }
            }
            // What was only promised is taken now.
            let _ = all.sync_all();
        }
    }

    /// There is room again.
    pub(crate) fn drain(&self) {
        fs::remove_file(self.filler()).expect("removed");
        tool(Command::new("sync").arg("--file-system").arg(self.mount.path("")));
    }

    /// Nobody writes there until the result is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        let dir = self.mount.path("");
        tool(Command::new("fsfreeze").arg("--freeze").arg(&dir));
        Frozen(dir)
    }
}

/// A frozen file system.
pub(crate) struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).output();
    }
}
