use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, OFlags};

use super::descent::Descent;
use super::error::{OpenError, User, refusal};
use super::locks::patiently;
use super::loops::others;
use super::mode::Mode;
use super::threads::need_runtime;
use crate::device::ioctl::{is_open, is_open_for_writing, is_read_only};

/// A file or disk that is open, and surely what it is said to be.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: fs::File,
    pub(super) is_disk: bool,
    pub(super) descent: Descent,
    /// Why nobody may write to it, where [`Mode::Share`] was asked for: then it is open for reading alone.
    pub(super) not_writable: Option<String>,
}

/// Opens what `path` leads to, without locks. Everything is asked of open files, so that nothing can be put
/// in the place of what was looked at.
pub(super) async fn open(path: &Path, mode: Mode) -> Result<Opened, OpenError> {
    /// Somebody replaces the file just now.
    const ATTEMPTS: u32 = 5;
    for _ in 0..ATTEMPTS {
        let mut looked = look(path, mode)?;
        if !matches!(mode, Mode::Write | Mode::Share) {
            return Ok(looked);
        }
        if mode == Mode::Write {
            refuse_read_only(&looked)?;
        } else if let Err(OpenError::ReadOnly(found)) = refuse_unwritable(path, &looked) {
            looked.not_writable = Some(found);
            return Ok(looked);
        }
        patiently(|| refuse_loops(path, &looked.descent)).await?;
        if !looked.is_disk {
            patiently(|| refuse_writers(&looked.file)).await?;
        }
        let exclusive = if looked.is_disk { OFlags::EXCL } else { OFlags::empty() };
        // A disk that is shared is asked for alone, but not kept so.
        let file = open_without_waiting(path, mode == Mode::Write, exclusive);
        let file = file.map_err(|error| refusal(error, mode))?;
        if mode == Mode::Share {
            return Ok(looked);
        }
        if is_one(&looked.file.metadata()?, &file.metadata()?) {
            return Ok(Opened { file, ..looked });
        }
    }
    Err(io::Error::other("it was replaced while it was opened").into())
}

/// Opens for reading. Devices that are not storage are not opened: some mind.
fn look(path: &Path, mode: Mode) -> Result<Opened, OpenError> {
    is_disk(&fs::metadata(path)?)?;
    let file = match open_without_waiting(path, false, OFlags::empty()) {
        // A socket that was put there meanwhile.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(OpenError::NotStorage);
        }
        other => other.map_err(|error| refusal(error, mode))?,
    };
    let metadata = file.metadata()?;
    let is_disk = is_disk(&metadata)?;
    let descent = Descent::of(&metadata, Some(&file));
    Ok(Opened { file, is_disk, descent, not_writable: None })
}

fn is_disk(metadata: &Metadata) -> Result<bool, OpenError> {
    match metadata.file_type() {
        kind if kind.is_block_device() => Ok(true),
        kind if kind.is_file() => Ok(false),
        _ => Err(OpenError::NotStorage),
    }
}

pub(super) fn is_one(a: &Metadata, b: &Metadata) -> bool {
    let what = |it: &Metadata| (it.dev(), it.ino(), it.rdev());
    what(a) == what(b)
}

/// Without waiting for anybody at the other end of a pipe. Requests wait as they should.
fn open_without_waiting(path: &Path, write: bool, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&file, flags)?;
    Ok(file)
}

/// Opens what `held` is once more, for writing, as [`open`] would for [`Mode::Write`].
pub(super) fn open_for_writing(
    path: &Path,
    held: &fs::File,
    (is_disk, descent): (bool, &Descent),
) -> Result<fs::File, OpenError> {
    refuse_loops(path, descent)?;
    if !is_disk {
        refuse_writers(held)?;
    }
    let exclusive = if is_disk { OFlags::EXCL } else { OFlags::empty() };
    let number = format!("/proc/self/fd/{}", held.as_raw_fd());
    let opened = match open_without_waiting(Path::new(&number), true, exclusive) {
        // Where no `/proc` is mounted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            open_without_waiting(path, true, exclusive)
        }
        opened => opened,
    };
    let file = opened.map_err(|error| refusal(error, Mode::Write))?;
    match is_one(&held.metadata()?, &file.metadata()?) {
        true => Ok(file),
        false => Err(io::Error::other("it was replaced since it was opened").into()),
    }
}

/// Root may write to anything, but what says that nobody should is left alone.
fn refuse_read_only(looked: &Opened) -> Result<(), OpenError> {
    if looked.is_disk {
        return match is_read_only(&looked.file) {
            Ok(true) => Err(OpenError::ReadOnly("the disk is set so".into())),
            // Opening will say what is wrong.
            _ => Ok(()),
        };
    }
    let mode = looked.file.metadata()?.mode() & 0o7777;
    match mode & 0o222 {
        0 => Err(OpenError::ReadOnly(format!("its mode is {mode:04o}"))),
        _ => Ok(()),
    }
}

/// The same, and what the system does not let this user write.
fn refuse_unwritable(path: &Path, looked: &Opened) -> Result<(), OpenError> {
    refuse_read_only(looked)?;
    let may = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    match may.map_err(|errno| refusal(errno.into(), Mode::Share)) {
        Err(refused @ OpenError::ReadOnly(_)) => Err(refused),
        Err(OpenError::System(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(OpenError::ReadOnly("this user may not write to it".into()))
        }
        // Or it cannot be found out here.
        _ => Ok(()),
    }
}

fn refuse_loops(path: &Path, descent: &Descent) -> Result<(), OpenError> {
    match others(path, descent).into_iter().next() {
        None => Ok(()),
        Some(found) => Err(OpenError::InUse(User::Loop(found.node))),
    }
}

/// Those who take no lock.
fn refuse_writers(file: &fs::File) -> Result<(), OpenError> {
    match is_open_for_writing(file) {
        Ok(true) => Err(OpenError::InUse(User::Writer)),
        // Or it cannot be found out here.
        _ => Ok(()),
    }
}

/// Whether anybody has this regular file open, for reading or writing, as far as that can be found out. Who
/// has keeps reading what is written to it later, whatever its mode and owner are then.
///
/// # Errors
///
/// [`OpenError`], if it cannot be opened for reading.
pub async fn is_open_elsewhere(path: &Path) -> Result<bool, OpenError> {
    need_runtime()?;
    let looked = look(path, Mode::Look)?;
    let attempt = || match is_open(&looked.file) {
        Ok(true) => Err(OpenError::InUse(User::Writer)),
        _ => Ok(()),
    };
    Ok(!looked.is_disk && patiently(attempt).await.is_err())
}
