use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, OFlags, Uid};

/// Who may use a new file. Never more than may use what its content comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Of what the content comes from; `None`: nobody but the user who makes the file may use it.
    like: Option<Like>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Like {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Access {
    /// As for the file or disk at `path`.
    ///
    /// # Errors
    ///
    /// Whatever `stat` says.
    pub fn like(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    /// As for the file or disk that this metadata is of.
    pub fn of(metadata: &Metadata) -> Self {
        let like = Like { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid() };
        Self { like: Some(like) }
    }

    /// The user it belongs to, if that is known.
    pub fn uid(&self) -> Option<u32> {
        self.like.map(|it| it.uid)
    }

    /// What the group and all others may do by `mode`, but not by this: mode bits.
    pub fn exceeded_by(&self, mode: u32) -> u32 {
        let own = self.like.map_or(0, |it| it.mode);
        // What all may do the group may do.
        let own = own | (own & 0o006) << 3;
        mode & 0o066 & !own
    }

    /// Gives a file that nobody but its owner may use to whom it is for. Who cannot give it away keeps it, and
    /// then its group gets no more than all others.
    fn give(self, file: &fs::File) -> io::Result<()> {
        let Some(Like { mode, uid, gid }) = self.like else { return Ok(()) };
        let found = file.metadata()?;
        if found.uid() != uid && rustix::process::geteuid().is_root() {
            let _ = rustix::fs::fchown(file, Some(Uid::from_raw(uid)), None);
        }
        if found.gid() != gid {
            let _ = rustix::fs::fchown(file, None, Some(Gid::from_raw(gid)));
        }
        let found = file.metadata()?;
        // Its owner writes to it, also where the content comes from what nobody writes to.
        let mut mode = mode & 0o666 & !umask() | 0o600;
        if found.gid() != gid {
            mode = mode & !0o060 | mode & 0o060 & (mode & 0o006) << 3;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
    }
}

/// What this process keeps from new files. Where that cannot be asked: everything from others.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    told.and_then(|told| u32::from_str_radix(told.trim(), 8).ok()).unwrap_or(0o077)
}

/// Makes an empty file where there is nothing, also no symbolic link. Until it is whole nobody but its owner
/// can open it. Its name is durable when this returns.
///
/// # Ordering
///
/// 1. the file is made, for its owner alone; then its owner, group and mode are set
/// 2. flush of the file
/// 3. flush of the folder it lies in
///
/// A power cut before 3 leaves the file or nothing.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if there is one: nothing is ever overwritten. After an error of any
/// later step the file is removed again.
pub fn new_file(path: &Path, access: Access) -> io::Result<fs::File> {
    let file = make(path, access)?;
    match file.sync_all().and_then(|()| sync_folder_of(path, &file)) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// The file alone, nothing of it durable. After an error it is gone again.
fn make(path: &Path, access: Access) -> io::Result<fs::File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    match access.give(&file) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Makes a file of this content where there is nothing. A process that is killed, and a power cut, leave all of it
/// or nothing under this name; durable when this returns.
///
/// # Ordering
///
/// 1. a file of another name, which begins with `.dmsnap-`, in the same folder: made, written, flushed
/// 2. it gets its name, unless something has it
/// 3. flush of the folder
///
/// A crash before 2 may leave the file of the other name.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if there is one: nothing is ever overwritten. After an error of 3 the
/// whole file is there, but perhaps not after a power cut.
pub fn new_file_of(path: &Path, access: Access, content: &[u8]) -> io::Result<()> {
    let mut made = tempfile::Builder::new()
        .prefix(".dmsnap-")
        .make_in(folder_of(path), |path| make(path, access))?;
    made.write_all(content)?;
    made.as_file().sync_all()?;
    let file = made.persist_noclobber(path)?;
    sync_folder_of(path, &file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the name of a new file durable.
fn sync_folder_of(path: &Path, file: &fs::File) -> io::Result<()> {
    let synced = fs::File::open(folder_of(path)).and_then(|it| it.sync_all());
    match synced {
        Ok(()) => Ok(()),
        // One that may be written to but not read, or a file system that flushes no folders.
        Err(_) => Ok(rustix::fs::syncfs(file)?),
    }
}
