use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};
use tempfile::NamedTempFile;

/// A file of zeroes, to put something into and to look at.
pub(crate) struct Image {
    file: NamedTempFile,
}

impl Image {
    pub(crate) fn new(len_bytes: u64) -> Self {
        let file = NamedTempFile::new().expect("a file");
        file.as_file().set_len(len_bytes).expect("grown");
        Self { file }
    }

    fn file(&self) -> &File {
        self.file.as_file()
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn len(&self) -> u64 {
        self.file().metadata().expect("known").len()
    }

    /// From the end, if `at` is negative.
    pub(crate) fn put(&self, at: i64, bytes: &[u8]) {
        let at = if at < 0 { self.len() - at.unsigned_abs() } else { at.unsigned_abs() };
        self.file().write_all_at(bytes, at).expect("written");
    }

    pub(crate) fn fill(&self, byte: u8) {
        let len = usize::try_from(self.len()).expect("small");
        self.file().write_all_at(&vec![byte; len], 0).expect("written");
    }

    /// What `blkid` says, empty if nothing.
    pub(crate) fn blkid(&self, tag: &str) -> String {
        let said = Command::new("blkid")
            .args(["-p", "-o", "value", "-s", tag])
            .arg(self.path())
            .output()
            .expect("blkid is in util-linux");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

impl Device for Image {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let mut bytes = vec![0; len];
        self.file().read_exact_at(&mut bytes, at)?;
        Ok(Buffer::copy_of(&bytes))
    }

    async fn write(&self, _: u64, _: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: Allocation) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}
