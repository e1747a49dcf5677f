//! Files and disks that the command line names, opened or made.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::ValueEnum;
use dmsnap::device::{Access, Caching, Device, File, Identity, Mode, OpenError};
use dmsnap::format::StoreId;

use crate::refusals::{open_failure, warn};
use crate::report::Failure;

/// Whether the page cache is used
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Io {
    /// Around the page cache, where the device can
    #[default]
    Direct,
    /// Through the page cache
    Buffered,
}

impl From<Io> for Caching {
    fn from(io: Io) -> Self {
        match io {
            Io::Direct => Self::Direct,
            Io::Buffered => Self::Buffered,
        }
    }
}

/// A name for a store that no other has.
pub(crate) fn new_id() -> Result<StoreId, Failure> {
    loop {
        let mut bytes = [0; 16];
        let drawn = getrandom::fill(&mut bytes);
        drawn.map_err(|error| Failure::of("random numbers", error))?;
        if let Some(id) = StoreId::new(bytes) {
            return Ok(id);
        }
    }
}

/// Opens a file or a disk, and warns of what may go wrong with it.
pub(crate) async fn open_file(path: &Path, mode: Mode, caching: Caching) -> Result<File, Failure> {
    Ok(dmsnap_images::open_file(path, mode, caching, warn).await?)
}

/// A file made by this command. Removed again when dropped, unless it was finished.
#[derive(Debug)]
pub(crate) struct NewFile<'a> {
    path: &'a Path,
    /// None once it is to stay.
    identity: Option<Identity>,
}

impl<'a> NewFile<'a> {
    /// All hole, for those who may have what its content comes from. Nothing that exists is touched.
    pub(crate) async fn create(
        path: &'a Path,
        len_bytes: u64,
        caching: impl Into<Caching>,
        access: Access,
    ) -> Result<(File, Self), Failure> {
        Self::of(path, File::create_new(path, len_bytes, caching.into(), access).await)
    }

    /// The same, for a file whose parts are written again and again.
    pub(crate) async fn create_in_place(
        path: &'a Path,
        len_bytes: u64,
        caching: impl Into<Caching>,
        access: Access,
    ) -> Result<(File, Self), Failure> {
        Self::of(path, File::create_in_place(path, len_bytes, caching.into(), access).await)
    }

    fn of(path: &'a Path, made: Result<File, OpenError>) -> Result<(File, Self), Failure> {
        let file = made.map_err(|error| create_failure(path, &error))?;
        let identity = file.identity().map_err(|error| Failure::about(path, error))?;
        Ok((file, Self { path, identity: Some(identity) }))
    }

    /// It is what it was to become.
    pub(crate) fn keep(mut self) {
        self.identity = None;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // Not what somebody else may have put in its place meanwhile.
        if self.identity.is_some() && Identity::of(self.path).ok() == self.identity {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn create_failure(path: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::System(error) if error.kind() == ErrorKind::NotFound => {
            Failure::about(path, "its directory does not exist").advise("make it first")
        }
        OpenError::System(error) if error.kind() == ErrorKind::AlreadyExists => {
            Failure::about(path, "exists already").advise("remove it, or choose another name")
        }
        OpenError::System(error) => {
            Failure::about(path, format_args!("cannot make this file: {error}"))
        }
        error => open_failure(path, error),
    }
}

/// A new file that is written from front to back. Removed again when dropped, unless it was finished.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    path: &'a Path,
    to: BufWriter<fs::File>,
    is_finished: bool,
}

impl<'a> Written<'a> {
    /// Nothing that exists is touched.
    pub(crate) fn create(path: &'a Path) -> Result<Self, Failure> {
        let made = fs::File::create_new(path);
        let file = made.map_err(|error| create_failure(path, &OpenError::System(error)))?;
        Ok(Self { path, to: BufWriter::new(file), is_finished: false })
    }

    /// It is whole: makes it durable, and its name too.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let failure = |error| Failure::about(self.path, format_args!("cannot write: {error}"));
        self.to.flush().and_then(|()| self.to.get_ref().sync_all()).map_err(failure)?;
        sync_folder(self.path).map_err(failure)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Write for Written<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(self.path);
        }
    }
}

/// Makes a file of this content, in the place of one that is there. `mode` is subject to the umask.
///
/// # Ordering
///
/// 1. `PATH.new` is written and flushed: what another such call has left there is removed before
/// 2. it is renamed to PATH
/// 3. the folder is flushed
///
/// A crash before 2 leaves what was there, and perhaps a part of `PATH.new`. One between 2 and 3 leaves the old content
/// or the new one. No crash leaves a part of a content at PATH.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    sync_folder(path)
}

/// Makes the name of a file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What is there, or a new file of `wanted` bytes. What is there must have that size, if one is
/// wanted.
pub(crate) async fn open_or_make(
    path: &Path,
    wanted: Option<u64>,
    caching: Caching,
    access: Access,
) -> Result<(File, Option<NewFile<'_>>), Failure> {
    match (File::open(path, Mode::Write, caching).await, wanted) {
        (Err(OpenError::System(error)), Some(size)) if error.kind() == ErrorKind::NotFound => {
            let (file, new) = NewFile::create_in_place(path, size, caching, access).await?;
            Ok((file, Some(new)))
        }
        (Err(OpenError::System(error)), None) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::about(path, error).advise("to make a new file, give its --size"))
        }
        (Err(error), _) => Err(open_failure(path, &error)),
        (Ok(file), None) => {
            dmsnap_images::warnings(path, &file, Mode::Write).iter().for_each(warn);
            Ok((file, None))
        }
        (Ok(file), Some(wanted)) => {
            let found = file.len_bytes().map_err(|error| Failure::about(path, error))?;
            match found == wanted {
                true => Ok((file, None)),
                false => Err(Failure::about(
                    path,
                    format_args!("exists and has {found} bytes, not {wanted}"),
                )
                .advise("leave out --size to use it as it is")),
            }
        }
    }
}
