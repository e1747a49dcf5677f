use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use dmsnap::device::Identity;

use crate::files::replace;
use crate::report::Failure;

/// The file with the number of this process. Removed on drop, if it still is that file.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    written: Option<Identity>,
}

impl PidFile {
    /// Takes the place of what is there; a reader finds the old file or the new one, whole.
    pub(super) fn write(path: &Path) -> Result<Self, Failure> {
        // The server may have gone elsewhere when it ends.
        let path = std::path::absolute(path).map_err(|error| Failure::about(path, error))?;
        let written = replace(&path, format!("{}\n", process::id()).as_bytes(), 0o644);
        written.map_err(|error| Failure::about(&path, format!("cannot write: {error}")))?;
        let written = Identity::of(&path).ok();
        Ok(Self { path, written })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Not that of a server which has started meanwhile.
        if self.written.is_some() && Identity::of(&self.path).ok() == self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
