use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::open::is_one;
use crate::device::interface::Change;

/// What can be seen of a file from outside, to tell whether somebody has changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    len_bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Trace {
    /// As it is now.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            len_bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// What was done to an open file since, whose name is `path`.
    pub(super) fn change(self, file: &fs::File, path: &Path) -> io::Result<Option<Change>> {
        let metadata = file.metadata()?;
        let now = Self::of(&metadata);
        if now.len_bytes != self.len_bytes {
            return Ok(Some(Change::Size { then: self.len_bytes, now: now.len_bytes }));
        }
        if now.written != self.written {
            return Ok(Some(Change::Written));
        }
        if !fs::metadata(path).is_ok_and(|named| is_one(&named, &metadata)) {
            return Ok(Some(Change::Replaced));
        }
        Ok((now.changed != self.changed).then_some(Change::Attributes))
    }
}
