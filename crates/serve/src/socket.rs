use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use compio::time::sleep;
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, chownat, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// How often, and how long after each other, a name in use is looked at again: a server that was killed a
/// moment ago still listens until the system has cleared up its ring.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Who can connect to a Unix socket besides root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    mode: u32,
    group: Option<u32>,
}

impl SocketAccess {
    /// The owner of the process alone.
    pub const OWNER: Self = Self { mode: 0o600, group: None };

    /// Those whom the bits of `mode` let write (such as 0o660), whatever the umask is; the file belongs to the group of
    /// that number, or to the one that the system gives it.
    pub const fn new(mode: u32, group: Option<u32>) -> Self {
        Self { mode: mode & 0o777, group }
    }
}

impl Default for SocketAccess {
    fn default() -> Self {
        Self::OWNER
    }
}

/// A Unix socket that only its owner can connect to. Its file is removed on drop.
#[derive(Debug)]
pub struct OwnerSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket that was made here. On drop it is removed, if it still is that file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file that was made.
    made: (u64, u64),
}

impl OwnerSocket {
    /// Listens on a new socket file of mode 0600. It has that mode from the first moment on: Linux
    /// takes it from the socket itself, less the umask.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] if the file is there; any error of the system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Self::bind_for(path, SocketAccess::OWNER)
    }

    /// The same, for others as well. Until the file is theirs nobody listens.
    fn bind_for(path: &Path, access: SocketAccess) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let metadata = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), made: (metadata.dev(), metadata.ino()) };
        let made = Self { listener: UnixListener::from(socket), file };
        if metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("the socket would be open for others"));
        }
        if access != SocketAccess::OWNER {
            made.file.open_for(access)?;
        }
        listen(&made.listener, BACKLOG)?;
        Ok(made)
    }

    /// The same, where a socket file that nobody listens on any more is taken over.
    ///
    /// Who takes one over holds the lock of its folder meanwhile, so that of two servers that find the same
    /// stale file one does not remove what the other has just made.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn take(path: &Path) -> io::Result<Self> {
        Self::take_for(path, SocketAccess::OWNER)
    }

    fn take_for(path: &Path, access: SocketAccess) -> io::Result<Self> {
        match Self::bind_for(path, access) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
                let folder = File::open(folder.unwrap_or(Path::new(".")))?;
                // A file system without locks: then there is no lock.
                let locked = flock(&folder, FlockOperation::NonBlockingLockExclusive);
                if locked == Err(rustix::io::Errno::WOULDBLOCK) {
                    return Err(error);
                }
                if is_stale(path) {
                    fs::remove_file(path)?;
                }
                Self::bind_for(path, access)
            }
            other => other,
        }
    }

    /// As [`take`](Self::take). A server that was killed a moment ago is given a second to end.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub async fn take_patiently(path: &Path) -> io::Result<Self> {
        Self::take_patiently_for(path, SocketAccess::OWNER).await
    }

    pub(crate) async fn take_patiently_for(path: &Path, access: SocketAccess) -> io::Result<Self> {
        for _ in 0..TRIES {
            match Self::take_for(path, access) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_socket(path) => {
                    sleep(PAUSE).await;
                }
                other => return other,
            }
        }
        Self::take_for(path, access)
    }

    /// The listener, for another thread.
    pub(crate) fn duplicate(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// The listener, and what removes its file.
    pub(crate) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    /// Lets others connect to what was made, and to nothing that somebody has put in its place meanwhile.
    fn open_for(&self, access: SocketAccess) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let found = file.metadata()?;
        if (found.dev(), found.ino()) != self.made {
            return Err(io::Error::other("somebody has replaced the socket"));
        }
        if let Some(group) = access.group {
            let group = Some(Gid::from_raw(group));
            chownat(&file, "", None, group, AtFlags::EMPTY_PATH)?;
        }
        // The mode of what a descriptor of that kind stands for can be changed by its name alone.
        let mode = || fs::Permissions::from_mode(access.mode);
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        match fs::set_permissions(name, mode()) {
            // Nothing is mounted at /proc.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::set_permissions(&self.path, mode())
            }
            other => other,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Not what somebody else may have put in its place meanwhile.
        let now = fs::symlink_metadata(&self.path).map(|it| (it.dev(), it.ino()));
        if now.is_ok_and(|now| now == self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// Any other file refuses connections, too, and is nobody's to remove.
fn is_stale(path: &Path) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket(path) && UnixStream::connect(path).is_err_and(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_can_connect_and_what_is_stale_is_taken_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let first = OwnerSocket::take(&path).expect("bound");
        assert_eq!(fs::symlink_metadata(&path).expect("there").mode() & 0o7777, 0o600);
        let busy = OwnerSocket::take(&path).expect_err("somebody listens");
        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
        let listener = first.duplicate().expect("duplicated");
        drop(first);
        assert!(!path.exists(), "removed");
        drop(listener);

        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "left where it was");
        let second = OwnerSocket::take(&path).expect("taken over");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "precious").expect("written");
        drop(second);
        assert!(path.exists(), "not ours any more");
        assert!(OwnerSocket::take(&path).is_err(), "no socket");
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
    }

    #[test]
    fn a_socket_is_open_for_those_it_is_meant_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let group = rustix::process::getegid().as_raw();
        let access = SocketAccess::new(0o666, Some(group));
        let _bound = OwnerSocket::take_for(&path, access).expect("bound");
        let metadata = fs::symlink_metadata(&path).expect("there");
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o666, group));
    }

    #[test]
    fn a_stale_socket_is_not_taken_over_while_another_server_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).expect("bound"));
        let folder = File::open(dir.path()).expect("a directory");
        flock(&folder, FlockOperation::NonBlockingLockExclusive).expect("locked");
        let busy = OwnerSocket::take(&path).expect_err("another one is at it");
        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
        drop(folder);
        OwnerSocket::take(&path).expect("taken over");
    }
}
