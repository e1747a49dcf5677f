use std::path::Path;

use dmsnap::device::{Caching, Device, File, Mode, loops_on};
use dmsnap::signature;

use crate::error::{ImageError, ImageErrorKind};

/// Hears what may go wrong with something that can be used all the same.
pub type Warn = fn(&ImageError);

/// Opens a file or a disk. What [`warnings`] finds goes to `warn`.
///
/// # Errors
///
/// Whatever [`File::open`] refuses.
pub async fn open_file(
    path: &Path,
    mode: Mode,
    caching: Caching,
    warn: Warn,
) -> Result<File, ImageError> {
    let file = File::open(path, mode, caching).await;
    let file = file.map_err(|error| ImageError::about(path, ImageErrorKind::Open(error)))?;
    warnings(path, &file, mode).iter().for_each(warn);
    Ok(file)
}

/// What may go wrong although a file could be opened: that others write to it unnoticed.
pub fn warnings(path: &Path, file: &File, mode: Mode) -> Vec<ImageError> {
    let unlocked = (!file.is_locked()).then_some(ImageErrorKind::NotLocked);
    // Locks say nothing about what a kernel has mounted or mapped. Who writes was refused.
    let others = match mode {
        Mode::Read | Mode::Share => loops_on(path).unwrap_or_default(),
        Mode::Look | Mode::Write => Vec::new(),
    };
    let in_use = others.into_iter().find(|it| it.is_claimed);
    let in_use = in_use.map(|it| ImageErrorKind::InUse { through: it.node });
    unlocked.into_iter().chain(in_use).map(|kind| ImageError::about(path, kind)).collect()
}

/// Refuses one disk of a RAID, which must not be written without the others.
///
/// # Errors
///
/// [`ImageErrorKind::RaidMember`]; [`ImageErrorKind::Io`] if the device does not tell its size.
pub async fn refuse_raid_member(path: &Path, device: &impl Device) -> Result<(), ImageError> {
    let len = device.len_bytes().map_err(ImageError::io(path))?;
    match signature::raid_member(device, 0..len).await {
        None => Ok(()),
        Some(found) => Err(ImageError::about(path, ImageErrorKind::RaidMember(found))),
    }
}
